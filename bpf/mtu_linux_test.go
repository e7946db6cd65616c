package bpf

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// tooBig is what a client is told of its packet: ICMP "fragmentation needed" from
// the VIP (RFC 1191), quoting 68 bytes: the longest header and 8 bytes more.
func tooBig(t testing.TB, frame []byte, mtu uint16) []byte {
	t.Helper()
	return serialize(t,
		&layers.Ethernet{SrcMAC: frame[:6], DstMAC: frame[6:12], EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{
			Version: 4, IHL: 5, Flags: layers.IPv4DontFragment, TTL: 64, Protocol: layers.IPProtocolICMPv4,
			SrcIP: frame[30:34], DstIP: frame[26:30],
		},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, 4), Seq: mtu},
		gopacket.Payload(frame[14:14+68]))
}

// sized is a segment of so many bytes of IP that may not be fragmented.
func sized(t testing.TB, length int, change func(*packet)) packet {
	p := request(40000, "A")
	p.fragment = layers.IPv4DontFragment
	change(&p)
	for i := range length - int(ipLength(p.frame(t))) {
		p.payload = append(p.payload, byte(i))
	}
	return p
}

func TestAClientIsToldThatItsPacketDoesNotFit(t *testing.T) {
	none := func(*packet) {}
	cases := map[string]struct {
		p   packet
		mtu uint32
	}{
		"one byte too large":        {sized(t, 1481, none), 1500},
		"as large as the link":      {sized(t, 1500, none), 1500},
		"beyond a smaller link":     {sized(t, 1400, none), 1400},
		"beyond a link of 576":      {sized(t, 570, none), 576},
		"one word of IP options":    {sized(t, 1500, func(p *packet) { p.options = ipOptions(1) }), 1500},
		"ten words of IP options":   {sized(t, 1500, func(p *packet) { p.options = ipOptions(10) }), 1500},
		"a TOS, which stays inside": {sized(t, 1500, func(p *packet) { p.tos = 0xb8 }), 1500},
		"a datagram":                {sized(t, 1500, func(p *packet) { p.proto, p.to = udp, dns }), 1500},
		"a SYN with data":           {sized(t, 1500, func(p *packet) { p.flags = "S" }), 1500},
		"padding behind the packet": {sized(t, 1490, func(p *packet) { p.padding = make([]byte, 8) }), 1500},
		"another router's MAC":      {sized(t, 1490, func(p *packet) { p.sourceMAC = otherMAC }), 1500},
	}
	for name, c := range cases {
		for kind, packets := range map[string]int{"a new flow": 0, "a flow that has begun": 1, "an established flow": 2} {
			t.Run(kind+", "+name, func(t *testing.T) {
				b := dsrBalancer(t)
				b.configure(func(l *LBLbConfig) { l.Mtu = c.mtu })
				for range packets {
					small := c.p
					small.payload = nil
					b.forward(small)
				}
				before := b.counters()
				frame := c.p.frame(t)
				equalFrames(t, b.forwardFrame(frame), tooBig(t, frame, uint16(c.mtu-20)))
				after := b.counters()
				if n := after.drops["mtu_exceeded"] - before.drops["mtu_exceeded"]; n != 1 {
					t.Errorf("%d drops counted, want 1", n)
				}
				if n := after.icmp[LBIcmpDeedICMP_TOO_BIG_SENT] - before.icmp[LBIcmpDeedICMP_TOO_BIG_SENT]; n != 1 {
					t.Errorf("%d answers counted, want 1", n)
				}
				b.wantFlows(min(packets, 1), 0)
			})
		}
	}
}

func TestThatAnswerIsItselfRight(t *testing.T) {
	b := dsrBalancer(t)
	out := b.forwardFrame(sized(t, 1500, func(*packet) {}).frame(t))
	if len(out) != 14+20+8+68 {
		t.Errorf("a frame of %d bytes, want %d", len(out), 14+20+8+68)
	}
	if s := sumWords(out[14:34], 0); s != 0xffff {
		t.Errorf("the IP header sums to %#04x", s)
	}
	if s := sumWords(out[34:], 0); s != 0xffff {
		t.Errorf("the ICMP message sums to %#04x", s)
	}
	if mtu := binary.BigEndian.Uint16(out[40:]); mtu != 1480 {
		t.Errorf("the client is told %d, want 1480", mtu)
	}
}

func TestWhatMayBeFragmentedAndDoesNotFitIsDroppedInSilence(t *testing.T) {
	without := sized(t, 1481, func(p *packet) { p.fragment = 0 })
	first := sized(t, 1484, func(p *packet) { p.fragment = layers.IPv4MoreFragments })
	later := sized(t, 1481, func(p *packet) { p.fragment = layers.IPv4DontFragment })
	for kind, packets := range map[string]int{"a new flow": 0, "an established flow": 2} {
		t.Run(kind, func(t *testing.T) {
			b := dsrBalancer(t)
			for range packets {
				b.forward(request(40000, "A"))
			}
			b.drop(without.frame(t), "mtu_exceeded")
			b.drop(first.frame(t), "mtu_exceeded")
			b.wantFlows(min(packets, 1), 0)
			// A later fragment's first 8 bytes would tell the client nothing.
			b.forwardFrame(split(later.frame(t), 64)[0])
			b.drop(refragment(later.frame(t), 64, false), "mtu_exceeded")
			if got := b.counters().icmp; len(got) != 0 {
				t.Errorf("the client was told: %v", got)
			}
		})
	}
}

func TestWhatFitsLeavesWhole(t *testing.T) {
	m := backendMAC(3)
	ipip := func(b *balancer, frame []byte) []byte {
		return encapsulated(b.t, frame, lbMAC, m[:], lbAddress, backendAddress(3))
	}
	l2 := func(b *balancer, frame []byte) []byte {
		b.changeBackend(3, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
		return switched(frame)
	}
	snat := func(b *balancer, frame []byte) []byte {
		return translated(sized(b.t, len(frame)-14, func(*packet) {}), 40000, 3).frame(b.t)
	}
	for name, c := range map[string]struct {
		make   func(testing.TB) *balancer
		length int
		mtu    uint32
		want   func(*balancer, []byte) []byte
	}{
		"IP-in-IP, 1480 bytes":                   {dsrBalancer, 1480, 1500, ipip},
		"IP-in-IP, 1481 bytes by an MTU of 1501": {dsrBalancer, 1481, 1501, ipip},
		"IP-in-IP, 1500 bytes by an MTU of 1520": {dsrBalancer, 1500, 1520, ipip},
		"layer 2, 1500 bytes":                    {dsrBalancer, 1500, 1500, l2},
		"SNAT, 1500 bytes":                       {snatBalancer, 1500, 1500, snat},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.make(t)
			b.configure(func(l *LBLbConfig) { l.Mtu = c.mtu })
			frame := sized(t, c.length, func(*packet) {}).frame(t)
			want := c.want(b, frame)
			for range 3 { // new, established, and on the fast path
				equalFrames(t, b.forwardFrame(frame), want)
			}
		})
	}
}

// switched is what DSR by layer 2 makes of a frame to backend 3: other MACs.
func switched(frame []byte) []byte {
	m := backendMAC(3)
	return append(append(append([]byte(nil), m[:]...), lbMAC...), frame[12:]...)
}

func TestALayer2BackendNeedsTheWholeLink(t *testing.T) {
	b := dsrBalancer(t)
	b.changeBackend(3, func(e *LBBackend) { e.Encap = LBLbEncapLB_ENCAP_L2 })
	b.drop(sized(t, 1501, func(p *packet) { p.fragment = 0 }).frame(t), "mtu_exceeded")
	p := sized(t, 1500, func(p *packet) { p.from = netip.AddrPortFrom(client, 40001) })
	equalFrames(t, b.forward(p), switched(p.frame(t)))
}
