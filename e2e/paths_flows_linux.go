package e2e

import (
	"net/netip"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
)

// flows is about what the balancer remembers of a flow, and for how long.
func (p *paths) flows() { p.families(p.flowsOf) }

// followed is a want that knows each flow's backend.
func (p *paths) followed(s pathService, backend func(r oracle.Frame) netip.Addr) func(sighting) []oracle.Frame {
	return eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame {
		return oracle.Tunnelled(r, p.leg(s.family, backend(r)), s.family.own, backend(r))
	})
}

// change replaces the service under test.
func (p *paths) change(s pathService, edit func(*api.Service)) pathService {
	GinkgoHelper()
	s.Backends = slices.Clone(s.Backends)
	edit(&s.Service)
	s.Revision = 0
	s.TableSize = pathsTable
	_, err := p.agent.PutService(GinkgoT().Context(), s.Service)
	Expect(err).NotTo(HaveOccurred())
	s.table = tableOf(s.Service)
	return s
}

// allBackends gives a service all backends of the lab.
func (p *paths) allBackends(f ipFamily) func(*api.Service) {
	return func(s *api.Service) {
		s.Backends = nil
		for _, name := range p.t.Backends() {
			s.Backends = append(s.Backends, api.Backend{Address: netip.AddrPortFrom(f.backends[name], pathsPort)})
		}
	}
}

// elsewhere returns a client's port, and is sure that the table has another backend for it than one.
func (p *paths) elsewhere(s pathService, protocol uint8, not netip.Addr) netip.AddrPort {
	GinkgoHelper()
	for range 100 {
		client := netip.AddrPortFrom(s.family.stranger, p.from(1))
		if (oracle.Flow{Client: client, Frontend: s.Frontend, Protocol: protocol}).Choose(s.table, false).Addr() != not {
			return client
		}
	}
	Fail("the table has one backend for 100 flows")
	return netip.AddrPort{}
}

func (p *paths) flowsOf(of func() ipFamily) {
	none := uint16(0)
	unused := map[string]func(*api.Backend){
		"draining":         func(b *api.Backend) { b.State = "draining" },
		"in maintenance":   func(b *api.Backend) { b.State = "maintenance" },
		"of a weight of 0": func(b *api.Backend) { b.Weight = &none },
	}
	for _, what := range []string{"draining", "in maintenance", "of a weight of 0"} {
		It("leaves a backend "+what+" the flows that it has, and gives it no new one", Label("dsr", "churn"), func() {
			f := of()
			s := p.serving(f, "udp", nil)
			be1 := f.backends["be1"]
			first := p.from(80)
			client := func(i uint16) netip.AddrPort { return netip.AddrPortFrom(f.stranger, first+i) }
			begin := func(from, to uint16) func() {
				return func() {
					for i := from; i < to; i++ {
						p.send("client", p.datagram(client(i), s.Frontend, "first"), p.datagram(client(i), s.Frontend, "second"))
					}
				}
			}
			before := func(r oracle.Frame) netip.Addr { return s.backend(r).Addr() }
			p.watch(begin(0, 40), p.followed(s, before))
			after := p.change(s, func(s *api.Service) { unused[what](&s.Backends[0]) })
			old, fresh := 0, 0
			p.watch(begin(0, 80), p.followed(after, func(r oracle.Frame) netip.Addr {
				if r.Source().Port() < first+40 {
					old++
					return before(r)
				}
				fresh++
				Expect(after.backend(r).Addr()).NotTo(Equal(be1))
				return after.backend(r).Addr()
			}))
			Expect(old).To(BeNumerically(">", 0))
			Expect(fresh).To(BeNumerically(">", 0))
		})
	}

	It("gives a backend that fails its check no new flow, and leaves it those that it has", Label("dsr", "churn"), func() {
		f := of()
		const checked = pathsPort + 9
		s := p.serving(f, "udp", nil)
		for _, name := range []string{"be2", "be3", "be4"} {
			p.serve(name, checked)
		}
		known := netip.AddrPort{}
		for !known.IsValid() || (oracle.Flow{Client: known, Frontend: s.Frontend, Protocol: oracle.UDP}).Choose(s.table, false).Addr() != f.backends["be1"] {
			known = netip.AddrPortFrom(f.stranger, p.from(1))
		}
		p.watch(func() { p.send("client", p.datagram(known, s.Frontend, "one"), p.datagram(known, s.Frontend, "two")) },
			p.followed(s, func(oracle.Frame) netip.Addr { return f.backends["be1"] }))
		after := p.change(s, func(s *api.Service) {
			s.HealthCheck = &api.HealthCheck{Type: "tcp", Port: checked, Interval: api.Duration(200 * time.Millisecond), Fall: 1, Rise: 1}
		})
		Eventually(func() string {
			now, err := p.agent.Service(GinkgoT().Context(), pathsID)
			Expect(err).NotTo(HaveOccurred())
			return now.Backends[0].Health
		}).Should(Equal("quarantined"))
		after.Backends = after.Backends[1:]
		after.table = tableOf(after.Service)
		first := p.from(30)
		p.watch(func() {
			p.send("client", p.datagram(known, s.Frontend, "three"))
			for i := range uint16(30) {
				p.send("client", p.datagram(netip.AddrPortFrom(f.stranger, first+i), s.Frontend, "new"))
			}
		}, func(seen sighting) []oracle.Frame {
			all := p.followed(after, func(r oracle.Frame) netip.Addr {
				if r.Source() == known {
					return f.backends["be1"]
				}
				return after.backend(r).Addr()
			})(seen)
			for _, sent := range seen["lb"].from { // the checks themselves are the balancer's own
				if !sent.Tunnelled() && sent.Source().Addr() == f.own && sent.Dest().Port() == checked {
					all = append(all, sent)
				}
			}
			return all
		})
	})

	It("sends packets from the middle of connections that nobody knows where the table says", Label("dsr"), func() {
		f := of()
		s := p.serving(f, "tcp", nil)
		first := p.from(20)
		p.watch(func() {
			for i := range uint16(20) {
				p.send("client", p.segment(netip.AddrPortFrom(f.stranger, first+i), s.Frontend, map[bool]string{true: "PA", false: "R"}[i%2 == 0]))
			}
		}, p.followed(s, func(r oracle.Frame) netip.Addr { return s.backend(r).Addr() }))
	})

	for _, end := range []struct{ name, flags string }{{"a FIN", "FA"}, {"a reset", "R"}} {
		It("closes a flow by "+end.name+", and a SYN from the same port begins anew where the table says now", Label("dsr"), func() {
			f := of()
			only := p.serving(f, "tcp", nil, "be1")
			be1 := f.backends["be1"]
			all := only
			p.allBackends(f)(&all.Service)
			all.table = tableOf(all.Service)
			client := p.elsewhere(all, oracle.TCP, be1)
			state := func() api.ConnectionState {
				connections, err := p.agent.Connections(GinkgoT().Context(), pathsID)
				Expect(err).NotTo(HaveOccurred())
				for _, c := range connections {
					if c.Source == client {
						return c.State
					}
				}
				return "unknown"
			}
			toFirst := p.followed(only, func(oracle.Frame) netip.Addr { return be1 })
			p.watch(func() { p.send("client", p.segment(client, only.Frontend, "S"), p.segment(client, only.Frontend, "A")) }, toFirst)
			all = p.change(only, p.allBackends(f))
			p.watch(func() { p.send("client", p.segment(client, only.Frontend, "PA")) }, toFirst)
			Expect(state()).To(Equal(api.Active))
			before := p.counted().Connections
			p.watch(func() { p.send("client", p.segment(client, only.Frontend, end.flags)) }, toFirst)
			Expect(state()).To(Equal(api.Closing))
			Expect(p.counted().Connections).To(Equal(before))
			p.watch(func() { p.send("client", p.segment(client, only.Frontend, "S"), p.segment(client, only.Frontend, "A")) },
				p.followed(all, func(r oracle.Frame) netip.Addr { return all.backend(r).Addr() }))
			Expect(state()).To(Equal(api.Active))
			Expect(p.counted().Connections).To(Equal(before + 1))
		})
	}

	It("keeps a flow in the mode in which it began", Label("dsr", "snat"), func() {
		f := of()
		s := p.serving(f, "udp", nil)
		direct := netip.AddrPortFrom(f.stranger, p.pool(1))
		p.watch(func() { p.send("client", p.datagram(direct, s.Frontend, "one"), p.datagram(direct, s.Frontend, "two")) },
			eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, r) }))
		s = p.change(s, func(s *api.Service) { s.Mode = "snat" })
		p.answering(f, p.t.Backends()...)
		fresh := netip.AddrPortFrom(f.client, p.pool(1))
		p.watch(func() {
			p.send("client", p.datagram(direct, s.Frontend, "three"))
			p.exchange(fresh, s.Frontend, "four", "five")
		}, func(seen sighting) (all []oracle.Frame) {
			others := sighting{"lb": {}}
			for _, r := range seen["lb"].to {
				if r.Source() == direct {
					all = append(all, p.tunnelled(s, r))
				} else {
					its := others["lb"]
					its.to = append(its.to, r)
					others["lb"] = its
				}
			}
			return append(all, p.rewritten(s, kept)(others)...)
		})
	})
}
