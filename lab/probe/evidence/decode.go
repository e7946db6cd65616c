// Package evidence reads captured frames: what headers they have, whether
// their checksums are right, and one line that shows a reader all of it.
// It decodes for itself and keeps what it decodes beside the raw bytes, since
// a proof compares bytes.
package evidence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"l4lab/lab/capture"
)

// Protocol numbers (IANA).
const (
	ProtocolIPIP = 4
	ProtocolTCP  = 6
	ProtocolUDP  = 17
)

// EtherTypeIPv4 is the type of frames that carry IPv4.
const EtherTypeIPv4 = 0x0800

// TCP flags.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	PSH = 0x08
	ACK = 0x10
)

// Packet is one decoded frame.
type Packet struct {
	Place capture.Place
	// Index is the frame's position in its place's capture.
	Index  int
	Frame  capture.Frame
	SrcMAC net.HardwareAddr
	DstMAC net.HardwareAddr
	// EtherType is as the frame has it; the fields below are set for IPv4 only.
	EtherType uint16
	// Outer is set when the packet is IP-in-IP (RFC 2003).
	Outer *IPv4
	// IP is the innermost header.
	IP IPv4
	// Transport of IP; its Protocol is 0 when IP holds neither TCP nor UDP,
	// or not its first fragment.
	Transport Transport
	// Malformed says what could not be decoded, nil when all could.
	Malformed error
}

// IPv4 is an IPv4 header (RFC 791).
type IPv4 struct {
	// Raw is header and payload, cut to TotalLength: link padding is not in it.
	Raw          []byte
	HeaderLength int
	TOS          uint8
	TotalLength  int
	ID           uint16
	DF, MF       bool
	Offset       int // of a fragment, bytes
	TTL          uint8
	Protocol     uint8
	Checksum     uint16
	Src, Dst     netip.Addr
}

// Payload is what follows the header.
func (ip IPv4) Payload() []byte { return ip.Raw[ip.HeaderLength:] }

// Transport is a TCP (RFC 9293) or UDP (RFC 768) header.
type Transport struct {
	Protocol         uint8
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            uint8
	Checksum         uint16
	Payload          []byte
}

// Encapsulated says that the packet is IP-in-IP.
func (p Packet) Encapsulated() bool { return p.Outer != nil }

// IsIPv4 says that the frame carries IPv4 that could be read.
func (p Packet) IsIPv4() bool { return p.IP.HeaderLength > 0 }

// Source returns the innermost source address and port.
func (p Packet) Source() netip.AddrPort {
	return netip.AddrPortFrom(p.IP.Src, p.Transport.SrcPort)
}

// Dest returns the innermost destination address and port.
func (p Packet) Dest() netip.AddrPort {
	return netip.AddrPortFrom(p.IP.Dst, p.Transport.DstPort)
}

// Has says that all the TCP flags given are set.
func (t Transport) Has(flags uint8) bool { return t.Protocol == ProtocolTCP && t.Flags&flags == flags }

// NextSeq is the sequence number that follows a segment: SYN and FIN take one each.
func (t Transport) NextSeq() uint32 {
	next := t.Seq + uint32(len(t.Payload))
	if t.Flags&SYN != 0 {
		next++
	}
	if t.Flags&FIN != 0 {
		next++
	}
	return next
}

// Decode reads the frames of a place.
func Decode(place capture.Place, frames []capture.Frame) []Packet {
	packets := make([]Packet, len(frames))
	for i, f := range frames {
		packets[i] = decode(f)
		packets[i].Place, packets[i].Index = place, i
	}
	return packets
}

var errShort = errors.New("cut short")

func decode(f capture.Frame) Packet {
	p := Packet{Frame: f}
	if len(f.Data) < 14 {
		p.Malformed = fmt.Errorf("ethernet: %w", errShort)
		return p
	}
	p.DstMAC, p.SrcMAC = f.Data[0:6], f.Data[6:12]
	p.EtherType = binary.BigEndian.Uint16(f.Data[12:])
	if p.EtherType != EtherTypeIPv4 {
		return p
	}
	ip, err := decodeIPv4(f.Data[14:])
	if err != nil {
		p.Malformed = fmt.Errorf("ipv4: %w", err)
		return p
	}
	if ip.Protocol == ProtocolIPIP && !ip.fragment() {
		outer := ip
		p.Outer = &outer
		if ip, err = decodeIPv4(outer.Payload()); err != nil {
			// The outer header alone still tells who sent it and to whom.
			p.IP, p.Outer, p.Malformed = outer, nil, fmt.Errorf("inner ipv4: %w", err)
			return p
		}
	}
	p.IP = ip
	if p.Transport, err = decodeTransport(ip); err != nil {
		p.Malformed = err
	}
	return p
}

func (ip IPv4) fragment() bool { return ip.MF || ip.Offset > 0 }

func decodeIPv4(b []byte) (IPv4, error) {
	if len(b) < 20 {
		return IPv4{}, errShort
	}
	if version := b[0] >> 4; version != 4 {
		return IPv4{}, fmt.Errorf("version %d", version)
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	ip := IPv4{
		HeaderLength: int(b[0]&15) * 4,
		TOS:          b[1],
		TotalLength:  int(binary.BigEndian.Uint16(b[2:])),
		ID:           binary.BigEndian.Uint16(b[4:]),
		DF:           fragment&0x4000 != 0,
		MF:           fragment&0x2000 != 0,
		Offset:       int(fragment&0x1fff) * 8,
		TTL:          b[8],
		Protocol:     b[9],
		Checksum:     binary.BigEndian.Uint16(b[10:]),
		Src:          netip.AddrFrom4([4]byte(b[12:16])),
		Dst:          netip.AddrFrom4([4]byte(b[16:20])),
	}
	if ip.HeaderLength < 20 || ip.TotalLength < ip.HeaderLength || len(b) < ip.HeaderLength {
		return IPv4{}, fmt.Errorf("header length %d, total length %d, %d bytes there", ip.HeaderLength, ip.TotalLength, len(b))
	}
	ip.Raw = b[:min(len(b), ip.TotalLength)]
	return ip, nil
}

func decodeTransport(ip IPv4) (Transport, error) {
	if ip.Offset > 0 {
		return Transport{}, nil
	}
	b := ip.Payload()
	switch ip.Protocol {
	case ProtocolTCP:
		if len(b) < 20 {
			return Transport{}, fmt.Errorf("tcp: %w", errShort)
		}
		header := int(b[12]>>4) * 4
		if header < 20 || header > len(b) {
			return Transport{}, fmt.Errorf("tcp: header length %d of %d bytes", header, len(b))
		}
		return Transport{
			Protocol: ProtocolTCP,
			SrcPort:  binary.BigEndian.Uint16(b), DstPort: binary.BigEndian.Uint16(b[2:]),
			Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]),
			Flags: b[13], Checksum: binary.BigEndian.Uint16(b[16:]), Payload: b[header:],
		}, nil
	case ProtocolUDP:
		if len(b) < 8 {
			return Transport{}, fmt.Errorf("udp: %w", errShort)
		}
		return Transport{
			Protocol: ProtocolUDP,
			SrcPort:  binary.BigEndian.Uint16(b), DstPort: binary.BigEndian.Uint16(b[2:]),
			Checksum: binary.BigEndian.Uint16(b[6:]), Payload: b[8:],
		}, nil
	}
	return Transport{}, nil
}
