package evidence

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/lab/capture"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func serialize(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ipv4(src, dst string, p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Flags: layers.IPv4DontFragment, Protocol: p, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func ethernet() *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: layers.EthernetTypeIPv4}
}

func tcpPacket(t *testing.T, payload string) []byte {
	t.Helper()
	ip := ipv4("20.1.1.100", "40.1.1.1", layers.IPProtocolTCP)
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 10, Ack: 20, SYN: true, ACK: true, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}},
	}}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, ip, tcp, gopacket.Payload(payload))
}

func udpPacket(t *testing.T, payload string) []byte {
	t.Helper()
	ip := ipv4("20.1.1.100", "40.1.1.1", layers.IPProtocolUDP)
	udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, ip, udp, gopacket.Payload(payload))
}

func one(t *testing.T, data []byte) Packet {
	t.Helper()
	frame := capture.Frame{Time: time.Unix(0, 0).UTC(), Data: data, Length: len(data)}
	return Decode(capture.Place{Machine: "lb", Port: true}, []capture.Frame{frame})[0]
}

func TestDecodeReadsAnEncapsulatedPacketToItsInnermostHeader(t *testing.T) {
	inner := tcpPacket(t, "hello")
	p := one(t, serialize(t, ethernet(), ipv4("20.1.1.1", "20.1.1.10", layers.IPProtocolIPv4), gopacket.Payload(inner)))
	if p.Malformed != nil || !p.Encapsulated() {
		t.Fatalf("packet = %+v", p)
	}
	if p.Outer.Dst != netip.MustParseAddr("20.1.1.10") || p.Outer.Protocol != ProtocolIPIP || p.Outer.TotalLength != len(inner)+20 {
		t.Errorf("outer = %+v", p.Outer)
	}
	if p.Source() != netip.MustParseAddrPort("20.1.1.100:40000") || p.Dest() != netip.MustParseAddrPort("40.1.1.1:80") {
		t.Errorf("inner %s > %s", p.Source(), p.Dest())
	}
	if string(p.IP.Raw) != string(inner) || string(p.Transport.Payload) != "hello" {
		t.Errorf("inner bytes differ: payload %q", p.Transport.Payload)
	}
	if !p.Transport.Has(SYN|ACK) || p.Transport.NextSeq() != 16 {
		t.Errorf("transport = %+v, next %d", p.Transport, p.Transport.NextSeq())
	}
	const line = "lb port     #0    00:00:00.000000 in  02:00:00:00:00:01 > 02:00:00:00:00:02 | 20.1.1.1 > 20.1.1.10 ipip ttl 64 id 7 len 69 DF" +
		" | 20.1.1.100 > 40.1.1.1 tcp ttl 64 id 7 len 49 DF | tcp 40000 > 80 [SA] seq 10 ack 20 payload 5 | frame 83 bytes"
	if p.String() != line {
		t.Errorf("String:\n got %s\nwant %s", p, line)
	}
}

func TestDecodeCutsLinkPadding(t *testing.T) {
	p := one(t, append(serialize(t, ethernet(), gopacket.Payload(udpPacket(t, "x"))), make([]byte, 20)...))
	if len(p.IP.Raw) != p.IP.TotalLength || string(p.Transport.Payload) != "x" {
		t.Errorf("%d bytes of IP, total length %d, payload %q", len(p.IP.Raw), p.IP.TotalLength, p.Transport.Payload)
	}
}

func TestDecodeSaysWhatIsMalformed(t *testing.T) {
	good := serialize(t, ethernet(), gopacket.Payload(tcpPacket(t, "hello")))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"a frame shorter than its ethernet header", good[:10], "ethernet"},
		{"an IP header that is cut off", good[:30], "ipv4"},
		{"an IP version that is not 4", mangle(good, 14, 0x65), "version 6"},
		{"an IP header length below 20", mangle(good, 14, 0x44), "header length 16"},
		{"a TCP header that is cut off", mangle(good[:40], 17, 26), "tcp"},
		{"a TCP data offset beyond the packet", mangle(good, 14+20+12, 0xf0), "tcp: header length 60"},
		{"an encapsulated packet of another version", serialize(t, ethernet(), ipv4("1.1.1.1", "2.2.2.2", layers.IPProtocolIPv4), gopacket.Payload(make([]byte, 40))), "inner ipv4: version 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := one(t, c.data)
			if p.Malformed == nil || !strings.Contains(p.Malformed.Error(), c.want) {
				t.Errorf("Malformed = %v, want %q", p.Malformed, c.want)
			}
			if p.String() == "" {
				t.Error("cannot be shown")
			}
		})
	}
}

func TestDecodeLetsOtherTrafficBe(t *testing.T) {
	arp := mangle(serialize(t, ethernet(), gopacket.Payload(make([]byte, 28))), 12, 8, 6)
	p := one(t, arp)
	if p.Malformed != nil || p.IsIPv4() || p.EtherType != 0x0806 {
		t.Errorf("arp = %+v", p)
	}
	later := ipv4("1.1.1.1", "2.2.2.2", layers.IPProtocolTCP)
	later.FragOffset, later.Flags = 100, 0
	p = one(t, serialize(t, ethernet(), later, gopacket.Payload(make([]byte, 8))))
	if p.Malformed != nil || p.Transport.Protocol != 0 || p.IP.Offset != 800 {
		t.Errorf("later fragment = %+v", p)
	}
}

func mangle(data []byte, at int, values ...byte) []byte {
	data = append([]byte(nil), data...)
	copy(data[at:], values)
	return data
}

func TestChecksums(t *testing.T) {
	tcp := serialize(t, ethernet(), gopacket.Payload(tcpPacket(t, "odd")))
	udp := serialize(t, ethernet(), gopacket.Payload(udpPacket(t, "even")))
	encapsulated := serialize(t, ethernet(), ipv4("20.1.1.1", "20.1.1.10", layers.IPProtocolIPv4), gopacket.Payload(tcpPacket(t, "x")))
	pending := capture.Frame{Data: mangle(tcp, 14+20+16, 1, 2), ChecksumPending: true}
	for _, c := range []struct {
		name  string
		frame capture.Frame
		want  Verdict
		fault string
	}{
		{"a TCP packet is right", capture.Frame{Data: tcp}, Right, ""},
		{"a UDP packet is right", capture.Frame{Data: udp}, Right, ""},
		{"an encapsulated packet is right", capture.Frame{Data: encapsulated}, Right, ""},
		{"a UDP packet without checksum is right", capture.Frame{Data: mangle(udp, 14+20+6, 0, 0)}, Right, ""},
		{"a wrong IP checksum", capture.Frame{Data: mangle(tcp, 24, 9, 9)}, Wrong, "ip checksum is 0x0909"},
		{"a wrong TCP checksum", capture.Frame{Data: mangle(tcp, 14+20+16, 1, 2)}, Wrong, "tcp checksum is 0x0102"},
		{"a wrong UDP checksum", capture.Frame{Data: mangle(udp, 14+20+6, 1, 2)}, Wrong, "udp checksum is 0x0102"},
		{"a wrong outer checksum", capture.Frame{Data: mangle(encapsulated, 24, 9, 9)}, Wrong, "outer ip checksum"},
		{"a wrong inner checksum", capture.Frame{Data: mangle(encapsulated, 44, 9, 9)}, Wrong, "ip checksum is 0x0909"},
		{"a checksum that the kernel owes is neither", pending, Unverifiable, ""},
		{"a frame that was cut is neither", capture.Frame{Data: tcp[:60], Length: len(tcp)}, Unverifiable, ""},
		{"a wrong IP checksum counts though the transport's is owed", capture.Frame{Data: mangle(tcp, 24, 9, 9), ChecksumPending: true}, Wrong, "ip checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.frame.Length = max(c.frame.Length, len(c.frame.Data))
			p := Decode(capture.Place{}, []capture.Frame{c.frame})[0]
			got, faults := p.Checksums()
			if got != c.want || !strings.Contains(strings.Join(faults, "; "), c.fault) || (c.fault == "") != (len(faults) == 0) {
				t.Errorf("Checksums = %v %q, want %v %q", got, faults, c.want, c.fault)
			}
		})
	}
}

// A UDP checksum that computes to zero is sent as all ones (RFC 768).
func TestUDPChecksumOfZeroIsSentAsAllOnes(t *testing.T) {
	for n := range 1 << 16 {
		ip := ipv4("20.1.1.100", "40.1.1.1", layers.IPProtocolUDP)
		udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		p := one(t, serialize(t, ethernet(), ip, udp, gopacket.Payload([]byte{byte(n >> 8), byte(n)})))
		if transportSum(p.IP, 6) != 0 {
			continue
		}
		p = one(t, mangle(p.Frame.Data, 14+20+6, 0xff, 0xff))
		if verdict, faults := p.Checksums(); verdict != Right {
			t.Errorf("all ones: %v %q", verdict, faults)
		}
		return
	}
	t.Fatal("no payload of two bytes sums to zero")
}

func TestCoverageDoesNotDependOnHowSegmentsAreCut(t *testing.T) {
	segment := func(seq uint32, n int, flags uint8) Transport {
		return Transport{Protocol: ProtocolTCP, Seq: seq, Flags: flags, Payload: make([]byte, n)}
	}
	cover := func(segments ...Transport) Coverage {
		var c Coverage
		for _, s := range segments {
			c.Add(s)
		}
		return c
	}
	start := uint32(0xfffffff0) // sequence numbers wrap within the flow
	whole := cover(segment(start, 0, SYN), segment(start+1, 3000, ACK), segment(start+3001, 0, FIN))
	if !whole.Equal(cover(segment(start, 0, SYN), segment(start+1, 1000, ACK), segment(start+1001, 2000, ACK|FIN))) {
		t.Error("cut in two: not equal")
	}
	if !whole.Equal(cover(segment(start, 0, SYN), segment(start+2001, 1000, ACK), segment(start+1, 1500, ACK), segment(start+1001, 1000, FIN))) {
		t.Error("out of order and overlapping: not equal")
	}
	for name, other := range map[string]Coverage{
		"without the FIN": cover(segment(start, 0, SYN), segment(start+1, 3000, ACK)),
		"with a gap":      cover(segment(start, 0, SYN), segment(start+1, 1000, ACK), segment(start+1002, 1999, FIN)),
		"one byte less":   cover(segment(start, 0, SYN), segment(start+1, 2999, FIN)),
		"with a reset":    cover(segment(start, 0, SYN), segment(start+1, 3000, FIN), segment(start+1, 0, RST)),
	} {
		if whole.Equal(other) {
			t.Errorf("%s: %s equals %s", name, other, whole)
		}
	}
	if s := cover(segment(0, 10, SYN), segment(20, 5, ACK)).String(); s != "15 bytes SYN with 1 gaps" {
		t.Errorf("String = %q", s)
	}
}
