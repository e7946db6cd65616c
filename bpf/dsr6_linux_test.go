package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// dsrBalancer6 serves TCP 80 and UDP 53 of IPv6's VIP by IP-in-IP with backend 3.
func dsrBalancer6(t testing.TB) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serve(1, netip.AddrPortFrom(vip6, 80), uint8(tcp), LBLbModeLB_MODE_DSR, 3, 3)
	b.serve(2, netip.AddrPortFrom(vip6, 53), uint8(udp), LBLbModeLB_MODE_DSR, 3, 3)
	return b
}

// tunnelledTo6 is what DSR sends to a backend of a client's packet.
func tunnelledTo6(t testing.TB, frame []byte, backend uint32) []byte {
	t.Helper()
	m := backendMAC(backend)
	return encapsulated(t, frame, lbMAC, m[:], lbAddress6, backendAddress6(backend))
}

func TestDSRPutsAnIPv6PacketIntoAnOuterIPv6Header(t *testing.T) {
	segment := overIPv6(request(40001, "PA"))
	for name, p := range map[string]packet{
		"a SYN":                 overIPv6(request(40000, "S")),
		"a segment with data":   changed(segment, func(p *packet) { p.payload = []byte("GET / HTTP/1.1\r\n\r\n") }),
		"a payload of odd size": changed(segment, func(p *packet) { p.payload = []byte("odd") }),
		"the largest that fits": changed(segment, func(p *packet) { p.payload = make([]byte, 1400) }),
		"TCP options": changed(segment, func(p *packet) {
			p.tcpOpts = []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}
		}),
		"a flow label, which stays inside": changed(segment, func(p *packet) { p.label = 0xabcde }),
		"a traffic class":                  changed(segment, func(p *packet) { p.tos = 0xb9 }),
		"a traffic class and a label":      changed(segment, func(p *packet) { p.tos, p.label = 0xff, 0xfffff }),
		"hop limit 2, which stays":         changed(segment, func(p *packet) { p.ttl = 2 }),
		"hop limit 255":                    changed(segment, func(p *packet) { p.ttl = 255 }),
		"padding behind the packet":        changed(segment, func(p *packet) { p.padding = []byte{1, 2, 3} }),
		"a datagram":                       overIPv6(datagram(40002, "query")),
		"a datagram without a checksum":    changed(overIPv6(datagram(40003, "query")), func(p *packet) { p.unsummed = true }),
		"an empty datagram":                overIPv6(datagram(40004, "")),
	} {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer6(t)
			frame := p.frame(t)
			out := b.forward(p)
			equalFrames(t, out, tunnelledTo6(t, frame, 3))
			if err := checksumFaults(out); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The frame that encapsulated builds is checked byte for byte here once, without
// any of its code.
func TestTheOuterIPv6HeaderIsRFC2473s(t *testing.T) {
	b := dsrBalancer6(t)
	p := overIPv6(request(40000, "S"))
	p.tos, p.label = 0x5a, 0x12345
	out := b.forward(p)
	want := []byte{
		0x02, 0xbe, 0, 0, 0, 3, 0x02, 0, 0, 0, 0, 1, 0x86, 0xdd,
		0x65, 0xa0, 0, 0, 0, 60, 41, 64,
		0xfd, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
		0xfd, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3,
	}
	equalFrames(t, out, append(want, p.frame(t)[14:]...))
}

func TestAnIPv6FlowIsRememberedInIPv6sTables(t *testing.T) {
	b := dsrBalancer6(t)
	p := overIPv6(request(40000, "S"))
	b.forward(p)
	if b.established(p) {
		t.Fatal("a SYN established its flow")
	}
	b.forward(overIPv6(request(40000, "A")))
	if !b.established(p) {
		t.Fatal("the second packet did not establish the flow")
	}
	e := b.entry(p)
	if e.BackendId != 3 || e.Mode != LBLbModeLB_MODE_DSR || e.RxPackets != 2 || e.RxBytes != 120 || e.NatPort != 0 {
		t.Fatalf("remembered %+v", e)
	}
	b.wantFlows(1, 0)
	if n := count(t, b.objects.Flows4) + count(t, b.objects.NewFlows4); n != 0 {
		t.Fatalf("%d entries in IPv4's tables", n)
	}
}

// jhash6 is lookup3 as Cilium uses it for IPv6, its steps written as tables of
// which word takes which, shifted how far.
func jhash6(from, to netip.AddrPort, proto uint8) uint32 {
	rotate := func(v uint32, by int) uint32 { return v<<by | v>>(32-by) }
	source := wire(from.Addr()).Word
	word := [3]uint32{source[0], source[1], source[2]}
	mix := func() {
		for _, s := range []struct{ target, source, by, third int }{
			{0, 2, 4, 1}, {1, 0, 6, 2}, {2, 1, 8, 0}, {0, 2, 16, 1}, {1, 0, 19, 2}, {2, 1, 4, 0},
		} {
			v := word[s.source]
			word[s.target] = (word[s.target] - v) ^ rotate(v, s.by)
			word[s.source] += word[s.third]
		}
	}
	mix()
	word[0] += source[3]
	word[1] += uint32(port(to.Port()))<<16 | uint32(port(from.Port()))
	word[2] += uint32(proto)
	mix()
	word[0] += 2454738568
	for _, s := range []struct{ target, source, by int }{
		{2, 1, 14}, {0, 2, 11}, {1, 0, 25}, {2, 1, 16}, {0, 2, 4}, {1, 0, 14}, {2, 1, 24},
	} {
		v := word[s.source]
		word[s.target] = (word[s.target] ^ v) - rotate(v, s.by)
	}
	return word[2]
}

func TestANewIPv6FlowTakesTheMaglevSlotOfItsHash(t *testing.T) {
	const size = 251
	var ids []uint32
	for id := range uint32(size) {
		ids = append(ids, id+1)
	}
	b := newBalancer(t)
	b.serve(1, netip.AddrPortFrom(vip6, 80), uint8(tcp), LBLbModeLB_MODE_DSR, size, ids...)
	b.serve(2, netip.AddrPortFrom(vip6, 53), uint8(udp), LBLbModeLB_MODE_DSR, size, ids...)
	for i := range 100 {
		p := overIPv6(request(uint16(1024+577*i), "S"))
		if i%2 == 1 {
			p = overIPv6(datagram(uint16(1024+577*i), "query"))
		}
		source := client6.As16()
		binary.BigEndian.PutUint32(source[4:], uint32(i)*2654435761)
		binary.BigEndian.PutUint32(source[8:], uint32(i)*40503)
		source[15] = byte(i)
		p.from = netip.AddrPortFrom(netip.AddrFrom16(source), p.from.Port())
		out := b.forward(p)
		want := jhash6(p.from, p.to, uint8(p.proto))%size + 1
		equalFrames(t, out, tunnelledTo6(t, p.frame(t), want))
	}
}

func TestL2SendsAnIPv6PacketOnWithOtherMACsAlone(t *testing.T) {
	b := dsrBalancer6(t)
	b.changeBackend(3, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
	p := overIPv6(request(40000, "PA"))
	p.payload, p.label, p.tos = make([]byte, 1440), 0xabcde, 0x12
	want := p
	m := backendMAC(3)
	want.sourceMAC, want.destMAC = lbMAC, m[:]
	equalFrames(t, b.forward(p), want.frame(t))
}

func TestTheOuterIPv6SourceIsSpreadByTheFlowsHash(t *testing.T) {
	b := dsrBalancer6(t)
	spread := wire(netip.MustParseAddr("::ffff")).Word[3]
	b.changeBackend(3, func(e *LBBackend) {
		e.Outer = wire(netip.MustParseAddr("fd99::aaaa:0"))
		e.OuterSpread = spread
	})
	seen := map[netip.Addr]bool{}
	for i := range 20 {
		p := overIPv6(request(uint16(40000+i), "S"))
		outer := netip.MustParseAddr("fd99::aaaa:0").As16()
		hash := jhash6(p.from, p.to, uint8(tcp)) & spread
		binary.NativeEndian.PutUint32(outer[12:], binary.NativeEndian.Uint32(outer[12:])|hash)
		from := netip.AddrFrom16(outer)
		seen[from] = true
		m := backendMAC(3)
		want := encapsulated(t, p.frame(t), lbMAC, m[:], from, backendAddress6(3))
		equalFrames(t, b.forward(p), want)
		again := overIPv6(request(uint16(40000+i), "A"))
		equalFrames(t, b.forward(again), encapsulated(t, again.frame(t), lbMAC, m[:], from, backendAddress6(3)))
	}
	if len(seen) < 18 {
		t.Fatalf("20 flows had %d outer sources", len(seen))
	}
}

func TestAnIPv6PacketThatDoesNotFitIsAnsweredWithPacketTooBig(t *testing.T) {
	for _, size := range []int{1401, 1440} {
		b := dsrBalancer6(t)
		p := overIPv6(request(40000, "PA"))
		p.payload, p.tos, p.label = make([]byte, size), 0xb8, 0x54321
		for i := range p.payload {
			p.payload[i] = byte(i * 7)
		}
		frame := p.frame(t)
		verdict, out := b.send(frame)
		if verdict != xdpTX {
			t.Fatalf("verdict %d, want XDP_TX", verdict)
		}
		want := packet{
			sourceMAC: lbMAC, destMAC: routerMAC, proto: icmp6, ttl: 64,
			from: netip.AddrPortFrom(vip6, 0), to: netip.AddrPortFrom(client6, 0),
			icmp: icmpHeader{kind: 2, rest: 1460}, payload: frame[14 : 14+68],
		}
		equalFrames(t, out, want.frame(t))
		if err := checksumFaults(out); err != nil {
			t.Fatal(err)
		}
		if n := b.counters().drops["mtu_exceeded"]; n != 1 {
			t.Fatalf("counted as too big %d times", n)
		}
		b.wantFlows(0, 0)
	}
}

func TestTheMTUThatPacketTooBigNamesFollowsTheInterfaces(t *testing.T) {
	b := dsrBalancer6(t)
	b.configure(func(c *LBLbConfig) { c.Mtu = 1400 })
	p := overIPv6(request(40000, "PA"))
	p.payload = make([]byte, 1301)
	_, out := b.send(p.frame(t))
	if mtu := binary.BigEndian.Uint32(out[14+40+4:]); mtu != 1360 {
		t.Fatalf("MTU %d, want 1360", mtu)
	}
	p.payload = make([]byte, 1300)
	equalFrames(t, b.forward(p), tunnelledTo6(t, p.frame(t), 3))
}

func TestAnIPv6PacketOfHopLimitOneIsNotForwarded(t *testing.T) {
	for _, limit := range []uint8{0, 1} {
		b := dsrBalancer6(t)
		p := overIPv6(request(40000, "S"))
		p.ttl = limit
		b.drop(p.frame(t), "ttl_expired")
		b.wantFlows(0, 0)
	}
}
