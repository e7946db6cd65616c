package bpf

import _ "embed"

//go:embed windows/lb.o
var windowsLB []byte

//go:embed windows/decap_xdp.o
var windowsDecapXDP []byte

// WindowsObjects returns the ELF objects for eBPF for Windows 0.21 (hook
// XDP_TEST) under the file names that a Windows build machine gives to
// Convert-BpfToNative, or a JIT build to netsh: "lb.o" and "decap_xdp.o". They are
// not interchangeable with the Linux objects: helper numbers, map types,
// context layout and action values differ.
func WindowsObjects() map[string][]byte {
	return map[string][]byte{
		"lb.o":        windowsLB,
		"decap_xdp.o": windowsDecapXDP,
	}
}
