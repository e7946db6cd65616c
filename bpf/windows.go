package bpf

import _ "embed"

//go:embed windows/efw-0.21/lb.o
var windowsEFWLB []byte

//go:embed windows/efw-0.21/decap_xdp.o
var windowsEFWDecapXDP []byte

//go:embed windows/xdp/lb.o
var windowsXDPLB []byte

// WindowsObjects returns the ELF objects for Windows by profile and file name,
// as a Windows build machine gives them to Convert-BpfToNative, or a JIT build to
// netsh:
//
//   - "efw-0.21/lb.o" and "efw-0.21/decap_xdp.o" for the hook XDP_TEST of eBPF for
//     Windows 0.21, section xdp_test;
//   - "xdp/lb.o" for XDP for Windows with eBPF for Windows 1.0 or newer, section xdp.
//     There is no decapsulation: bpf_xdp_adjust_head always fails there, so only
//     SNAT and DSR of encapsulation l2 work.
//
// They are not interchangeable with the Linux objects: helper numbers, map types,
// context layout and action values differ.
func WindowsObjects() map[string][]byte {
	return map[string][]byte{
		"efw-0.21/lb.o":        windowsEFWLB,
		"efw-0.21/decap_xdp.o": windowsEFWDecapXDP,
		"xdp/lb.o":             windowsXDPLB,
	}
}
