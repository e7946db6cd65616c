package evidence

import (
	"encoding/binary"
	"fmt"
)

// Verdict is what can be said of a checksum.
type Verdict int

// The verdicts.
const (
	Right Verdict = iota
	Wrong
	// Unverifiable: the kernel had not filled it in when the frame was
	// captured, or the frame was not captured whole.
	Unverifiable
)

// Checksums judges every checksum of a packet: the outer IP header's, the
// inner one's, and TCP's or UDP's. It returns the worst verdict and the faults
// in words. A UDP checksum of 0 means that there is none (RFC 768).
func (p Packet) Checksums() (Verdict, []string) {
	if !p.IsIPv4() {
		return Unverifiable, nil
	}
	var faults []string
	if p.Outer != nil {
		faults = appendFault(faults, "outer ip", p.Outer.Checksum, headerSum(*p.Outer))
	}
	faults = appendFault(faults, "ip", p.IP.Checksum, headerSum(p.IP))
	if p.Transport.Protocol == 0 {
		return worst(faults, Right), faults
	}
	if p.Frame.ChecksumPending || p.Frame.Truncated() || len(p.IP.Raw) < p.IP.TotalLength || p.IP.MF {
		return worst(faults, Unverifiable), faults
	}
	name, at := "tcp", 16
	if p.Transport.Protocol == ProtocolUDP {
		if p.Transport.Checksum == 0 {
			return worst(faults, Right), faults
		}
		name, at = "udp", 6
	}
	want := transportSum(p.IP, at)
	// One's complement has two zeros (RFC 1071). For UDP, RFC 768 demands all
	// ones; for TCP either is right, and Linux sends all ones (CSUM_MANGLED_0).
	if want == 0 && (p.Transport.Protocol == ProtocolUDP || p.Transport.Checksum == 0xffff) {
		want = 0xffff
	}
	faults = appendFault(faults, name, p.Transport.Checksum, want)
	return worst(faults, Right), faults
}

func worst(faults []string, otherwise Verdict) Verdict {
	if len(faults) > 0 {
		return Wrong
	}
	return otherwise
}

func appendFault(faults []string, name string, have, want uint16) []string {
	if have == want {
		return faults
	}
	return append(faults, fmt.Sprintf("%s checksum is %#04x, must be %#04x", name, have, want))
}

// headerSum computes an IPv4 header's checksum.
func headerSum(ip IPv4) uint16 {
	return fold(sum(ip.Raw[:10]) + sum(ip.Raw[12:ip.HeaderLength]))
}

// transportSum computes a TCP or UDP checksum, whose field stands at an offset
// of the transport header, over payload and pseudo header.
func transportSum(ip IPv4, at int) uint16 {
	b := ip.Payload()
	total := sum(ip.Raw[12:20]) + uint64(ip.Protocol) + uint64(len(b))
	return fold(total + sum(b[:at]) + sum(b[at+2:]))
}

func sum(b []byte) uint64 {
	var total uint64
	for ; len(b) >= 4; b = b[4:] {
		total += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		total += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
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
	return ^uint16(total)
}
