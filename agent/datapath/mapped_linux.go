package datapath

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// windowSize is the address space of a window, in bytes.
const windowSize = 64 << 20

// window writes arrays of BPF_F_MMAPABLE (Linux 5.5) through memory: the kernel takes
// many times as long when it is told of each entry. Arrays are unmapped together, since
// each unmapping interrupts the other processors.
type window struct {
	base unsafe.Pointer
	used uintptr
}

// write fills an array that no program has yet; done is false when it is not of that kind.
func (w *window) write(array *ebpf.Map, table []uint32) (done bool, err error) {
	page := os.Getpagesize()
	// A value is two slots, in the 8 bytes that arrays round values up to (array_map_alloc).
	length := uintptr((8*((len(table)+1)/2) + page - 1) / page * page)
	if array.Flags()&unix.BPF_F_MMAPABLE == 0 || len(table) == 0 || length > windowSize {
		return false, nil
	}
	if w.used+length > windowSize {
		if err := w.close(); err != nil {
			return false, err
		}
	}
	if w.base == nil {
		w.base, err = unix.MmapPtr(-1, 0, nil, windowSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return false, fmt.Errorf("reserve addresses: %w", err)
		}
	}
	memory, err := unix.MmapPtr(array.FD(), 0, unsafe.Add(w.base, w.used), length,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	if err != nil {
		return false, fmt.Errorf("map its memory: %w", err)
	}
	w.used += length
	copy(unsafe.Slice((*uint32)(memory), len(table)), table)
	return true, nil
}

func (w *window) close() error {
	if w.base == nil {
		return nil
	}
	base := w.base
	w.base, w.used = nil, 0
	return unix.MunmapPtr(base, windowSize)
}
