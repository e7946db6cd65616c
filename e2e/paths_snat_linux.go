package e2e

import (
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
)

// poolFirst is the first port of SNAT's pool, of which the last one is 65535.
const poolFirst = 32768

// pool returns the first of n fresh ports of the client's inside SNAT's pool.
func (p *paths) pool(n int) uint16 { return p.from(n) + poolFirst }

// natPorts says under which port the balancer speaks for a client.
type natPorts func(client netip.AddrPort) uint16

// kept is what must hold where the client's port is in the pool and free.
func kept(client netip.AddrPort) uint16 { return client.Port() }

// rewritten is all that may leave the balancer in SNAT, both ways: packets, the fragments
// that follow them, and errors about them.
func (p *paths) rewritten(s pathService, ports natPorts) func(sighting) []oracle.Frame {
	return func(seen sighting) (all []oracle.Frame) {
		clients := map[netip.AddrPort]netip.AddrPort{} // by the balancer's address and port
		first := map[string]oracle.Frame{}
		for _, f := range seen["lb"].to {
			head := f
			if f.Inner().Fragment() {
				if f.Dest().Port() != 0 {
					first[f.FragmentID()] = f
				}
				head = first[f.FragmentID()]
			}
			own := netip.AddrPortFrom(s.family.own, head.Dest().Port())
			switch {
			case head.Dest() == s.Frontend:
				nat := netip.AddrPortFrom(s.family.own, ports(head.Source()))
				clients[nat] = head.Source()
				to := s.backend(head)
				all = append(all, oracle.Translated(p.bounded(s, f), p.leg(s.family, to.Addr()), nat, to))
			case oracle.IsError(f) && f.Dest().Addr() == s.family.own:
				client := clients[oracle.Quote(f).Source]
				all = append(all, oracle.TranslatedError(f, p.leg(s.family, client.Addr()), client, s.Frontend))
			case head.Dest() == own && clients[own].IsValid():
				all = append(all, oracle.Translated(p.bounded(s, f), p.leg(s.family, clients[own].Addr()), s.Frontend, clients[own]))
			}
		}
		return all
	}
}

// bounded is a handshake's segment with the service's MSS.
func (p *paths) bounded(s pathService, f oracle.Frame) oracle.Frame {
	if s.MSS == 0 || !f.Has(2) {
		return f
	}
	return oracle.Clamped(f, s.MSS)
}

func (p *paths) translated() {
	p.families(p.translatedOf)

	It("translates packets with IPv4 options, which stay as they are", func() {
		f := p.four()
		s := p.serving(f, "udp", func(s *api.Service) { s.Mode = "snat" })
		for name, option := range ipOptions {
			By(name)
			p.watch(func() { p.send("client", p.optioned(netip.AddrPortFrom(f.stranger, p.pool(1)), s.Frontend, option)) }, p.rewritten(s, kept))
		}
	})

	It("leaves a UDP checksum of 0 alone, and repairs no wrong one", func() {
		f := p.four()
		s := p.serving(f, "udp", func(s *api.Service) { s.Mode = "snat" })
		p.answering(f, p.t.Backends()...)
		for name, sum := range map[string][]byte{"none": {0, 0}, "a wrong one": {0xbe, 0xef}} {
			By(name)
			frame := p.datagram(netip.AddrPortFrom(f.stranger, p.pool(1)), s.Frontend, "checksum")
			copy(frame[40:], sum)
			want := p.rewritten(s, kept)
			if name == "none" {
				p.watch(func() { p.send("client", frame) }, want)
			} else {
				p.watchFaulty(func() { p.send("client", frame) }, want)
			}
		}
	})
}

func (p *paths) translatedOf(of func() ipFamily) {
	snat := func(s *api.Service) { s.Mode = "snat" }

	It("translates each packet of TCP connections in both directions, and changes nothing else", func() {
		f := of()
		s := p.serving(f, "tcp", snat)
		taps := map[string]*stackTap{}
		for _, name := range p.t.Backends() {
			p.serve(name, pathsPort)
			taps[name] = p.atStack(name, f)
		}
		const connections = 24
		before := p.counted()
		want := func(seen sighting) []oracle.Frame {
			if finished(seen.requests(s.Frontend)) < connections || finished(seen.replies(f.own)) < connections {
				return nil // not over yet
			}
			return p.rewritten(s, kept)(seen)
		}
		seen := p.watch(func() {
			for range connections {
				c, err := converseFrom(p.machine("client"), s.Frontend)
				Expect(err).NotTo(HaveOccurred())
				c.part()
			}
		}, want)

		By("handing each backend's stack what left the balancer for it")
		byBackend := map[string][]oracle.Frame{}
		var all api.Traffic
		opened := map[netip.AddrPort]bool{}
		for _, r := range seen.requests(s.Frontend) {
			to := s.backend(r)
			for name, address := range f.backends {
				if address == to.Addr() {
					nat := netip.AddrPortFrom(f.own, r.Source().Port())
					byBackend[name] = append(byBackend[name], oracle.Translated(r, p.leg(f, address), nat, to))
				}
			}
			countPacket(&all, true, r)
			if opens(opened, r) {
				all.Connections++
			}
		}
		for _, r := range seen.replies(f.own) {
			countPacket(&all, false, r)
		}
		Expect(byBackend).To(HaveLen(4), "backends that %d connections reach", connections)
		for name, tap := range taps {
			Eventually(func() []string {
				return oracle.Match(byBackend[name], tap.to(netip.AddrPortFrom(f.backends[name], pathsPort)))
			}).Should(BeEmpty(), name)
		}
		By("counting what was captured")
		service, _ := countedSince(before, p.counted())
		Expect(service).To(Equal(all))
	})

	It("translates datagrams both ways, in fragments too", func() {
		f := of()
		s := p.serving(f, "udp", snat)
		p.answering(f, p.t.Backends()...)
		before := p.counted()
		seen := p.watch(func() {
			first := p.pool(8)
			for i := range uint16(8) {
				p.exchange(netip.AddrPortFrom(f.client, first+i), s.Frontend, "whole", strings.Repeat("0123456", 500))
			}
		}, p.rewritten(s, kept))
		var all api.Traffic
		all.Connections = 8
		for _, r := range seen["lb"].to {
			countPacket(&all, r.Dest().Addr() == f.vip, r)
		}
		service, _ := countedSince(before, p.counted())
		Expect(service).To(Equal(all))
		Expect(all.RxPackets).To(BeNumerically(">=", 8*4), "one, and three fragments each")
	})

	It("keeps a client's port where it is free and in the pool, and takes another one of the pool where it is not", func() {
		f := of()
		s := p.serving(f, "udp", snat, "be1")
		port := p.pool(1)
		a, b := netip.AddrPortFrom(f.stranger, port), netip.AddrPortFrom(f.stranger.Next(), port)
		outside := netip.AddrPortFrom(f.stranger, p.from(1))
		ports := map[netip.AddrPort]uint16{}
		p.watch(func() {
			for _, from := range []netip.AddrPort{a, b, outside, a, b, outside} {
				p.send("client", p.datagram(from, s.Frontend, from.String()))
			}
		}, func(seen sighting) []oracle.Frame {
			ports = map[netip.AddrPort]uint16{}
			for _, sent := range seen["lb"].from {
				client, err := netip.ParseAddrPort(string(sent.Payload()))
				if _, known := ports[client]; err == nil && !known && sent.Source().Addr() == f.own {
					ports[client] = sent.Source().Port()
				}
			}
			return p.rewritten(s, func(client netip.AddrPort) uint16 { return ports[client] })(seen)
		})
		Expect(ports).To(HaveKeyWithValue(a, port))
		Expect(ports[b]).To(BeNumerically(">=", poolFirst))
		Expect(ports[outside]).To(BeNumerically(">=", poolFirst))
		Expect([]uint16{ports[b], ports[outside]}).NotTo(ContainElement(port))
		Expect(ports[b]).NotTo(Equal(ports[outside]))
	})

	It("clamps the MSS of both handshake segments", Label("mtu"), func() {
		f := of()
		s := p.serving(f, "tcp", func(s *api.Service) { s.Mode, s.MSS = "snat", 1200 })
		for _, name := range p.t.Backends() {
			p.serve(name, pathsPort)
		}
		seen := p.watch(func() {
			c, err := converseFrom(p.machine("client"), s.Frontend)
			Expect(err).NotTo(HaveOccurred())
			c.part()
		}, func(seen sighting) []oracle.Frame {
			if finished(seen.requests(s.Frontend)) < 1 || finished(seen.replies(f.own)) < 1 {
				return nil
			}
			return p.rewritten(s, kept)(seen)
		})
		for _, side := range [][]oracle.Frame{seen.requests(s.Frontend), seen.replies(f.own)} {
			Expect(oracle.MSS(side[0])).To(BeNumerically(">", 1200), "what came was not clamped before: %s", side[0])
		}
	})

	It("serves a backend that is itself the client", func() {
		f := of()
		frontend := netip.AddrPortFrom(f.gone.Next(), pathsPort)
		p.addIn("be1", "route", netip.PrefixFrom(frontend.Addr(), f.own.BitLen()).String(), "via", f.own.String(), "dev", "eth0")
		s := p.serving(f, "udp", func(s *api.Service) { s.Frontend = frontend }, "be1") // in DSR it could not take its own packet
		p.answering(f, "be1")
		seen := p.watch(func() { p.exchangeFrom("be1", netip.AddrPortFrom(f.backends["be1"], p.pool(1)), frontend, "myself") }, p.rewritten(s, kept))
		Expect(seen["lb"].from).To(HaveLen(2), "a request and a reply")
	})
}

// finished counts the segments with a FIN, each connection's first one.
func finished(frames []oracle.Frame) int {
	flows := map[[2]netip.AddrPort]bool{}
	for _, f := range frames {
		if f.Has(1) {
			flows[[2]netip.AddrPort{f.Source(), f.Dest()}] = true
		}
	}
	return len(flows)
}
