package bpf

import (
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"
)

// extension is an IPv6 extension header. Whoever builds the frame fills in its first
// byte, the number of the header behind it.
type extension struct {
	number layers.IPProtocol
	bytes  []byte
}

// Numbers of extension headers (RFC 8200).
const (
	hopByHopHeader    = layers.IPProtocol(0)
	routingHeader     = layers.IPProtocol(43)
	fragmentHeader    = layers.IPProtocol(44)
	destinationHeader = layers.IPProtocol(60)
)

// padded is a header of options that ask for nothing, of 8 bytes or more.
func padded(number layers.IPProtocol, length int) extension {
	e := extension{number, make([]byte, length)}
	e.bytes[1] = uint8(length/8 - 1)
	for at := 2; at < length; {
		n := min(length-at-2, 255)
		e.bytes[at], e.bytes[at+1] = 1, uint8(n) // PadN
		at += 2 + n
	}
	return e
}

// fragment6 is a fragment header; the offset is in units of 8 bytes.
func fragment6(offset uint16, more bool, id uint32) extension {
	e := extension{fragmentHeader, make([]byte, 8)}
	flags := offset << 3
	if more {
		flags |= 1
	}
	binary.BigEndian.PutUint16(e.bytes[2:], flags)
	binary.BigEndian.PutUint32(e.bytes[4:], id)
	return e
}

func (p packet) ip6() *layers.IPv6 {
	ip := &layers.IPv6{
		Version: 6, TrafficClass: p.tos, FlowLabel: p.label, NextHeader: p.proto, HopLimit: p.ttl,
		SrcIP: p.from.Addr().AsSlice(), DstIP: p.to.Addr().AsSlice(),
	}
	if len(p.extensions) > 0 {
		ip.NextHeader = p.extensions[0].number
	}
	return ip
}

// extension is the header at an index with its first byte filled in.
func (p packet) extension(i int) []byte {
	bytes := append([]byte(nil), p.extensions[i].bytes...)
	bytes[0] = uint8(p.proto)
	if i+1 < len(p.extensions) {
		bytes[0] = uint8(p.extensions[i+1].number)
	}
	return bytes
}

// transportOf is an IP packet's transport protocol, and where its header is.
func transportOf(ip []byte) (proto uint8, at int) {
	if ip[0]>>4 == 4 {
		return ip[9], int(ip[0]&0x0f) * 4
	}
	proto, at = ip[6], 40
	for {
		switch layers.IPProtocol(proto) {
		case hopByHopHeader, routingHeader, destinationHeader:
			proto, at = ip[at], at+8*(1+int(ip[at+1]))
		case fragmentHeader:
			proto, at = ip[at], at+8
		default:
			return proto, at
		}
	}
}

// icmpHeader is an ICMP message's type, code and the four bytes behind the checksum: an
// echo's id and number, an error's MTU.
type icmpHeader struct {
	kind, code uint8
	rest       uint32
}

// icmpMessage is the header of a message whose payload is p's, summed.
func (p packet) icmpMessage() []byte {
	header := []byte{p.icmp.kind, p.icmp.code, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(header[4:], p.icmp.rest)
	var pseudo uint32
	if p.proto == icmp6 {
		addresses := append(p.from.Addr().AsSlice(), p.to.Addr().AsSlice()...)
		pseudo = sumWords(addresses, uint32(icmp6)+uint32(len(header)+len(p.payload)))
	}
	sum := ^sumWords(append(header[:8:8], p.payload...), pseudo)
	binary.BigEndian.PutUint16(header[2:], uint16(sum))
	return header
}
