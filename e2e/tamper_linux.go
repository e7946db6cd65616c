package e2e

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/bpf"
)

// The programs below stand in for a broken balancer. They sit at the XDP hook
// of the balancer's port on the switch, where all that the balancer sends comes
// by, before any capture sees it.

// Offsets in a frame: Ethernet, IPv4 without options, in DSR a second IPv4
// header, TCP.
const (
	atSourceMAC   = 6
	atEtherType   = 12
	atIP          = 14
	atTTL         = atIP + 8
	atProtocol    = atIP + 9
	atIPChecksum  = atIP + 10
	atSource      = atIP + 12
	atDestination = atIP + 16
	atInner       = atIP + 20
	ipHeader      = 20

	tcpFlags    = 13 // from TCP's beginning
	tcpChecksum = 16
	tcpHeader   = 20

	protocolIPIP = 4
	protocolTCP  = 6
	flagFIN      = 0x01
	flagPSH      = 0x08

	xdpDrop = 1
	xdpPass = 2
)

// Registers: the packet's beginning survives calls of helpers.
const (
	packet  = asm.R6
	end     = asm.R7
	value   = asm.R3
	scratch = asm.R4
)

// onIPIP passes everything and changes TCP in IP-in-IP.
func onIPIP(change ...asm.Instructions) *ebpf.ProgramSpec {
	return onLargeIPIP(atInner+ipHeader+tcpHeader, change...)
}

// onLargeIPIP is onIPIP for frames of at least a length.
func onLargeIPIP(length int32, change ...asm.Instructions) *ebpf.ProgramSpec {
	return tamper(length, append([]asm.Instructions{
		only(atProtocol, asm.Byte, protocolIPIP), only(atInner+9, asm.Byte, protocolTCP),
	}, change...))
}

// onTCP passes everything and changes plain TCP: what leaves in SNAT.
func onTCP(change ...asm.Instructions) *ebpf.ProgramSpec {
	return onLargeTCP(atInner+tcpHeader, change...)
}

// onLargeTCP is onTCP for frames of at least a length.
func onLargeTCP(length int32, change ...asm.Instructions) *ebpf.ProgramSpec {
	return tamper(length, append([]asm.Instructions{only(atProtocol, asm.Byte, protocolTCP)}, change...))
}

func tamper(length int32, parts []asm.Instructions) *ebpf.ProgramSpec {
	// struct xdp_md: data, data_end.
	code := asm.Instructions{
		asm.LoadMem(packet, asm.R1, 0, asm.Word),
		asm.LoadMem(end, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R2, packet),
		asm.Add.Imm(asm.R2, length),
		asm.JGT.Reg(asm.R2, end, "pass"),
	}
	code = append(code, only(atEtherType, asm.Half, int32(bigEndian(unix.ETH_P_IP)))...)
	for _, p := range parts {
		code = append(code, p...)
	}
	code = append(code,
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("pass"),
		asm.Return(),
	)
	return &ebpf.ProgramSpec{Name: "tamper", Type: ebpf.XDP, License: "GPL", Instructions: code}
}

// bigEndian is a 16-bit number as a load from the packet shows it.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// only passes frames untouched that have another value at an offset.
func only(offset int16, size asm.Size, want int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(value, packet, offset, size),
		asm.JNE.Imm(value, want, "pass"),
	}
}

// address is only for an IPv4 address.
func address(offset int16, a netip.Addr) asm.Instructions {
	var code asm.Instructions
	for i, b := range a.As4() {
		code = append(code, only(offset+int16(i), asm.Byte, int32(b))...)
	}
	return code
}

// from passes packets untouched that have another source.
func from(a netip.Addr) asm.Instructions { return address(atSource, a) }

// flip inverts bits at an offset.
func flip(offset int16, size asm.Size, bits int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(value, packet, offset, size),
		asm.Xor.Imm(value, bits),
		asm.StoreMem(packet, offset, value, size),
	}
}

// set writes bytes at an offset.
func set(offset int16, bytes ...byte) asm.Instructions {
	var code asm.Instructions
	for i, b := range bytes {
		code = append(code, asm.StoreImm(packet, offset+int16(i), int64(b), asm.Byte))
	}
	return code
}

// setSource writes the source address.
func setSource(a netip.Addr) asm.Instructions {
	b := a.As4()
	return set(atSource, b[:]...)
}

// add adds to a byte at an offset.
func add(offset int16, n int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(value, packet, offset, asm.Byte),
		asm.Add.Imm(value, n),
		asm.StoreMem(packet, offset, value, asm.Byte),
	}
}

// swap exchanges two 16-bit words, which no Internet checksum notices.
func swap(a, b int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(value, packet, a, asm.Half),
		asm.LoadMem(scratch, packet, b, asm.Half),
		asm.StoreMem(packet, a, scratch, asm.Half),
		asm.StoreMem(packet, b, value, asm.Half),
	}
}

// sumHeader makes the first IP header's checksum right again (RFC 1071), so
// that the check for checksums is not what finds the change.
func sumHeader() asm.Instructions {
	code := asm.Instructions{
		asm.StoreImm(packet, atIPChecksum, 0, asm.Half),
		asm.Mov.Imm(value, 0),
	}
	for offset := int16(atIP); offset < atInner; offset += 2 {
		code = append(code, asm.LoadMem(scratch, packet, offset, asm.Half), asm.Add.Reg(value, scratch))
	}
	for range 2 {
		code = append(code,
			asm.Mov.Reg(scratch, value), asm.RSh.Imm(scratch, 16),
			asm.And.Imm(value, 0xffff), asm.Add.Reg(value, scratch))
	}
	return append(code, asm.Xor.Imm(value, 0xffff), asm.StoreMem(packet, atIPChecksum, value, asm.Half))
}

// redirect sends to another backend, MAC and outer address, what is for one.
func redirect(from, to netip.Addr, mac net.HardwareAddr) []asm.Instructions {
	t := to.As4()
	return []asm.Instructions{address(atDestination, from), set(atDestination, t[:]...), set(0, mac...), sumHeader()}
}

// having passes frames untouched that have none of some bits at an offset.
func having(offset int16, bits int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(value, packet, offset, asm.Byte),
		asm.And.Imm(value, bits),
		asm.JEq.Imm(value, 0, "pass"),
	}
}

// first passes frames untouched after the first that comes so far: what is
// sent again passes, and the connection lives on.
func first(seen *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(value, asm.R0, 0, asm.Word),
		asm.JNE.Imm(value, 0, "pass"),
		asm.StoreImm(asm.R0, 0, 1, asm.Word),
	}
}

// drop ends a program: the frame is lost.
func drop() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()}
}

// memory is what first remembers by: one number.
func memory() *ebpf.Map {
	GinkgoHelper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "seen", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	Expect(err).NotTo(HaveOccurred())
	return m
}

// onceAtBalancersPort is atBalancersPort for a program that strikes once.
func (s *suite) onceAtBalancersPort(lab string, spec func(seen *ebpf.Map) *ebpf.ProgramSpec) (undo func()) {
	GinkgoHelper()
	seen := memory()
	defer seen.Close() // the program holds it
	return s.atBalancersPort(lab, spec(seen))
}

// atBalancersPort puts a program in the place of the one that passes all;
// undo puts that back.
func (s *suite) atBalancersPort(lab string, spec *ebpf.ProgramSpec) (undo func()) {
	GinkgoHelper()
	s.setPortProgram(lab, spec)
	return func() { s.setPortProgram(lab, bpf.PassProgram()) }
}

func (s *suite) setPortProgram(lab string, spec *ebpf.ProgramSpec) {
	GinkgoHelper()
	program, err := ebpf.NewProgram(spec)
	Expect(err).NotTo(HaveOccurred())
	defer program.Close()
	_, err = in(lab+"-switch", func() (struct{}, error) {
		link, err := netlink.LinkByName("lb")
		if err == nil {
			err = netlink.LinkSetXdpFdWithFlags(link, program.FD(), unix.XDP_FLAGS_DRV_MODE)
		}
		return struct{}{}, err
	})
	Expect(err).NotTo(HaveOccurred())
}

// duplicate has every IPv4 frame of the balancer's port arrive twice: a copy
// goes in again, marked so that it is not copied itself.
func duplicate(ifindex int) *ebpf.ProgramSpec {
	const (
		mark, protocol = 8, 16 // struct __sk_buff
		ingress        = 1     // BPF_F_INGRESS
	)
	return &ebpf.ProgramSpec{Name: "duplicate", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMem(value, asm.R1, mark, asm.Word),
		asm.JNE.Imm(value, 0, "ok"),
		asm.LoadMem(value, asm.R1, protocol, asm.Word),
		asm.JNE.Imm(value, int32(bigEndian(unix.ETH_P_IP)), "ok"),
		asm.StoreImm(asm.R1, mark, 1, asm.Word),
		asm.Mov.Imm(asm.R2, int32(ifindex)),
		asm.Mov.Imm(asm.R3, ingress),
		asm.FnCloneRedirect.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("ok"), // TC_ACT_OK
		asm.Return(),
	}}
}

// duplicating attaches duplicate to the balancer's port.
func (s *suite) duplicating(lab string) (undo func()) {
	GinkgoHelper()
	qdisc := func(index int) *netlink.Clsact {
		return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	}
	withLink(lab+"-switch", "lb", func(h *netlink.Handle, link netlink.Link) error {
		index := link.Attrs().Index
		program, err := ebpf.NewProgram(duplicate(index))
		if err != nil {
			return err
		}
		defer program.Close()
		if err := h.QdiscAdd(qdisc(index)); err != nil {
			return err
		}
		return h.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          program.FD(), Name: "duplicate", DirectAction: true,
		})
	})
	return func() {
		withLink(lab+"-switch", "lb", func(h *netlink.Handle, link netlink.Link) error {
			return h.QdiscDel(qdisc(link.Attrs().Index))
		})
	}
}
