package oracle

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Leg is one hop on the wire.
type Leg struct{ From, To net.HardwareAddr }

// hopLimit is what a header that the balancer writes itself begins with: the
// usual TTL of RFC 1700.
const hopLimit = 64

// quoted is how much of a packet an error of the balancer's own quotes: the longest
// IPv4 header and the 8 bytes of RFC 792.
const quoted = 68

// Tunnelled is DSR's request: a client's frame inside another IP header of its
// family, for a backend (RFC 2003, RFC 2473). The inner packet is byte for byte what
// the client sent, TTL included; the outer header has its traffic class. Where nothing
// may be fragmented the id means nothing and is 0 (RFC 6864).
func Tunnelled(request Frame, leg Leg, from, to netip.Addr) Frame {
	inner := request.IPs[0]
	packet := request.Data[inner.at:inner.end]
	outer := header4(packet[1], 20+len(packet), 4, from, to)
	if inner.six {
		class := uint8(binary.BigEndian.Uint16(packet) >> 4)
		outer = header6(class, len(packet), 41, from, to)
	}
	return built(leg, inner.six, outer, packet)
}

// Decapsulated is what the backend's stack gets of it: the same without the outer header.
func Decapsulated(tunnelled Frame) Frame {
	inner := tunnelled.Inner()
	to, from := tunnelled.MACs()
	return built(Leg{From: from, To: to}, inner.six, tunnelled.Data[inner.at:inner.end])
}

// ByMAC is DSR's request by layer 2: nothing changes but the MACs.
func ByMAC(request Frame, leg Leg) Frame {
	frame := slices.Clone(request.Data)
	copy(frame, leg.To)
	copy(frame[6:], leg.From)
	return must(frame)
}

// Translated is what SNAT makes of a packet, in either direction: other addresses, ports and
// MACs, one hop less to live, and checksums moved by as much. A fragment that is not the
// first has no ports.
func Translated(packet Frame, leg Leg, from, to netip.AddrPort) Frame {
	after := ByMAC(packet, leg)
	after.address(from.Addr(), to.Addr())
	if p := after.Protocol; after.Inner().offset == 0 && (p == TCP || p == UDP) {
		binary.BigEndian.PutUint16(after.Data[after.transport:], from.Port())
		binary.BigEndian.PutUint16(after.Data[after.transport+2:], to.Port())
	}
	after = must(after.Data)
	resum(packet, after)
	if packet.Inner().more && packet.Inner().offset == 0 {
		after.resumFirstFragment(packet)
	}
	return after
}

// address puts other addresses into the IP header and counts the TTL down.
func (f Frame) address(from, to netip.Addr) {
	ip := f.Inner()
	at, ttl := ip.at+12, ip.at+8
	if ip.six {
		at, ttl = ip.at+8, ip.at+7
	}
	copy(f.Data[at:], slices.Concat(from.AsSlice(), to.AsSlice()))
	f.Data[ttl]--
}

// resumFirstFragment moves a checksum that covers more than the frame has.
func (f Frame) resumFirstFragment(before Frame) {
	at := f.transport + map[uint8]int{TCP: 16, UDP: 6}[f.Protocol]
	f.move(at, before.changing(before.transport), f.changing(f.transport))
}

// changing are the bytes of addresses and ports, which the checksum of a transport at an offset covers.
func (f Frame) changing(transport int) []byte {
	ip := f.Inner()
	return slices.Concat(ip.Source.AsSlice(), ip.Dest.AsSlice(), f.Data[transport:transport+4])
}

// move changes a checksum by what changed of what it covers (RFC 1624, equation 3).
func (f Frame) move(at int, was, now []byte) {
	before := binary.BigEndian.Uint16(f.Data[at:])
	if before == 0 && f.Protocol == UDP {
		return
	}
	after := ^fold(uint32(^before) + uint32(^sum(was)) + uint32(sum(now)))
	if after == 0 && f.Protocol == UDP {
		after = 0xffff
	}
	binary.BigEndian.PutUint16(f.Data[at:], after)
}

// EchoReply is the balancer's answer to an echo request to a VIP: the request with its ends
// exchanged (RFC 792, RFC 4443).
func EchoReply(request Frame) Frame {
	to, from := request.MACs()
	after := ByMAC(request, Leg{From: slices.Clone(to), To: slices.Clone(from)})
	ip := after.Inner()
	after.address(ip.Dest, ip.Source)
	if ip.six {
		after.Data[ip.at+7], after.Data[after.transport] = hopLimit, 129
	} else {
		after.Data[ip.at+8], after.Data[after.transport] = hopLimit, 0
	}
	after = must(after.Data)
	resum(request, after)
	return after
}

// TooBig is the balancer's word to a client whose packet would not fit once it is
// encapsulated: from the VIP, "fragmentation needed" (RFC 1191) or "packet too big" (RFC
// 4443), with the size that fits.
func TooBig(request Frame, mtu int) Frame {
	ip := request.IPs[0]
	to, from := request.MACs()
	message := binary.BigEndian.AppendUint32([]byte{3, 4, 0, 0}, uint32(mtu))
	if ip.six {
		message[0], message[1] = 2, 0
	}
	message = append(message, request.Data[ip.at:min(ip.end, ip.at+quoted)]...)
	header := header4(0, 20+len(message), ICMP, ip.Dest, ip.Source)
	if ip.six {
		header = header6(0, len(message), ICMPv6, ip.Dest, ip.Source)
	}
	f := built(Leg{From: to, To: from}, ip.six, header, message)
	at, right, _ := f.transportSum()
	binary.BigEndian.PutUint16(f.Data[at:], right)
	return f
}

// TranslatedError is what SNAT makes of an ICMP error about a packet that it translated: the
// quoted headers are as they left the one that the error goes to, and the error goes back
// there from where that packet was sent to.
func TranslatedError(report Frame, leg Leg, from, to netip.AddrPort) Frame {
	after := ByMAC(report, leg)
	after.address(to.Addr(), from.Addr())
	begin := after.transport + 8
	quote, was := Quote(after), Quote(report)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	copy(quote.bytes[quote.addresses:], slices.Concat(src, dst))
	binary.BigEndian.PutUint16(quote.bytes[quote.ports:], from.Port())
	binary.BigEndian.PutUint16(quote.bytes[quote.ports+2:], to.Port())
	if !quote.six {
		// Who reports may have changed the header, its options for instance, without its checksum.
		before := binary.BigEndian.Uint16(was.bytes[10:])
		now := shifted(before, headerSum(was.bytes[:was.ports]), headerSum(quote.bytes[:quote.ports]), 0)
		binary.BigEndian.PutUint16(quote.bytes[10:], now)
	}
	checksum := map[uint8]int{TCP: 16, UDP: 6}[quote.protocol]
	if at := quote.ports + checksum; at+2 <= len(quote.bytes) {
		part := Frame{Data: after.Data, Protocol: quote.protocol}
		part.move(begin+at, was.covered(), quote.covered())
	}
	after = must(after.Data)
	resum(report, after)
	return after
}

// Clamped is a handshake's segment whose MSS option (RFC 9293, 3.7.1) is no more than allowed.
func Clamped(segment Frame, mss uint16) Frame {
	after := must(slices.Clone(segment.Data))
	if at := after.option(2); at > 0 && binary.BigEndian.Uint16(after.Data[at+2:]) > mss {
		binary.BigEndian.PutUint16(after.Data[at+2:], mss)
		resum(segment, after)
	}
	return after
}

// MSS is what a segment's option says, 0 when it has none.
func MSS(segment Frame) uint16 {
	if at := segment.option(2); at > 0 {
		return binary.BigEndian.Uint16(segment.Data[at+2:])
	}
	return 0
}

// option is where a TCP option begins, 0 when it is not there.
func (f Frame) option(kind byte) int {
	if f.Protocol != TCP || f.Inner().offset > 0 {
		return 0
	}
	end := f.transport + int(f.Data[f.transport+12]>>4)*4
	for at := f.transport + 20; at+1 < end && f.Data[at] != 0; {
		if f.Data[at] == 1 {
			at++
			continue
		}
		length := int(f.Data[at+1])
		if length < 2 || at+length > end {
			return 0
		}
		if f.Data[at] == kind && length == 4 {
			return at
		}
		at += length
	}
	return 0
}

// header4 is an IPv4 header without options, of a packet that must not be fragmented.
func header4(tos byte, length int, protocol byte, from, to netip.Addr) []byte {
	h := []byte{0x45, tos, byte(length >> 8), byte(length), 0, 0, 0x40, 0, hopLimit, protocol, 0, 0}
	h = slices.Concat(h, from.AsSlice(), to.AsSlice())
	binary.BigEndian.PutUint16(h[10:], headerSum(h))
	return h
}

// header6 is an IPv6 header without a flow label.
func header6(class byte, payload int, next byte, from, to netip.Addr) []byte {
	h := []byte{0x60 | class>>4, class << 4, 0, 0, byte(payload >> 8), byte(payload), next, hopLimit}
	return slices.Concat(h, from.AsSlice(), to.AsSlice())
}

// built is a frame of parts that belong together.
func built(leg Leg, six bool, parts ...[]byte) Frame {
	kind := []byte{0x08, 0x00}
	if six {
		kind = []byte{0x86, 0xdd}
	}
	return must(slices.Concat(leg.To, leg.From, kind, slices.Concat(parts...)))
}

// must reads what was made of frames that could be read.
func must(data []byte) Frame {
	f, err := Read(data)
	if err != nil {
		panic(fmt.Sprintf("an expected frame cannot be read: %v: %x", err, data))
	}
	return f
}
