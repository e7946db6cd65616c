package oracle

import (
	"encoding/binary"
	"fmt"
)

// sum adds 16-bit words in ones' complement (RFC 1071).
func sum(parts ...[]byte) uint16 {
	total := uint64(0)
	for _, part := range parts {
		for ; len(part) > 1; part = part[2:] {
			total += uint64(binary.BigEndian.Uint16(part))
		}
		if len(part) == 1 {
			total += uint64(part[0]) << 8
		}
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}

// covered says where the transport's checksum lies, and over what it is taken
// besides the transport itself. Not ok where there is none to judge: in a fragment.
func (f Frame) covered() (at int, pseudo []byte, ok bool) {
	ip := f.Inner()
	offset, known := map[uint8]int{TCP: 16, UDP: 6, ICMP: 2, ICMPv6: 2}[f.Protocol]
	if ip.Fragment() || !known {
		return 0, nil, false
	}
	at = f.transport + offset
	if f.Protocol == ICMP {
		return at, nil, true
	}
	length := ip.end - f.transport
	if f.Protocol == UDP {
		length = int(binary.BigEndian.Uint16(f.Data[f.transport+4:]))
	}
	pseudo = append(ip.Source.AsSlice(), ip.Dest.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(length))
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(f.Protocol))
	return at, pseudo, true
}

// transportSum is what the transport's checksum should be.
func (f Frame) transportSum() (at int, right uint16, ok bool) {
	at, pseudo, ok := f.covered()
	if !ok {
		return at, 0, false
	}
	right = ^sum(pseudo, f.Data[f.transport:at], make([]byte, 2), f.Data[at+2:f.Inner().end])
	if f.Protocol == UDP && right == 0 {
		right = 0xffff // RFC 768: 0 means that there is none
	}
	return at, right, true
}

// headerSum is what the checksum of an IPv4 header should be.
func headerSum(header []byte) uint16 { return ^sum(header[:10], header[12:]) }

// header returns the bytes of an IPv4 header.
func (f Frame) header(ip IP) []byte { return f.Data[ip.at : ip.at+int(f.Data[ip.at]&15)*4] }

// Faults says which checksums of a frame are wrong. A UDP checksum of 0 says
// that there is none (RFC 768), which IPv6 does not allow (RFC 8200).
func (f Frame) Faults() (faults []string) {
	if !f.IsIP() {
		return nil
	}
	for i, ip := range f.IPs {
		if ip.six {
			continue
		}
		h := f.header(ip)
		if has, right := binary.BigEndian.Uint16(h[10:]), headerSum(h); has != right {
			faults = append(faults, fmt.Sprintf("%sIPv4 header: checksum is %#04x, right would be %#04x", f.which(i), has, right))
		}
	}
	at, right, ok := f.transportSum()
	if !ok {
		return faults
	}
	has := binary.BigEndian.Uint16(f.Data[at:])
	if has != right && (f.Protocol != UDP || has != 0 || f.Inner().six) {
		faults = append(faults, fmt.Sprintf("%s: checksum is %#04x, right would be %#04x", protocolNames[f.Protocol], has, right))
	}
	return faults
}

// which is the word before an IP header's name.
func (f Frame) which(i int) string {
	switch {
	case !f.Tunnelled():
		return ""
	case i == 0:
		return "outer "
	}
	return "inner "
}

var protocolNames = map[uint8]string{TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPv6: "ICMPv6"}

// resum gives a changed frame the checksums that a translator must leave it with,
// which changes a checksum by what it changed (RFC 1624): right ones stay right,
// one that came in wrong is as wrong as before, and a UDP checksum of 0 stays 0.
func resum(before, after Frame) {
	at, wasRight, ok := before.transportSum()
	if ok {
		_, nowRight, _ := after.transportSum()
		was := binary.BigEndian.Uint16(before.Data[at:])
		if before.Protocol != UDP || was != 0 {
			binary.BigEndian.PutUint16(after.Data[at:], shifted(was, wasRight, nowRight, before.Protocol))
		}
	}
	for i, ip := range before.IPs {
		if ip.six {
			continue
		}
		h := after.header(after.IPs[i])
		was := binary.BigEndian.Uint16(before.header(ip)[10:])
		binary.BigEndian.PutUint16(h[10:], shifted(was, headerSum(before.header(ip)), headerSum(h), 0))
	}
}

// shifted moves a checksum as far as the right one moved.
func shifted(was, wasRight, nowRight uint16, protocol uint8) uint16 {
	if was == wasRight {
		return nowRight
	}
	moved := ^fold(uint32(^was) + uint32(wasRight) + uint32(^nowRight))
	if protocol == UDP && moved == 0 {
		return 0xffff
	}
	return moved
}

func fold(n uint32) uint16 {
	for n > 0xffff {
		n = n&0xffff + n>>16
	}
	return uint16(n)
}
