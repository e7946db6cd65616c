package path

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	own4, server4 = netip.MustParseAddrPort("20.1.1.1:28000"), netip.MustParseAddrPort("40.1.1.1:80")
	own6, server6 = netip.MustParseAddrPort("[fd20::1]:28000"), netip.MustParseAddrPort("[fd40::1]:80")
)

// A library that shares no code with this package reads what it makes.
func TestSegmentsAreAsTheRFCsSay(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{own4, server4}, {own6, server6}} {
		for _, c := range []struct {
			flags   flags
			payload string
			want    string
		}{
			{syn, "", "SYN seq 4294967295 ack 0 MSS 1200"},
			{ack, "", "ACK seq 4294967295 ack 7"},
			{psh | ack, "odd", "ACK PSH seq 4294967295 ack 7 odd"},
			{rst | ack, "", "ACK RST seq 4294967295 ack 7"},
			{fin | ack, "even", "ACK FIN seq 4294967295 ack 7 even"},
		} {
			s := segment{from: ends[0], to: ends[1], seq: 1<<32 - 1, flags: c.flags, payload: []byte(c.payload)}
			if c.flags.has(ack) {
				s.ack = 7
			}
			packet := s.marshal()
			if got := read(t, packet); got != fmt.Sprintf("%s -> %s %s", ends[0], ends[1], c.want) {
				t.Errorf("got  %s\nwant %s -> %s %s", got, ends[0], ends[1], c.want)
			}
			back, ok := parse(append(packet, "padding"...), true)
			if !ok || back.from != s.from || back.to != s.to || back.seq != s.seq || back.ack != s.ack ||
				back.flags != s.flags || !bytes.Equal(back.payload, s.payload) {
				t.Errorf("%+v came back as %+v, %t", s, back, ok)
			}
		}
	}
}

// read decodes a packet, inner or outer, and checks its checksums.
func read(t *testing.T, packet []byte) string {
	t.Helper()
	first := gopacket.LayerType(layers.LayerTypeIPv4)
	if packet[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(packet, first, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if err := tcp.SetNetworkLayerForChecksum(innermost(p)); err != nil {
		t.Fatal(err)
	}
	if fault, mismatches := p.VerifyChecksums(); fault != nil || len(mismatches) != 0 {
		t.Errorf("checksums: %v %+v", fault, mismatches)
	}
	text := fmt.Sprintf("%s -> %s", endpoint(p, tcp.SrcPort, true), endpoint(p, tcp.DstPort, false))
	for _, f := range []struct {
		set  bool
		name string
	}{{tcp.SYN, "SYN"}, {tcp.ACK, "ACK"}, {tcp.PSH, "PSH"}, {tcp.RST, "RST"}, {tcp.FIN, "FIN"}} {
		if f.set {
			text += " " + f.name
		}
	}
	text += fmt.Sprintf(" seq %d ack %d", tcp.Seq, tcp.Ack)
	for _, o := range tcp.Options {
		text += fmt.Sprintf(" %s %d", o.OptionType, uint(o.OptionData[0])<<8|uint(o.OptionData[1]))
	}
	if len(tcp.Payload) > 0 {
		text += " " + string(tcp.Payload)
	}
	return text
}

// innermost is the network layer right before TCP.
func innermost(p gopacket.Packet) (found gopacket.NetworkLayer) {
	for _, l := range p.Layers() {
		if n, ok := l.(gopacket.NetworkLayer); ok {
			found = n
		}
	}
	return found
}

func endpoint(p gopacket.Packet, port layers.TCPPort, source bool) netip.AddrPort {
	end := innermost(p).NetworkFlow().Dst()
	if source {
		end = innermost(p).NetworkFlow().Src()
	}
	a, _ := netip.AddrFromSlice(end.Raw())
	return netip.AddrPortFrom(a, uint16(port))
}

func TestEncapsulationLeavesTheInnerBytes(t *testing.T) {
	for _, c := range []struct {
		from, to      netip.AddrPort
		source, dest  string
		protocol      byte
		header, inner int
	}{
		{own4, server4, "20.1.1.1", "20.1.1.10", 4, 20, 9},
		{own6, server6, "fd20::1", "fd20::10", 41, 40, 6},
	} {
		inner := segment{from: c.from, to: c.to, flags: syn}.marshal()
		packet := encapsulate(netip.MustParseAddr(c.source), netip.MustParseAddr(c.dest), inner)
		if !bytes.Equal(packet[c.header:], inner) {
			t.Errorf("inner bytes of %s changed", c.dest)
		}
		if packet[c.inner] != c.protocol {
			t.Errorf("outer protocol is %d, want %d", packet[c.inner], c.protocol)
		}
		read(t, packet)
		first := gopacket.LayerType(layers.LayerTypeIPv4)
		if c.header == 40 {
			first = layers.LayerTypeIPv6
		}
		flow := gopacket.NewPacket(packet, first, gopacket.Default).NetworkLayer().NetworkFlow()
		if flow.Src().String() != c.source || flow.Dst().String() != c.dest {
			t.Errorf("outer flow is %s", flow)
		}
	}
}

func TestWhatIsNoSoundSegmentIsPassedOver(t *testing.T) {
	spoil := func(from, to netip.AddrPort, how func([]byte) []byte) []byte {
		return how(segment{from: from, to: to, flags: syn | ack}.marshal())
	}
	set := func(at int, v byte) func([]byte) []byte {
		return func(p []byte) []byte { p[at] = v; return p }
	}
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"nothing", nil},
		{"another version", spoil(server4, own4, set(0, 0x55))},
		{"IPv4, header length 4", spoil(server4, own4, set(0, 0x41))},
		{"IPv4, header beyond the packet", spoil(server4, own4, set(0, 0x4f))},
		{"IPv4, total length beyond the packet", spoil(server4, own4, set(3, 0xff))},
		{"IPv4, UDP", spoil(server4, own4, set(9, 17))},
		{"IPv4, a fragment", spoil(server4, own4, set(7, 1))},
		{"IPv4, header checksum", spoil(server4, own4, set(10, 0xaa))},
		{"IPv4, TCP checksum", spoil(server4, own4, set(36, 0xaa))},
		{"IPv4, TCP header beyond the packet", spoil(server4, own4, set(32, 0xf0))},
		{"IPv4, cut within TCP", spoil(server4, own4, func(p []byte) []byte { return p[:30] })},
		{"IPv6, UDP", spoil(server6, own6, set(6, 17))},
		{"IPv6, payload beyond the packet", spoil(server6, own6, set(5, 0xff))},
		{"IPv6, TCP checksum", spoil(server6, own6, set(56, 0xaa))},
		{"IPv6, cut within the header", spoil(server6, own6, func(p []byte) []byte { return p[:39] })},
	} {
		if s, ok := parse(c.packet, true); ok {
			t.Errorf("%s: got %+v", c.name, s)
		}
	}
	// A checksum that the sender left to its hardware is half of one.
	if _, ok := parse(spoil(server4, own4, set(36, 0xaa)), false); !ok {
		t.Error("a checksum was looked at that need not be right")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(segment{from: server4, to: own4, flags: syn | ack}.marshal())
	f.Add(segment{from: server6, to: own6, flags: ack, payload: []byte("HTTP/1.1 200 OK\r\n")}.marshal())
	f.Fuzz(func(t *testing.T, packet []byte) {
		s, ok := parse(packet, false)
		if ok && len(s.payload) > len(packet) {
			t.Error("more payload than packet")
		}
		c := newConn(httpOf4(), own4, 1)
		c.receive(segment{flags: syn | ack, ack: 2, seq: 10})
		c.receive(s)
	})
}
