package oracle

import (
	"net/netip"
	"slices"
)

// QuotedPacket is the beginning of a packet that an ICMP error quotes.
type QuotedPacket struct {
	Source, Dest netip.AddrPort
	bytes        []byte
	six          bool
	protocol     uint8
	// addresses and ports are where those begin in bytes.
	addresses, ports int
}

// IsError says that a frame is an ICMP error that quotes a TCP or UDP packet up to its ports.
func IsError(f Frame) bool {
	kind, _, ok := f.ICMPType()
	if !ok {
		return false
	}
	if f.Protocol == ICMPv6 && (kind < 1 || kind > 4) || f.Protocol == ICMP && kind != 3 && kind != 11 && kind != 12 {
		return false
	}
	return Quote(f).ports > 0
}

// Quote reads what an ICMP error quotes; ports are 0 when it quotes too little.
func Quote(f Frame) QuotedPacket {
	q := QuotedPacket{bytes: f.Data[f.transport+8 : f.Inner().end]}
	switch {
	case len(q.bytes) >= 28 && q.bytes[0]>>4 == 4 && q.bytes[0]&15 >= 5:
		q.protocol, q.addresses, q.ports = q.bytes[9], 12, int(q.bytes[0]&15)*4
	case len(q.bytes) >= 48 && q.bytes[0]>>4 == 6:
		q.protocol, q.addresses, q.ports, q.six = q.bytes[6], 8, 40, true
	}
	if q.ports+8 > len(q.bytes) || q.protocol != TCP && q.protocol != UDP {
		q.ports = 0
	}
	if q.ports == 0 {
		return q
	}
	size := 4
	if q.six {
		size = 16
	}
	source, _ := netip.AddrFromSlice(q.bytes[q.addresses : q.addresses+size])
	dest, _ := netip.AddrFromSlice(q.bytes[q.addresses+size : q.addresses+2*size])
	port := func(at int) uint16 { return uint16(q.bytes[at])<<8 | uint16(q.bytes[at+1]) }
	q.Source = netip.AddrPortFrom(source, port(q.ports))
	q.Dest = netip.AddrPortFrom(dest, port(q.ports+2))
	return q
}

// covered are the bytes of a quote that a translator changes and its transport's checksum covers.
func (q QuotedPacket) covered() []byte {
	end := q.addresses + 8
	if q.six {
		end = q.addresses + 32
	}
	return slices.Concat(q.bytes[q.addresses:end], q.bytes[q.ports:q.ports+4])
}
