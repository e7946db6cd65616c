package oracle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Frame is a captured Ethernet frame, read.
type Frame struct {
	Data []byte
	// Ether is the type behind the MACs and VLAN tags.
	Ether layers.EthernetType
	// VLAN says that there are tags.
	VLAN bool
	// IPs are its IP headers: one, or of IP-in-IP first the outer and then the inner.
	IPs []IP
	// Protocol is the innermost header's payload, behind extension headers.
	Protocol uint8
	// transport is where that begins in Data, 0 when there is none.
	transport int
	// ports are those of TCP and UDP, 0 in a fragment that has none.
	source, dest uint16
}

// IP is one IP header.
type IP struct {
	Source, Dest netip.Addr
	// at is where it begins in the frame, end where its packet does.
	at, end int
	six     bool
	// offset is the fragment's, in bytes; more says that others follow.
	offset int
	more   bool
	// id is the fragment's.
	id []byte
}

// Fragment says that it is a part of a packet only.
func (ip IP) Fragment() bool { return ip.offset > 0 || ip.more }

var errLength = errors.New("a length lies")

// Read reads a frame. An error says that a header is cut short or lies about a
// length; nothing is said about checksums, which Faults judges.
func Read(data []byte) (Frame, error) {
	f := Frame{Data: data}
	decoded := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	at := 0
	for _, layer := range decoded.Layers() {
		if err := f.add(layer, at); err != nil {
			return f, err
		}
		at += len(layer.LayerContents())
		if f.transport > 0 {
			break // what is quoted by ICMP, or carried by UDP, is no header of this frame
		}
	}
	if len(f.IPs) == 0 {
		if failed := decoded.ErrorLayer(); failed != nil {
			return f, fmt.Errorf("read a frame of %d bytes: %w", len(data), failed.Error())
		}
		return f, nil
	}
	if f.transport == 0 {
		return f, fmt.Errorf("the header inside of the one at byte %d is no IP header", f.Inner().at)
	}
	return f, f.readTransport()
}

// add takes one decoded layer that begins at an offset.
func (f *Frame) add(layer gopacket.Layer, at int) error {
	switch l := layer.(type) {
	case *layers.Ethernet:
		f.Ether = l.EthernetType
	case *layers.Dot1Q:
		f.Ether, f.VLAN = l.Type, true
	case *layers.IPv4:
		if l.IHL < 5 || at+20 > len(f.Data) {
			return fmt.Errorf("IPv4 header of %d words at byte %d: %w", l.IHL, at, errLength)
		}
		ip := IP{Source: addressOf(l.SrcIP), Dest: addressOf(l.DstIP), at: at, end: at + int(binary.BigEndian.Uint16(f.Data[at+2:])), offset: int(l.FragOffset) * 8}
		ip.more, ip.id = l.Flags&layers.IPv4MoreFragments != 0, f.Data[at+4:at+6]
		return f.addIP(ip, uint8(l.Protocol), at+int(l.IHL)*4)
	case *layers.IPv6:
		if at+40 > len(f.Data) {
			return fmt.Errorf("IPv6 header at byte %d of %d: %w", at, len(f.Data), errLength)
		}
		ip := IP{Source: addressOf(l.SrcIP), Dest: addressOf(l.DstIP), at: at, end: at + 40 + int(binary.BigEndian.Uint16(f.Data[at+4:])), six: true}
		return f.addIP(ip, uint8(l.NextHeader), at+40)
	}
	return nil
}

// addIP takes an IP header whose payload begins at an offset.
func (f *Frame) addIP(ip IP, next uint8, payload int) error {
	if ip.end > len(f.Data) || payload > ip.end {
		return fmt.Errorf("IP header at byte %d of %d: %w", ip.at, len(f.Data), errLength)
	}
	if n := len(f.IPs); n > 0 && ip.end > f.IPs[n-1].end {
		return fmt.Errorf("inner IP header at byte %d: %w", ip.at, errLength)
	}
	f.Protocol = next
	if ip.six {
		var err error
		if f.Protocol, payload, err = f.extensions(&ip, next, payload); err != nil {
			return err
		}
	}
	f.IPs = append(f.IPs, ip)
	carriesIP := f.Protocol == 4 || f.Protocol == 41
	if !carriesIP || ip.offset > 0 {
		f.transport = payload
	}
	return nil
}

// extensions passes by IPv6's extension headers (RFC 8200).
func (f *Frame) extensions(ip *IP, next uint8, at int) (uint8, int, error) {
	for next == 0 || next == 43 || next == 44 || next == 60 {
		if at+8 > ip.end {
			return next, at, fmt.Errorf("IPv6 extension header %d at byte %d: %w", next, at, errLength)
		}
		length := 8 + int(f.Data[at+1])*8
		if next == 44 {
			length = 8
			where := binary.BigEndian.Uint16(f.Data[at+2:])
			ip.offset, ip.more, ip.id = int(where&^7), where&1 != 0, f.Data[at+4:at+8]
		}
		next, at = f.Data[at], at+length
		if at > ip.end {
			return next, at, fmt.Errorf("IPv6 extension header before byte %d: %w", at, errLength)
		}
		if ip.offset > 0 {
			break // what follows is no header
		}
	}
	return next, at, nil
}

// minimum are the shortest headers of transports.
var minimum = map[uint8]int{TCP: 20, UDP: 8, ICMP: 8, ICMPv6: 8}

// readTransport reads what stands behind the innermost IP header.
func (f *Frame) readTransport() error {
	ip := f.Inner()
	if ip.offset > 0 {
		return nil
	}
	length := ip.end - f.transport
	if length < minimum[f.Protocol] {
		return fmt.Errorf("%d bytes of transport header: %w", length, errLength)
	}
	l4 := f.Data[f.transport:ip.end]
	switch f.Protocol {
	case TCP:
		if header := int(l4[12]>>4) * 4; header < 20 || header > length {
			return fmt.Errorf("TCP header of %d bytes: %w", header, errLength)
		}
	case UDP:
		if says := int(binary.BigEndian.Uint16(l4[4:])); says < 8 || !ip.more && says > length {
			return fmt.Errorf("UDP length %d of %d: %w", says, length, errLength)
		}
	default:
		return nil
	}
	f.source, f.dest = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	return nil
}

func addressOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

// Inner is the innermost IP header; the frame must have one.
func (f Frame) Inner() IP { return f.IPs[len(f.IPs)-1] }

// IsIP says that there is an IP header.
func (f Frame) IsIP() bool { return len(f.IPs) > 0 }

// Tunnelled says that the frame is IP-in-IP.
func (f Frame) Tunnelled() bool { return len(f.IPs) > 1 }

// Source and Dest are the innermost packet's, port 0 where it has none.
func (f Frame) Source() netip.AddrPort {
	if !f.IsIP() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(f.Inner().Source, f.source)
}

// Dest is where the innermost packet goes.
func (f Frame) Dest() netip.AddrPort {
	if !f.IsIP() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(f.Inner().Dest, f.dest)
}

// Length is the innermost packet's, in bytes of IP.
func (f Frame) Length() int { return f.Inner().end - f.Inner().at }

// MACs are the frame's: to whom and from whom.
func (f Frame) MACs() (to, from net.HardwareAddr) { return f.Data[:6], f.Data[6:12] }

// FragmentID is what a packet's fragments have in common; the frame must be one.
func (f Frame) FragmentID() string {
	ip := f.Inner()
	key := append(ip.Source.AsSlice(), ip.Dest.AsSlice()...)
	return string(append(key, ip.id...))
}

// Payload is what stands behind the innermost transport header.
func (f Frame) Payload() []byte {
	header := minimum[f.Protocol]
	switch {
	case f.Inner().offset > 0:
		header = 0
	case f.Protocol == TCP:
		header = int(f.Data[f.transport+12]>>4) * 4
	}
	return f.Data[f.transport+header : f.Inner().end]
}

// PacketLength is the outermost packet's, in bytes of IP.
func (f Frame) PacketLength() int { return f.IPs[0].end - f.IPs[0].at }

// Has says that a TCP segment has all of some flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
func (f Frame) Has(flags uint8) bool {
	return f.IsIP() && f.Protocol == TCP && f.Inner().offset == 0 && f.Data[f.transport+13]&flags == flags
}

// ICMPType is type and code of an ICMP message of either family, false for anything else.
func (f Frame) ICMPType() (kind, code uint8, ok bool) {
	if !f.IsIP() || f.Protocol != ICMP && f.Protocol != ICMPv6 || f.Inner().offset > 0 {
		return 0, 0, false
	}
	return f.Data[f.transport], f.Data[f.transport+1], true
}

// TTL is that of the innermost header.
func (f Frame) TTL() uint8 {
	if ip := f.Inner(); ip.six {
		return f.Data[ip.at+7]
	}
	return f.Data[f.Inner().at+8]
}
