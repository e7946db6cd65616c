package path

import (
	"encoding/binary"
	"net/netip"
)

// The protocol numbers (IANA) of what is sent.
const (
	protocolIPIP = 4
	protocolTCP  = 6
	protocolIPv6 = 41
)

// flags of TCP (RFC 9293 section 3.1).
type flags uint8

const (
	fin flags = 1 << iota
	syn
	rst
	psh
	ack
)

func (f flags) has(all flags) bool { return f&all == all }

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	hopLimit   = 64
	// window is that of a receiver without buffers of its own: answers are short.
	window = 65535
	// ourMSS is announced in the SYN: small enough for any path back, and for what is
	// sent to fit encapsulated.
	ourMSS = 1200
)

// segment is a TCP segment and its addresses.
type segment struct {
	from, to netip.AddrPort
	seq, ack uint32
	flags    flags
	payload  []byte
}

// end is the sequence number after the segment.
func (s segment) end() uint32 {
	n := s.seq + uint32(len(s.payload))
	if s.flags&(syn|fin) != 0 {
		n++
	}
	return n
}

// marshal makes an IP packet of the segment.
func (s segment) marshal() []byte {
	options := 0
	if s.flags.has(syn) {
		options = 4
	}
	length := tcpHeader + options + len(s.payload)
	packet, tcp := ipPacket(s.from.Addr(), s.to.Addr(), protocolTCP, length)
	binary.BigEndian.PutUint16(tcp[0:], s.from.Port())
	binary.BigEndian.PutUint16(tcp[2:], s.to.Port())
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = byte(tcpHeader+options) / 4 << 4
	tcp[13] = byte(s.flags)
	binary.BigEndian.PutUint16(tcp[14:], window)
	if options != 0 {
		tcp[20], tcp[21] = 2, 4 // kind MSS, length
		binary.BigEndian.PutUint16(tcp[22:], ourMSS)
	}
	copy(tcp[tcpHeader+options:], s.payload)
	binary.BigEndian.PutUint16(tcp[16:], tcpChecksum(s.from.Addr(), s.to.Addr(), tcp))
	return packet
}

// encapsulate puts an outer header before a packet of the same family: 4in4
// (RFC 2003) or 6in6 (RFC 2473).
func encapsulate(source, dest netip.Addr, inner []byte) []byte {
	protocol := byte(protocolIPIP)
	if dest.Is6() {
		protocol = protocolIPv6
	}
	packet, payload := ipPacket(source, dest, protocol, len(inner))
	copy(payload, inner)
	return packet
}

// ipPacket makes a packet with its header filled in, and returns its payload too.
// IPv4 has DF set and therefore no identification (RFC 6864).
func ipPacket(source, dest netip.Addr, protocol byte, length int) (packet, payload []byte) {
	if dest.Is4() {
		packet = make([]byte, ipv4Header+length)
		packet[0] = 0x45
		binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
		packet[6] = 0x40 // DF
		packet[8], packet[9] = hopLimit, protocol
		copy(packet[12:], source.AsSlice())
		copy(packet[16:], dest.AsSlice())
		binary.BigEndian.PutUint16(packet[10:], ^fold(sum(packet[:ipv4Header])))
		return packet, packet[ipv4Header:]
	}
	packet = make([]byte, ipv6Header+length)
	packet[0] = 0x60
	binary.BigEndian.PutUint16(packet[4:], uint16(length))
	packet[6], packet[7] = protocol, hopLimit
	copy(packet[8:], source.AsSlice())
	copy(packet[24:], dest.AsSlice())
	return packet, packet[ipv6Header:]
}

// parse reads a TCP segment out of an IP packet, which may have padding
// behind it. verify says that the checksums are to be looked at: a packet from another
// network namespace of this machine may have none yet.
func parse(packet []byte, verify bool) (segment, bool) {
	if len(packet) < ipv4Header {
		return segment{}, false
	}
	switch packet[0] >> 4 {
	case 4:
		header, total := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
		fragment := binary.BigEndian.Uint16(packet[6:]) & 0x3fff // MF and offset
		if header < ipv4Header || total < header || total > len(packet) || packet[9] != protocolTCP || fragment != 0 ||
			verify && fold(sum(packet[:header])) != 0xffff {
			return segment{}, false
		}
		return parseTCP(netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), packet[header:total], verify)
	case 6:
		// Servers put no extension headers before TCP.
		if len(packet) < ipv6Header || packet[6] != protocolTCP {
			return segment{}, false
		}
		end := ipv6Header + int(binary.BigEndian.Uint16(packet[4:]))
		if end > len(packet) {
			return segment{}, false
		}
		return parseTCP(netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), packet[ipv6Header:end], verify)
	}
	return segment{}, false
}

func parseTCP(from, to netip.Addr, tcp []byte, verify bool) (segment, bool) {
	if len(tcp) < tcpHeader {
		return segment{}, false
	}
	offset := int(tcp[12]>>4) * 4
	if offset < tcpHeader || offset > len(tcp) || verify && tcpChecksum(from, to, tcp) != 0 {
		return segment{}, false
	}
	return segment{
		from:    netip.AddrPortFrom(from, binary.BigEndian.Uint16(tcp[0:])),
		to:      netip.AddrPortFrom(to, binary.BigEndian.Uint16(tcp[2:])),
		seq:     binary.BigEndian.Uint32(tcp[4:]),
		ack:     binary.BigEndian.Uint32(tcp[8:]),
		flags:   flags(tcp[13]) & (fin | syn | rst | psh | ack),
		payload: tcp[offset:],
	}, true
}

// tcpChecksum is that of a segment under its pseudo header (RFC 9293 section
// 3.1, RFC 8200 section 8.1), and 0 when the one that is in it is right.
func tcpChecksum(from, to netip.Addr, tcp []byte) uint16 {
	total := sum(from.AsSlice()) + sum(to.AsSlice()) + protocolTCP + uint64(len(tcp))
	return ^fold(total + sum(tcp))
}

// sum adds up 16-bit words (RFC 1071).
func sum(b []byte) uint64 {
	var total uint64
	for ; len(b) >= 2; b = b[2:] {
		total += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		total += uint64(b[0]) << 8
	}
	return total
}

func fold(total uint64) uint16 {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}
