// Package bpf is the data path: the balancer's and the backends' eBPF programs,
// compiled from one C source for Linux and Windows, embedded, and typed for Go.
//
// Three programs do the work:
//
//   - lb (lb.c, XDP on the balancer) sends a VIP's packets to a backend, either
//     inside an outer IPv4 header (DSR, RFC 2003) or with translated addresses
//     (SNAT), and brings SNAT's replies back. Everything else passes untouched.
//   - decap_xdp (decap_xdp.c, XDP on a Windows backend) strips DSR's outer header.
//   - decap_tc (decap_tc.c, TC ingress on a Linux backend) does the same.
//
// [LoadLB], [LoadDecapXDP] and [LoadDecapTC] return the Linux programs as
// [ebpf.CollectionSpec]; the LB…, DecapXDP… and DecapTC… types are the C
// structs of lib/types.h, read from the objects' BTF. Their addresses and ports
// are in network order, which for a uint32 or uint16 means the bytes as they lie
// in the packet. [WindowsObjects] are the same programs for eBPF for Windows 0.21.
//
// All configuration goes through maps: an object serves every mode and interface,
// and a balancer whose `config` map is empty passes every packet. Maps are
// explained in lib/maps.h, the order in which a packet meets them in lb.c.
package bpf

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// xdpPass is XDP_PASS of Linux's enum xdp_action.
const xdpPass = 2

// PassProgram returns an XDP program that passes every packet. The
// switch-side peer of the balancer's veth needs one: without a program of its own
// in native mode, a veth discards what its peer sends with XDP_TX.
func PassProgram() *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name:       "pass",
		Type:       ebpf.XDP,
		AttachType: ebpf.AttachXDP,
		License:    "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, xdpPass),
			asm.Return(),
		},
	}
}

// DropReasons returns the names of the reasons for which lb drops packets, each at
// its index in the `drops` map: "malformed_ip", "no_neighbour", …. Index 0 is
// "none", which never counts. The names come from the object's BTF (enum
// drop_reason of lib/types.h).
func DropReasons() ([]string, error) {
	spec, err := LoadLB()
	if err != nil {
		return nil, fmt.Errorf("drop reasons: %w", err)
	}
	var reason *btf.Enum
	if err := spec.Types.TypeByName("drop_reason", &reason); err != nil {
		return nil, fmt.Errorf("drop reasons: BTF of the lb object: %w", err)
	}
	names := make([]string, LBDropReasonDROP_REASON_MAX)
	for _, v := range reason.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, "DROP_"))
		}
	}
	return names, nil
}
