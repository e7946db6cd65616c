package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// wholeFrame is how much of a frame a filter keeps that keeps it: the kernel's
// own bound of what a capture takes (262,144 bytes, as tcpdump has it).
const wholeFrame = 262144

// ExcludeTCP returns a filter that leaves out a server's TCP connections at the
// Ethernet level: what is inside of an IP-in-IP packet stays. A capture that is
// sent over SSH, through the very interface it listens on, would otherwise
// record itself sending, and so never come to rest.
func ExcludeTCP(server netip.AddrPort) ([]Instruction, error) {
	address := server.Addr().Unmap()
	if !address.Is4() {
		return nil, fmt.Errorf("leave out TCP of %s: only IPv4 is known here", server)
	}
	a4 := address.As4()
	host, port := binary.BigEndian.Uint32(a4[:]), uint32(server.Port())
	const (
		etherType  = 12
		ip         = 14
		protocol   = ip + 9
		fragment   = ip + 6
		source     = ip + 12
		dest       = ip + 16
		sourcePort = ip // after the header's own length, which is in X
		destPort   = ip + 2
	)
	raw, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadAbsolute{Off: etherType, Size: 2},
		1:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 13}, // not IPv4: keep
		2:  bpf.LoadAbsolute{Off: protocol, Size: 1},
		3:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 6, SkipTrue: 11}, // not TCP
		4:  bpf.LoadAbsolute{Off: fragment, Size: 2},
		5:  bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 9}, // no ports in a later fragment
		6:  bpf.LoadMemShift{Off: ip},
		7:  bpf.LoadAbsolute{Off: source, Size: 4},
		8:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: host, SkipTrue: 2},
		9:  bpf.LoadIndirect{Off: sourcePort, Size: 2},
		10: bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 5}, // drop
		11: bpf.LoadAbsolute{Off: dest, Size: 4},
		12: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: host, SkipTrue: 2},
		13: bpf.LoadIndirect{Off: destPort, Size: 2},
		14: bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 1}, // drop
		15: bpf.RetConstant{Val: wholeFrame},
		16: bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("leave out TCP of %s: %w", server, err)
	}
	filter := make([]Instruction, len(raw))
	for i, in := range raw {
		filter[i] = Instruction{Op: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return filter, nil
}

// Keep returns the frames that a filter keeps, as the kernel would have kept
// them: for captures that come as files, of tools that take no such filter.
func Keep(frames []Frame, filter []Instruction) ([]Frame, error) {
	program := make([]bpf.Instruction, len(filter))
	for i, in := range filter {
		program[i] = bpf.RawInstruction{Op: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}.Disassemble()
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		return nil, fmt.Errorf("filter frames: %w", err)
	}
	kept := make([]Frame, 0, len(frames))
	for _, f := range frames {
		n, err := vm.Run(f.Data)
		if err != nil {
			return nil, fmt.Errorf("filter frames: %w", err)
		}
		if n > 0 {
			kept = append(kept, f)
		}
	}
	return kept, nil
}
