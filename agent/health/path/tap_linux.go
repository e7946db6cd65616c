package path

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tap is a packet socket on the interface that reads answers, and sends what
// goes to a MAC. It reads packets from their IP header on (SOCK_DGRAM).
type tap struct {
	file  *os.File
	conn  syscall.RawConn
	index int
}

// openTap opens it in the calling thread's network namespace. Only TCP to the
// ports of the range reaches it.
func openTap(iface string, first, last uint16) (*tap, error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", iface, err)
	}
	// No protocol yet: nothing may arrive before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EPERM) {
		return nil, ErrPermission
	}
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := setUpTap(fd, link.Index, first, last); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", iface, err)
	}
	t := &tap{file: os.NewFile(uintptr(fd), "probes:"+iface), index: link.Index}
	if t.conn, err = t.file.SyscallConn(); err != nil {
		_ = t.file.Close()
		return nil, err
	}
	return t, nil
}

func setUpTap(fd, index int, first, last uint16) error {
	filter, err := answerFilter(first, last)
	if err != nil {
		return err
	}
	if err := attachFilter(fd, filter); err != nil {
		return fmt.Errorf("attach the filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return fmt.Errorf("ask for the checksums' state: %w", err)
	}
	// All protocols, since such sockets get packets even on a bridge's port, which
	// hands them on before it looks at who wants IP.
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index})
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// answerFilter passes TCP that came in and is for a port of the range.
func answerFilter(first, last uint16) ([]unix.SockFilter, error) {
	const refuse = 255 // the jumps to the end, which are put right below
	program := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: refuse},
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: refuse},
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolTCP, SkipTrue: refuse},
		bpf.LoadMemShift{Off: 0}, // the header's length
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.Jump{Skip: 3},
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolTCP, SkipTrue: refuse},
		bpf.LoadAbsolute{Off: ipv6Header + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(first), SkipTrue: refuse},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(last), SkipTrue: refuse},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	}
	for i, instruction := range program {
		if jump, ok := instruction.(bpf.JumpIf); ok && jump.SkipTrue == refuse {
			jump.SkipTrue = uint8(len(program) - 1 - (i + 1))
			program[i] = jump
		}
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
}

// What struct tpacket_auxdata's status says of checksums (linux/if_packet.h).
const (
	checksumPending = 1 << 3 // TP_STATUS_CSUMNOTREADY: the sender, on this machine, left it out
	checksumValid   = 1 << 7 // TP_STATUS_CSUM_VALID
)

// read calls take with each segment until the tap is closed.
func (t *tap) read(take func(segment)) error {
	buffer := make([]byte, 1<<16) // GRO makes packets as big as IP allows
	control := make([]byte, 128)
	for {
		var n, controlLength int
		var fault error
		err := t.conn.Read(func(fd uintptr) bool {
			n, controlLength, _, _, fault = unix.Recvmsg(int(fd), buffer, control, 0)
			return !errors.Is(fault, unix.EAGAIN)
		})
		if err != nil {
			return err
		}
		if errors.Is(fault, unix.EINTR) {
			continue
		}
		if errors.Is(fault, unix.ENETDOWN) {
			// It went down, and the socket hears of it again when it is up, or was removed.
			if gone := t.usable(); errors.Is(gone, unix.ENODEV) {
				return gone
			}
			continue
		}
		if fault != nil {
			return fmt.Errorf("read answers: %w", fault)
		}
		verify := checksumState(control[:controlLength])&(checksumPending|checksumValid) == 0
		if s, ok := parse(buffer[:n], verify); ok {
			s.payload = append([]byte(nil), s.payload...)
			take(s)
		}
	}
}

func checksumState(control []byte) uint32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	return 0
}

// usable says what keeps the interface from being used. It asks by the tap's own
// socket, which is in the interface's network namespace, whatever thread this is.
func (t *tap) usable() error {
	request, err := unix.NewIfreq("unnamed")
	if err != nil {
		return err
	}
	request.SetUint32(uint32(t.index))
	var fault error
	err = t.conn.Control(func(fd uintptr) {
		if fault = unix.IoctlIfreq(int(fd), unix.SIOCGIFNAME, request); fault == nil {
			fault = unix.IoctlIfreq(int(fd), unix.SIOCGIFFLAGS, request)
		}
	})
	switch {
	case err != nil:
		return err
	case fault != nil:
		return fmt.Errorf("the interface was removed: %w", fault)
	case request.Uint16()&unix.IFF_UP == 0:
		return fmt.Errorf("the interface is down: %w", unix.ENETDOWN)
	}
	return nil
}

// send sends a packet to a MAC.
func (t *tap) send(packet []byte, to net.HardwareAddr, family netip.Addr) error {
	protocol := uint16(unix.ETH_P_IP)
	if family.Is6() {
		protocol = unix.ETH_P_IPV6
	}
	address := &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: t.index, Halen: uint8(len(to))}
	copy(address.Addr[:], to)
	var fault error
	err := t.conn.Control(func(fd uintptr) { fault = unix.Sendto(int(fd), packet, 0, address) })
	return errors.Join(err, fault)
}

func (t *tap) close() error { return t.file.Close() }
