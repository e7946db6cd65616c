package datapath

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/windows"
)

// The attach types' GUIDs: efW 0.21's own XDP_TEST (ebpf_nethooks.h), and the
// hook of XDP for Windows (ebpf_xdp.h).
var (
	attachXDPTest = windows.GUID{
		Data1: 0x0dccc15d, Data2: 0xa5f9, Data3: 0x4dc1,
		Data4: [8]byte{0xac, 0x79, 0xfa, 0x25, 0xee, 0xf2, 0x15, 0xc3},
	}
	attachXDP = windows.GUID{
		Data1: 0x85e0d8ef, Data2: 0x579e, Data3: 0x4931,
		Data4: [8]byte{0xb0, 0x72, 0x8e, 0xe2, 0x26, 0xbb, 0x2e, 0x9d},
	}
)

// attachToInterface calls
//
//	ebpf_result_t ebpf_program_attach_by_fds(fd_t program, const ebpf_attach_type_t *type,
//	                                         void *parameters, size_t size, fd_t *link)
//
// itself, since link.AttachRawLink passes no parameters, which efW 0.21 takes as
// "every interface" and XDP for Windows rejects. The parameter is the
// interface's index as a uint32.
func attachToInterface(program *ebpf.Program, profile Profile, index int) (link.Link, error) {
	var attachType windows.GUID
	switch profile {
	case ProfileEFW021:
		attachType = attachXDPTest
	case ProfileXDP:
		attachType = attachXDP
	default:
		return nil, fmt.Errorf("unknown profile %q: %s or %s", profile, ProfileEFW021, ProfileXDP)
	}
	// The module that cilium/ebpf has loaded already: efW's installer puts its
	// own folder, not System32, on the search path.
	attach := windows.NewLazyDLL("ebpfapi.dll").NewProc("ebpf_program_attach_by_fds")
	if err := attach.Find(); err != nil {
		return nil, fmt.Errorf("ebpfapi.dll of eBPF for Windows 0.21 or newer: %w", err)
	}
	parameter := uint32(index)
	var fd int32
	result, _, _ := attach.Call(
		uintptr(program.FD()),
		uintptr(unsafe.Pointer(&attachType)),
		uintptr(unsafe.Pointer(&parameter)),
		unsafe.Sizeof(parameter),
		uintptr(unsafe.Pointer(&fd)),
	)
	if result != 0 { // EBPF_SUCCESS is 0; the others are listed in ebpf_result.h
		return nil, fmt.Errorf("ebpf_program_attach_by_fds: ebpf_result_t %d", uint32(result))
	}
	return link.NewFromFD(int(fd))
}
