package evidence

import (
	"fmt"
	"strings"
)

// String shows a packet on one line: place, time, direction, MACs, every
// header from the outside in.
func (p Packet) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s #%-4d %s %-3s %s > %s", p.Place, p.Index, p.Frame.Time.Format("15:04:05.000000"),
		p.Frame.Direction(), p.SrcMAC, p.DstMAC)
	if p.Outer != nil {
		fmt.Fprintf(&b, " | %s", p.Outer)
	}
	switch {
	case p.IsIPv4():
		fmt.Fprintf(&b, " | %s", p.IP)
	case len(p.Frame.Data) >= 14:
		fmt.Fprintf(&b, " | ethertype %#04x", p.EtherType)
	}
	if p.Transport.Protocol != 0 {
		fmt.Fprintf(&b, " | %s", p.Transport)
	}
	fmt.Fprintf(&b, " | frame %d bytes", p.Frame.Length)
	if p.Frame.Truncated() {
		fmt.Fprintf(&b, " (%d captured)", len(p.Frame.Data))
	}
	if p.Frame.ChecksumPending {
		b.WriteString(", checksum pending")
	}
	if p.Malformed != nil {
		fmt.Fprintf(&b, ", malformed: %v", p.Malformed)
	}
	return b.String()
}

// String shows an IPv4 header.
func (ip IPv4) String() string {
	s := fmt.Sprintf("%s > %s %s ttl %d id %d len %d", ip.Src, ip.Dst, protocolName(ip.Protocol), ip.TTL, ip.ID, ip.TotalLength)
	if ip.DF {
		s += " DF"
	}
	if ip.fragment() {
		s += fmt.Sprintf(" fragment at %d", ip.Offset)
	}
	return s
}

// String shows a transport header.
func (t Transport) String() string {
	if t.Protocol == ProtocolUDP {
		return fmt.Sprintf("udp %d > %d payload %d", t.SrcPort, t.DstPort, len(t.Payload))
	}
	return fmt.Sprintf("tcp %d > %d [%s] seq %d ack %d payload %d", t.SrcPort, t.DstPort, flagNames(t.Flags), t.Seq, t.Ack, len(t.Payload))
}

func protocolName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case ProtocolIPIP:
		return "ipip"
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", p)
}

func flagNames(flags uint8) string {
	var b strings.Builder
	for i, letter := range "FSRPAUEC" {
		if flags&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}
