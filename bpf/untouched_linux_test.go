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
		"an echo reply to the VIP": raw(t, layers.EthernetTypeIPv4, ip(layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0), Id: 1, Seq: 1}),
		"IP-in-IP to the VIP":      raw(t, layers.EthernetTypeIPv4, ip(layers.IPProtocolIPv4), gopacket.Payload(whole[14:])),
		"IP-in-IP to the balancer": encapsulated(t, whole, routerMAC, lbMAC, lbAddress, lbAddress),
		"GRE to the VIP":           raw(t, layers.EthernetTypeIPv4, ip(layers.IPProtocolGRE), gopacket.Payload(whole[14:])),
		"what the balancer itself has encapsulated, come back": encapsulated(t, whole, routerMAC, lbMAC, lbAddress, vip),
		"a TTL of 1 to another port":                           to(func(p *packet) { p.to, p.ttl = addrPort("40.1.1.1:81"), 1 }),
		"a malformed packet to another address": to(func(p *packet) {
			p.to, p.fragment = addrPort("40.1.1.2:80"), layers.IPv4MoreFragments
		})[:50],
		"a later fragment to another address": to(func(p *packet) { p.to, p.offset = addrPort("40.1.1.2:80"), 100 }),
		"a frame of an Ethernet header alone": whole[:14],
		"a frame that ends in the IP header":  whole[:33],
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
	whole := data.frame(t)
	with := func(p packet, change func(*packet)) []byte {
		change(&p)
		return p.frame(t)
	}
	cases := map[string]struct {
		frame  []byte
		reason string
	}{
		"a version that is not 4":                    {edit(data, func(f []byte) []byte { f[14] = 0x65; return f }), "malformed_ip"},
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
		"an IHL beyond the packet":                   {edit(data, func(f []byte) []byte { f[14] = 0x4f; return f }), "malformed_ip"},
		"a frame that ends before the ports":         {whole[:37], "malformed_ip"},
		"a lie to a port without a service":          {edit(data, func(f []byte) []byte { f[37] = 81; return length(47)(f) }), "malformed_ip"},
		"a cut header to a port without a service":   {edit(data, func(f []byte) []byte { f[37] = 81; return length(39)(f) }), "malformed_l4"},
		"a lie of a protocol without a service":      {edit(data, func(f []byte) []byte { f[23] = 47; return length(19)(f) }), "malformed_ip"},
		"a TTL of 1":                                 {with(data, func(p *packet) { p.ttl = 1 }), "ttl_expired"},
		"a TTL of 0":                                 {with(data, func(p *packet) { p.ttl = 0 }), "ttl_expired"},
		"a datagram's TTL of 1":                      {with(question, func(p *packet) { p.ttl = 1 }), "ttl_expired"},
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

func TestRepliesThatMustNotBeForwardedGoNoFurther(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.forward(request(40000, "A"))
	reply := answer(3, 40000, 6, "A")
	edit := func(change func([]byte)) []byte {
		f := reply.frame(t)
		change(f)
		return f
	}
	old := reply
	old.ttl = 1
	later := reply
	later.offset = 10
	t.Run("a TTL of 1 is dropped", func(t *testing.T) {
		b.t = t
		b.drop(old.frame(t), "ttl_expired")
	})
	// Without ports that can be believed it may be anybody's: the stack judges.
	for name, frame := range map[string][]byte{
		"a TCP data offset that lies":             edit(func(f []byte) { f[46] = 0xf0 }),
		"a total length beyond the frame":         edit(func(f []byte) { f[17] = 60 }),
		"a total length that ends in the header":  edit(func(f []byte) { f[17] = 39 }),
		"an IHL of 4":                             edit(func(f []byte) { f[14] = 0x44 }),
		"a later fragment whose first is unknown": later.frame(t),
	} {
		t.Run(name+" passes", func(t *testing.T) {
			b.t = t
			b.pass(frame)
		})
	}
}
