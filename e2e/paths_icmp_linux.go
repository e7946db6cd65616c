package e2e

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/bpf"
	"l4lab/e2e/oracle"
)

// messages is about ICMP of both families.
func (p *paths) messages() {
	p.families(p.messagesOf)

	It("drops what is too big and may be fragmented, and counts it", Label("dsr", "mtu"), func() {
		f := p.four()
		s := p.serving(f, "udp", nil)
		from := netip.AddrPortFrom(f.stranger, p.from(1))
		frame := p.datagram(from, s.Frontend, strings.Repeat("x", 1472))
		frame[20] &^= 0x40 // DF
		fixHeader(frame)
		p.refused(s, "mtu_exceeded", frame)
	})
}

// fixHeader makes the checksum of a frame's IPv4 header right.
func fixHeader(frame []byte) {
	header := frame[14 : 14+int(frame[14]&15)*4]
	header[10], header[11] = 0, 0
	sum := internetChecksum(header, 0)
	header[10], header[11] = byte(sum>>8), byte(sum)
}

func (p *paths) messagesOf(of func() ipFamily) {
	It("answers echo requests to the VIP with the same, ends exchanged", Label("icmp"), func() {
		f := of()
		p.serving(f, "udp", nil)
		before := p.deeds(bpf.LBIcmpDeedICMP_ECHO_ANSWERED)
		seen := p.watch(func() {
			for i, size := range []int{0, 1, 56, 1000, 1400} {
				p.send("client", p.echoRequest(f, i, size))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			for _, r := range seen["lb"].to {
				if _, _, icmp := r.ICMPType(); icmp && r.Dest().Addr() == f.vip {
					all = append(all, oracle.EchoReply(r))
				}
			}
			return all
		})
		Expect(seen["lb"].from).To(HaveLen(5))
		Expect(p.deeds(bpf.LBIcmpDeedICMP_ECHO_ANSWERED)).To(Equal(before + 5))
	})

	It("brings errors about DSR's replies to the backend that sent them, unchanged inside", Label("dsr", "icmp"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		first := p.from(12)
		taps := map[string]*stackTap{}
		for _, name := range p.t.Backends() {
			taps[name] = p.atStack(name, f)
		}
		before := p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_BACKEND)
		turn := func(r oracle.Frame) (netip.Addr, oracle.Frame) {
			q := oracle.Quote(r)
			to := oracle.Flow{Client: q.Dest, Frontend: q.Source, Protocol: oracle.UDP}.Choose(s.table, false).Addr()
			return to, oracle.Tunnelled(r, p.leg(f, to), f.own, to)
		}
		errors := func(seen sighting) []oracle.Frame {
			return slices.DeleteFunc(slices.Clone(seen["lb"].to), func(r oracle.Frame) bool { return !oracle.IsError(r) || r.Dest().Addr() != f.vip })
		}
		seen := p.watch(func() {
			for i := range uint16(12) { // the second half's flows are not known: the hash says where they would be
				from := netip.AddrPortFrom(f.stranger, first+i)
				if i < 6 {
					p.send("client", p.datagram(from, s.Frontend, "known"))
				}
				p.send("client", p.report(f, f.stranger.Next(), f.vip, p.datagram(s.Frontend, from, strings.Repeat("reply", 20)), i%2 == 0))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			for _, r := range seen.requests(s.Frontend) {
				all = append(all, p.tunnelled(s, r))
			}
			for _, r := range errors(seen) {
				_, sent := turn(r)
				all = append(all, sent)
			}
			return all
		})
		Expect(p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_BACKEND)).To(Equal(before + 12))
		By("handing the backend's stack what came")
		its := map[netip.Addr][]oracle.Frame{}
		for _, r := range errors(seen) {
			to, sent := turn(r)
			its[to] = append(its[to], oracle.Decapsulated(sent))
		}
		for name, tap := range taps {
			Eventually(func() []string {
				return oracle.Match(its[f.backends[name]], slices.DeleteFunc(tap.to(netip.AddrPortFrom(f.vip, 0)), func(r oracle.Frame) bool { return !oracle.IsError(r) }))
			}).Should(BeEmpty(), name)
		}
	})

	It("brings errors about SNAT's packets to the client and to the backend, the quoted headers translated", Label("snat", "icmp"), func() {
		f := of()
		s := p.serving(f, "udp", func(s *api.Service) { s.Mode = "snat" })
		// Nobody listens there: the backends' own stacks report it.
		before := p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_CLIENT)
		first := p.pool(4)
		p.watch(func() {
			for i := range uint16(4) {
				p.send("client", p.datagram(netip.AddrPortFrom(f.stranger, first+i), s.Frontend, strings.Repeat("nobody", 30)))
			}
			Eventually(func() uint64 { return p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_CLIENT) }).Should(BeNumerically(">=", before+4))
		}, p.rewritten(s, kept))

		By("and the other way")
		before = p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_BACKEND)
		p.watch(func() {
			for i := range uint16(4) {
				client := netip.AddrPortFrom(f.stranger, first+i)
				p.send("client", p.report(f, f.stranger, f.vip, p.datagram(s.Frontend, client, strings.Repeat("reply", 20)), i%2 == 0))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			for _, r := range seen["lb"].to {
				if !oracle.IsError(r) || r.Dest().Addr() != f.vip {
					continue
				}
				client := oracle.Quote(r).Dest
				to := oracle.Flow{Client: client, Frontend: s.Frontend, Protocol: oracle.UDP}.Choose(s.table, false)
				all = append(all, oracle.TranslatedError(r, p.leg(f, to.Addr()), to, netip.AddrPortFrom(f.own, client.Port())))
			}
			return all
		})
		Expect(p.deeds(bpf.LBIcmpDeedICMP_ERROR_TO_BACKEND)).To(Equal(before + 4))
	})

	It("tells a client from the VIP which size fits, and takes that size", Label("dsr", "icmp", "mtu"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		fits := p.t.Switch.MTU - f.outer
		header := map[int]int{20: 28, 40: 48}[f.outer] // IP and UDP
		from := netip.AddrPortFrom(f.stranger, p.from(1))
		before, dropped := p.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT), p.drops("mtu_exceeded")
		seen := p.watch(func() {
			for _, size := range []int{fits, fits + 1, p.t.Switch.MTU} {
				p.send("client", p.datagram(from, s.Frontend, strings.Repeat("x", size-header)))
			}
		}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame {
			if r.Length() > fits {
				return oracle.TooBig(r, fits)
			}
			return p.tunnelled(s, r)
		}))
		Expect(seen["lb"].from).To(HaveLen(3))
		Expect(p.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT)).To(Equal(before + 2))
		Expect(p.drops("mtu_exceeded")).To(Equal(dropped + 2))
	})
}

// echoRequest is a ping of the stranger's to the VIP.
func (p *paths) echoRequest(f ipFamily, sequence, size int) []byte {
	GinkgoHelper()
	data := gopacket.Payload(strings.Repeat("p", size))
	if f.own.Is4() {
		return p.build(headerOf(f.stranger, f.vip, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 77, Seq: uint16(sequence)}, data)
	}
	return p.build(headerOf(f.stranger, f.vip, layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)},
		&layers.ICMPv6Echo{Identifier: 77, SeqNumber: uint16(sequence)}, data)
}

// report is an error about a packet, as much of it as RFC 792 asks for, or more: too big, or time exceeded.
func (p *paths) report(f ipFamily, from, to netip.Addr, about []byte, tooBig bool) []byte {
	GinkgoHelper()
	quoted := about[14:]
	if f.own.Is4() {
		kind := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimeExceeded, 0)
		if tooBig {
			kind = layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded)
			quoted = quoted[:28]
		}
		return p.build(headerOf(from, to, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: kind, Seq: 1400}, gopacket.Payload(quoted))
	}
	kind, rest := layers.CreateICMPv6TypeCode(layers.ICMPv6TypeTimeExceeded, 0), []byte{0, 0, 0, 0}
	if tooBig {
		kind, rest = layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0), []byte{0, 0, 5, 120}
	}
	return p.build(headerOf(from, to, layers.IPProtocolICMPv6), &layers.ICMPv6{TypeCode: kind}, gopacket.Payload(append(rest, quoted...)))
}
