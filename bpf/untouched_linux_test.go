package bpf

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// modes are both modes with a balancer that serves in it.
var modes = map[string]func(testing.TB) *balancer{"DSR": dsrBalancer, "SNAT": snatBalancer}

// raw builds a frame of any layers to the balancer's MAC.
func raw(t testing.TB, kind layers.EthernetType, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: lbMAC, EthernetType: kind}
	return serialize(t, append([]gopacket.SerializableLayer{eth}, parts...)...)
}

func TestWhatIsNotForAServicePassesUntouched(t *testing.T) {
	to := func(change func(*packet)) []byte {
		p := request(40000, "S")
		change(&p)
		return p.frame(t)
	}
	ip := func(proto layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: client.AsSlice(), DstIP: vip.AsSlice()}
	}
	six := &layers.IPv6{
		Version: 6, NextHeader: layers.IPProtocolNoNextHeader, HopLimit: 64,
		SrcIP: make([]byte, 16), DstIP: make([]byte, 16),
	}
	whole := request(40000, "S").frame(t)
	cases := map[string][]byte{
		"ARP": raw(t, layers.EthernetTypeARP, &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: routerMAC, SourceProtAddress: client.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: vip.AsSlice(),
		}),
		"IPv6":             raw(t, layers.EthernetTypeIPv6, six),
		"a VLAN tag":       raw(t, layers.EthernetTypeDot1Q, &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, gopacket.Payload(whole[14:])),
		"another MAC":      to(func(p *packet) { p.destMAC = otherMAC }),
		"broadcast":        to(func(p *packet) { p.destMAC = mac("ff:ff:ff:ff:ff:ff") }),
		"another address":  to(func(p *packet) { p.to = addrPort("40.1.1.2:80") }),
		"another port":     to(func(p *packet) { p.to = addrPort("40.1.1.1:81") }),
		"another protocol": to(func(p *packet) { p.proto = udp }),
		"the LB's own SSH": to(func(p *packet) { p.to = addrPort("20.1.1.1:22") }),
		"an echo request to the VIP": raw(t, layers.EthernetTypeIPv4, ip(layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 1, Seq: 1}),
		"IP-in-IP to the VIP":                 raw(t, layers.EthernetTypeIPv4, ip(layers.IPProtocolIPv4), gopacket.Payload(whole[14:])),
		"a later fragment":                    to(func(p *packet) { p.offset = 100 }),
		"a later fragment that more follow":   to(func(p *packet) { p.offset, p.fragment = 100, layers.IPv4MoreFragments }),
		"a frame of an Ethernet header alone": whole[:14],
		"a frame that ends in the IP header":  whole[:33],
		"a frame that ends before the ports":  whole[:37],
		"a version that is not 4": func() []byte {
			f := request(40000, "S").frame(t)
			f[14] = 0x65
			return f
		}(),
	}
	for mode, make := range modes {
		b := make(t)
		for name, frame := range cases {
			t.Run(mode+", "+name, func(t *testing.T) {
				b.t = t
				b.pass(frame)
				b.wantFlows(0, 0)
			})
		}
	}
}

func TestABalancerThatIsNotConfiguredPassesEverything(t *testing.T) {
	b := dsrBalancer(t)
	b.configure(func(c *LBLbConfig) { *c = LBLbConfig{} })
	b.pass(request(40000, "S").frame(t))
}

func TestMalformedPacketsOfAServiceAreDropped(t *testing.T) {
	edit := func(p packet, change func(frame []byte) []byte) []byte { return change(p.frame(t)) }
	length := func(n int) func([]byte) []byte {
		return func(f []byte) []byte {
			binary.BigEndian.PutUint16(f[16:], uint16(n))
			return f
		}
	}
	data := request(40000, "A")
	data.payload = []byte("data")
	question := datagram(40000, "data")
	long := question
	long.payload = make([]byte, 100)
	with := func(p packet, change func(*packet)) []byte {
		change(&p)
		return p.frame(t)
	}
	cases := map[string]struct {
		frame  []byte
		reason string
	}{
		"an IHL of 4":                                {edit(data, func(f []byte) []byte { f[14] = 0x44; return f }), "malformed_ip"},
		"an IHL of 0":                                {edit(data, func(f []byte) []byte { f[14] = 0x40; return f }), "malformed_ip"},
		"a total length beyond the frame":            {edit(data, length(47)), "malformed_ip"},
		"the largest total length":                   {edit(data, length(65535)), "malformed_ip"},
		"a total length below the IP header":         {edit(data, length(19)), "malformed_ip"},
		"a total length of 0":                        {edit(data, length(0)), "malformed_ip"},
		"a total length that ends in the TCP header": {edit(data, length(39)), "malformed_l4"},
		"a frame that ends in the TCP header":        {edit(data, func(f []byte) []byte { return length(30)(f[:44]) }), "malformed_l4"},
		"a TCP data offset of 4":                     {edit(data, func(f []byte) []byte { f[46] = 0x40; return f }), "malformed_l4"},
		"a TCP data offset of 0":                     {edit(data, func(f []byte) []byte { f[46] = 0; return f }), "malformed_l4"},
		"a TCP data offset beyond the segment":       {edit(data, func(f []byte) []byte { f[46] = 0x70; return f }), "malformed_l4"},
		"a TCP header that the padding completes": {edit(packet{
			sourceMAC: routerMAC, destMAC: lbMAC, proto: tcp, flags: "S", ttl: 64, from: data.from, to: data.to,
		}, length(36)), "malformed_l4"},
		"a total length that ends in the UDP header": {edit(question, length(27)), "malformed_l4"},
		"a UDP length below its header":              {edit(question, func(f []byte) []byte { f[39] = 7; return f }), "malformed_l4"},
		"a UDP length beyond the packet":             {edit(question, func(f []byte) []byte { f[39] = 13; return f }), "malformed_l4"},
		"the first fragment of a segment":            {with(data, func(p *packet) { p.fragment = layers.IPv4MoreFragments }), "fragment"},
		"the first fragment of a datagram": {edit(long, func(f []byte) []byte {
			f[20] |= 0x20
			return length(20 + 48)(f[:14+20+48])
		}), "fragment"},
		"a TTL of 1":            {with(data, func(p *packet) { p.ttl = 1 }), "ttl_expired"},
		"a TTL of 0":            {with(data, func(p *packet) { p.ttl = 0 }), "ttl_expired"},
		"a datagram's TTL of 1": {with(question, func(p *packet) { p.ttl = 1 }), "ttl_expired"},
	}
	for mode, make := range modes {
		b := make(t)
		for name, c := range cases {
			t.Run(mode+", "+name, func(t *testing.T) {
				b.t = t
				b.drop(c.frame, c.reason)
				b.wantFlows(0, 0)
			})
		}
	}
}

func TestMalformedRepliesAreDropped(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	reply := answer(3, 40000, 6, "A")
	fragment, old := reply, reply
	fragment.fragment = layers.IPv4MoreFragments
	old.ttl = 1
	lies := reply.frame(t)
	lies[46] = 0xf0
	short := reply.frame(t)
	short[17] = 60
	for name, c := range map[string]struct {
		frame  []byte
		reason string
	}{
		"a first fragment":                {fragment.frame(t), "fragment"},
		"a TTL of 1":                      {old.frame(t), "ttl_expired"},
		"a TCP data offset that lies":     {lies, "malformed_l4"},
		"a total length beyond the frame": {short, "malformed_ip"},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			b.drop(c.frame, c.reason)
		})
	}
	later := reply
	later.offset = 10
	t.Run("but a later fragment has no ports and passes", func(t *testing.T) {
		b.t = t
		b.pass(later.frame(t))
	})
}
