package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
	"l4lab/lab/capture"
)

// marked sends frames, and behind them one that must leave the balancer: when that
// has come, they were dealt with. Nothing else may leave.
func (p *paths) marked(s pathService, frames ...[]byte) sighting {
	GinkgoHelper()
	marker := netip.AddrPortFrom(s.family.stranger.Prev(), p.from(1))
	return p.watch(func() { p.sendToBalancer(append(frames, p.datagram(marker, s.Frontend, "marker"))...) }, func(seen sighting) (all []oracle.Frame) {
		for _, r := range seen.requests(s.Frontend) {
			if r.Source() == marker {
				all = append(all, p.tunnelled(s, r))
			}
		}
		return all
	})
}

// refused expects frames to be dropped, each counted under the reason, and nothing else to happen.
func (p *paths) refused(s pathService, reason string, frames ...[]byte) {
	GinkgoHelper()
	before := p.allDrops()
	before[reason] += uint64(len(frames))
	p.marked(s, frames...)
	Expect(p.allDrops()).To(Equal(before))
}

// allDrops are the counters of all reasons.
func (p *paths) allDrops() map[string]uint64 {
	GinkgoHelper()
	counters, err := p.agent.Counters(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	return counters.Drops
}

// changed is a copy of a frame with bytes of its IP packet changed, the header's checksum right again.
func changed(frame []byte, change func(ip []byte)) []byte {
	frame = slices.Clone(frame)
	change(frame[14:])
	if frame[14]>>4 == 4 && frame[14]&15 >= 5 {
		fixHeader(frame)
	}
	return frame
}

// refusals is about what never leaves the balancer, and what it never touches.
func (p *paths) refusals() {
	p.families(p.refusalsOf)

	DescribeTable("never forwards an IPv4 packet that lies, but counts it", Label("dsr"), func(reason string, change func(ip []byte)) {
		f := p.four()
		s := p.serving(f, "udp", nil)
		t := s.Service
		t.ID, t.Protocol, t.Backends = pathsID+1, "tcp", nil
		p.put(t, p.backend("be1", pathsPort))
		from := netip.AddrPortFrom(f.stranger, p.from(1))
		protocol := CurrentSpecReport().LeafNodeText
		frame := p.datagram(from, s.Frontend, strings.Repeat("d", 64))
		if strings.Contains(protocol, "TCP") {
			frame = append(p.segment(from, s.Frontend, "A"), make([]byte, 16)...)
			frame = changed(frame, func(ip []byte) { ip[3] += 16 })
		}
		p.refused(s, reason, changed(frame, change))
	},
		Entry("about its header's length", "malformed_ip", func(ip []byte) { ip[0] = 0x44 }),
		Entry("about a header longer than the packet", "malformed_ip", func(ip []byte) { ip[0], ip[2], ip[3] = 0x4f, 0, 40 }),
		Entry("about a total length beyond the frame", "malformed_ip", func(ip []byte) { ip[2] = 4 }),
		Entry("about a total length within its header", "malformed_ip", func(ip []byte) { ip[2], ip[3] = 0, 19 }),
		Entry("about a UDP header that is cut short", "malformed_l4", func(ip []byte) { ip[2], ip[3] = 0, 27 }),
		Entry("about UDP's length, beyond the packet", "malformed_l4", func(ip []byte) { ip[25]++ }),
		Entry("about UDP's length, below its header", "malformed_l4", func(ip []byte) { ip[24], ip[25] = 0, 7 }),
		Entry("about a TCP header that is cut short", "malformed_l4", func(ip []byte) { ip[2], ip[3] = 0, 39 }),
		Entry("about TCP's data offset, below the header", "malformed_l4", func(ip []byte) { ip[32] = 0x40 }),
		Entry("about TCP's data offset, beyond the packet", "malformed_l4", func(ip []byte) { ip[32] = 0xf0 }),
		Entry("by a later fragment whose first was not seen", "fragment", func(ip []byte) { ip[6], ip[7] = 0, 9 }),
		Entry("by a later fragment inside of the TCP header", "fragment", func(ip []byte) { ip[6], ip[7] = 0, 1 }),
		Entry("by a first fragment of TCP without the whole header", "fragment", func(ip []byte) { ip[2], ip[3], ip[6] = 0, 20+16, 0x20 }),
		Entry("by a first fragment that is no multiple of 8 bytes", "fragment", func(ip []byte) { ip[3]--; ip[6] = 0x20 }),
		Entry("by a later fragment that would end beyond 65535", "fragment", func(ip []byte) { ip[6], ip[7] = 0x1f, 0xff }),
	)

	DescribeTable("never forwards an IPv6 packet that lies or hides, but counts it", Label("dsr"), func(reason string, build func(f ipFamily, from netip.AddrPort) []byte) {
		f := p.six()
		s := p.serving(f, "udp", nil)
		p.refused(s, reason, build(f, netip.AddrPortFrom(f.stranger, p.from(1))))
	},
		Entry("about a payload length beyond the frame", "malformed_ip", func(f ipFamily, from netip.AddrPort) []byte {
			return changed(p.datagram(from, netip.AddrPortFrom(f.vip, pathsPort), "six"), func(ip []byte) { ip[4] = 4 })
		}),
		Entry("about a UDP header that is cut short", "malformed_l4", func(f ipFamily, from netip.AddrPort) []byte {
			return changed(p.datagram(from, netip.AddrPortFrom(f.vip, pathsPort), "six"), func(ip []byte) { ip[4], ip[5] = 0, 7 })
		}),
		Entry("about UDP's length", "malformed_l4", func(f ipFamily, from netip.AddrPort) []byte {
			return changed(p.datagram(from, netip.AddrPortFrom(f.vip, pathsPort), "six"), func(ip []byte) { ip[45]++ })
		}),
		Entry("by a later fragment whose first was not seen", "fragment", func(f ipFamily, from netip.AddrPort) []byte {
			return p.extended(f, from, 44, []byte{17, 0, 0, 0x48, 0, 0, 0, byte(from.Port())})
		}),
		Entry("behind a routing header", "extension_header", func(f ipFamily, from netip.AddrPort) []byte {
			return p.extended(f, from, 43, []byte{17, 0, 4, 0, 0, 0, 0, 0})
		}),
		Entry("behind five destination headers", "extension_header", func(f ipFamily, from netip.AddrPort) []byte {
			padding := []byte{60, 0, 1, 4, 0, 0, 0, 0}
			return p.extended(f, from, 60, slices.Concat(padding, padding, padding, padding, []byte{17, 0, 1, 4, 0, 0, 0, 0}))
		}),
	)

	It("never forwards a later fragment that has no hop left, though its first one had", Label("dsr"), func() {
		f := p.four()
		s := p.serving(f, "udp", nil)
		whole := p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), s.Frontend, strings.Repeat("f", 64))
		const cut = 14 + 20 + 32
		first := changed(whole[:cut], func(ip []byte) { ip[2], ip[3], ip[6] = 0, cut-14, 0x20 })
		later := changed(slices.Concat(whole[:34], whole[cut:]), func(ip []byte) { ip[3], ip[6], ip[7], ip[8] = byte(len(whole)-32-14), 0, 32/8, 1 })
		before := p.allDrops()
		before["ttl_expired"]++
		p.watch(func() {
			p.sendToBalancer(first, later, p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), s.Frontend, "marker"))
		}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, r) }))
		Expect(p.allDrops()).To(Equal(before))
	})

	It("never touches ARP, VLAN-tagged frames, other addresses, ports, protocols, or what is encapsulated already", Label("dsr"), func() {
		f := p.four()
		s := p.serving(f, "udp", nil)
		from := netip.AddrPortFrom(f.stranger, p.from(1))
		request := p.datagram(from, s.Frontend, "a request")
		tag := slices.Concat(request[:12], []byte{0x81, 0, 0x60, 7}, request[12:])
		other := netip.AddrPortFrom(f.vip, pathsPort+1)
		frames := map[string][]byte{
			"ARP for the VIP":                        p.arpFor(f.vip),
			"a VLAN tag":                             tag,
			"another address":                        p.datagram(from, netip.AddrPortFrom(f.gone, pathsPort), "not ours"),
			"another port":                           p.datagram(from, other, "not ours"),
			"another port, TTL 1":                    changed(p.datagram(from, other, "not ours"), func(ip []byte) { ip[8] = 1 }),
			"another protocol":                       p.segment(from, s.Frontend, "S"),
			"GRE":                                    p.build(headerOf(f.stranger, f.vip, layers.IPProtocolGRE), gopacket.Payload(make([]byte, 32))),
			"IP-in-IP for the VIP":                   p.build(headerOf(f.stranger, f.vip, layers.IPProtocolIPv4), gopacket.Payload(request[14:])),
			"what the balancer itself encapsulated":  p.build(headerOf(f.own, f.vip, layers.IPProtocolIPv4), gopacket.Payload(request[14:])),
			"IPv6 for an address of nobody's":        p.datagram(netip.AddrPortFrom(p.six().stranger, 5), netip.AddrPortFrom(p.six().gone, pathsPort), "not ours"),
			"another address, malformed":             changed(p.datagram(from, netip.AddrPortFrom(f.gone, pathsPort), "not ours"), func(ip []byte) { ip[3]++ }),
			"broadcast, though it names the service": slices.Concat([]byte{255, 255, 255, 255, 255, 255}, request[6:]),
		}
		before := p.allDrops()
		inside, err := p.l.Capture(GinkgoT().Context(), capture.Place{Machine: "lb"})
		Expect(err).NotTo(HaveOccurred())
		defer func() { _, _ = inside.Stop() }()
		var all [][]byte
		for _, frame := range frames {
			all = append(all, frame)
		}
		p.marked(s, all...)
		_, err = inside.Stop()
		Expect(err).NotTo(HaveOccurred())
		var reached []string
		for _, c := range inside.Frames() {
			data := c.Data
			if c.VLAN != 0 { // the kernel takes it out of the frame
				data = slices.Concat(data[:12], []byte{0x81, 0, byte(c.VLAN >> 8), byte(c.VLAN)}, data[12:])
			}
			reached = append(reached, string(data))
		}
		for name, frame := range frames {
			Expect(slices.Contains(reached, string(frame))).To(BeTrue(), "%s reaches the balancer's own stack as it was sent", name)
		}
		Expect(p.allDrops()).To(Equal(before))
	})
}

func (p *paths) refusalsOf(of func() ipFamily) {
	It("never forwards a packet that has no hop left", Label("dsr"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		at := map[bool]int{true: 7, false: 8}[f.own.Is6()]
		frame := p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), s.Frontend, "the end")
		p.refused(s, "ttl_expired", changed(frame, func(ip []byte) { ip[at] = 1 }), changed(frame, func(ip []byte) { ip[at] = 0 }))
	})

	It("gives clients that are not let in nothing, not even a reset", Label("dsr"), func() {
		f := of()
		sources := []netip.Prefix{netip.PrefixFrom(f.stranger.Prev(), f.own.BitLen())}
		s := p.serving(f, "udp", func(s *api.Service) { s.Sources = sources })
		var frames [][]byte
		for range 5 {
			frames = append(frames, p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), s.Frontend, "let me in"))
		}
		p.refused(s, "source_denied", frames...) // the marker is let in
	})

	It("never sends to a wrong MAC while a backend's own is not known", Label("dsr"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		nobody := s.Service
		nobody.ID, nobody.Frontend, nobody.Backends = pathsID+1, netip.AddrPortFrom(f.vip, pathsPort+2), nil
		p.put(nobody, netip.AddrPortFrom(f.stranger.Next().Next(), nobody.Frontend.Port()))
		var frames [][]byte
		for range 3 {
			frames = append(frames, p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), nobody.Frontend, "to nobody"))
		}
		p.refused(s, "no_neighbour", frames...)
	})

	It("drops a reset of no flow in SNAT, where no backend could know it", Label("snat"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		snat := s.Service
		snat.ID, snat.Protocol, snat.Mode, snat.Backends = pathsID+1, "tcp", "snat", nil
		p.put(snat, netip.AddrPortFrom(f.backends["be1"], pathsPort))
		p.refused(s, "no_flow", p.segment(netip.AddrPortFrom(f.stranger, p.pool(1)), snat.Frontend, "R"))
	})
}

// extended is an IPv6 datagram behind extension headers.
func (p *paths) extended(f ipFamily, from netip.AddrPort, next layers.IPProtocol, headers []byte) []byte {
	GinkgoHelper()
	whole := p.datagram(from, netip.AddrPortFrom(f.vip, pathsPort), fmt.Sprintf("behind %d", next))
	return p.build(headerOf(from.Addr(), f.vip, next), gopacket.Payload(slices.Concat(headers, whole[54:])))
}

// arpFor is a client's question for an address (RFC 826).
func (p *paths) arpFor(address netip.Addr) []byte {
	GinkgoHelper()
	eth := &layers.Ethernet{SrcMAC: p.macs["client"], DstMAC: []byte{255, 255, 255, 255, 255, 255}, EthernetType: layers.EthernetTypeARP}
	return serializeFrame(gopacket.SerializeOptions{}, eth, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
		SourceHwAddress: p.macs["client"], SourceProtAddress: p.t.Client.Address.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: address.AsSlice(),
	})
}
