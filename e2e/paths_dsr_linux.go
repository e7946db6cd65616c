package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/gopacket/gopacket/layers"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
)

// direct is about DSR's packets.
func (p *paths) direct() {
	p.families(p.directOf)

	It("serves two VIPs, each with backends of its own", func() {
		f := p.four()
		second := netip.MustParseAddr("40.3.3.3")
		p.addIn("client", "route", second.String()+"/32", "via", f.own.String())
		first := p.from(20)
		s := p.serving(f, "udp", nil, "be1", "be2")
		other := s.Service
		other.ID, other.Frontend, other.Backends = pathsID+1, netip.AddrPortFrom(second, pathsPort), nil
		p.put(other, p.backend("be3", pathsPort))
		other.Backends = []api.Backend{{Address: p.backend("be3", pathsPort)}}
		its := s
		its.Service, its.table = other, tableOf(other)
		p.watch(func() {
			for i := range uint16(20) {
				from := netip.AddrPortFrom(f.stranger, first+i)
				p.send("client", p.datagram(from, s.Frontend, "one"), p.datagram(from, other.Frontend, "other"))
			}
		}, func(seen sighting) []oracle.Frame {
			first := eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, r) })(seen)
			return append(first, eachRequest(other.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(its, r) })(seen)...)
		})
	})

	It("carries IPv4 options unread, inside", func() {
		f := p.four()
		s := p.serving(f, "udp", nil)
		for name, option := range ipOptions {
			By(name)
			p.watch(func() { p.send("client", p.optioned(netip.AddrPortFrom(f.stranger, p.from(1)), s.Frontend, option)) },
				eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, r) }))
		}
	})
}

// ipOptions are a client's IPv4 options (RFC 791), padded to words.
var ipOptions = map[string][]layers.IPv4Option{
	"router alert": {{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}},
	"record route and more, all 40 bytes": {
		{OptionType: 7, OptionLength: 39, OptionData: append([]byte{4}, make([]byte, 36)...)}, {OptionType: 0, OptionLength: 1},
	},
}

// optioned is a datagram with IPv4 options.
func (p *paths) optioned(from, to netip.AddrPort, options []layers.IPv4Option) []byte {
	GinkgoHelper()
	header := headerOf(from.Addr(), to.Addr(), layers.IPProtocolUDP).(*layers.IPv4)
	header.Options = options
	return p.build(header, &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())})
}

// opens says whether a client's packet opens a connection: its SYN, unless that has
// come before and is sent again.
func opens(opened map[netip.AddrPort]bool, r oracle.Frame) bool {
	const syn = 2
	if !r.Has(syn) || opened[r.Source()] {
		return false
	}
	opened[r.Source()] = true
	return true
}

func (p *paths) directOf(of func() ipFamily) {
	It("encapsulates each packet of TCP connections for the backend that the table names, and nothing else leaves the balancer", func() {
		f := of()
		s := p.serving(f, "tcp", nil)
		taps := map[string]*stackTap{}
		for _, name := range p.t.Backends() {
			p.serve(name, pathsPort)
			taps[name] = p.atStack(name, f)
		}
		before := p.counted()
		want := eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, r) })
		seen := p.watch(func() {
			for range 24 {
				c, err := converseFrom(p.machine("client"), s.Frontend)
				Expect(err).NotTo(HaveOccurred())
				c.part()
			}
		}, want, append(p.t.Backends(), "client")...)

		requests := seen.requests(s.Frontend)
		Expect(seen["lb"].to).To(HaveLen(len(requests)), "no reply comes to the balancer")
		byBackend := map[netip.Addr][]oracle.Frame{}
		var all api.Traffic
		its, opened := map[netip.AddrPort]api.Traffic{}, map[netip.AddrPort]bool{}
		for _, r := range requests {
			t := its[s.backend(r)]
			countPacket(&t, true, r)
			countPacket(&all, true, r)
			if opens(opened, r) {
				t.Connections++
				all.Connections++
			}
			its[s.backend(r)] = t
			byBackend[s.backend(r).Addr()] = append(byBackend[s.backend(r).Addr()], oracle.Decapsulated(p.tunnelled(s, r)))
		}
		Expect(byBackend).To(HaveLen(4), "backends that 24 connections reach")
		By("handing each backend's stack what the client sent")
		for name, tap := range taps {
			Eventually(func() []string { return oracle.Match(byBackend[f.backends[name]], tap.to(s.Frontend)) }).Should(BeEmpty(), name)
		}
		By("counting what was captured")
		service, backends := countedSince(before, p.counted())
		Expect(service).To(Equal(all))
		for address, counted := range backends {
			Expect(counted).To(Equal(its[address]), address.String())
		}
		By("bringing the client the replies as the backends sent them, from the VIP")
		p.straight(seen, s)
	})

	It("tells TCP from UDP on one port of one VIP", func() {
		f := of()
		s := p.serving(f, "udp", nil, "be1", "be2")
		other := s.Service
		other.ID, other.Protocol, other.Backends = pathsID+1, "tcp", nil
		p.put(other, netip.AddrPortFrom(f.backends["be4"], pathsPort))
		other.Backends = []api.Backend{{Address: netip.AddrPortFrom(f.backends["be4"], pathsPort)}}
		tcp := s
		tcp.Service, tcp.table = other, tableOf(other)
		p.answering(f, "be1", "be2")
		p.watch(func() {
			first := p.from(12)
			for i := range uint16(12) {
				p.exchange(netip.AddrPortFrom(f.client, first+i), s.Frontend, "datagram")
				p.send("client", p.segment(netip.AddrPortFrom(f.stranger, first+i), s.Frontend, "S"))
			}
		}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame {
			return p.tunnelled(map[uint8]pathService{oracle.UDP: s, oracle.TCP: tcp}[r.Protocol], r)
		}))
	})

	It("serves all ports of a VIP that no other service has", func() {
		f := of()
		s := p.serving(f, "udp", func(s *api.Service) {
			s.Frontend = netip.AddrPortFrom(f.vip, 0)
			for i, b := range s.Backends {
				s.Backends[i].Address = netip.AddrPortFrom(b.Address.Addr(), 0)
			}
		})
		want := func(seen sighting) (all []oracle.Frame) {
			for _, r := range seen["lb"].to {
				if r.Dest().Addr() == f.vip {
					all = append(all, p.tunnelled(s, r))
				}
			}
			return all
		}
		seen := p.watch(func() {
			for _, port := range []uint16{1, 53, 9000, 40000, 65535} {
				p.send("client", p.datagram(netip.AddrPortFrom(f.stranger, p.from(1)), netip.AddrPortFrom(f.vip, port), "any port"))
			}
		}, want)
		Expect(want(seen)).To(HaveLen(5))
	})

	It("changes nothing but the MACs by layer 2", func() {
		f := of()
		s := p.serving(f, "udp", func(s *api.Service) { s.Encap = "l2" })
		p.answering(f, p.t.Backends()...)
		seen := p.watch(func() {
			first := p.from(16)
			for i := range uint16(16) {
				p.exchange(netip.AddrPortFrom(f.client, first+i), s.Frontend, "by MAC")
			}
		}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return oracle.ByMAC(r, p.leg(f, s.backend(r).Addr())) }),
			append(p.t.Backends(), "client")...)
		p.straight(seen, s)
	})

	It("spreads the outer source over a prefix, one address for a flow, and leaves all other headers as they are", func() {
		f := of()
		prefix, first := f.spread, p.from(40)
		s := p.serving(f, "udp", func(s *api.Service) { s.OuterSource = prefix.String() })
		sources := map[netip.Addr]bool{}
		p.watch(func() {
			for i := range uint16(40) {
				from := netip.AddrPortFrom(f.stranger, first+i)
				p.send("client", p.datagram(from, s.Frontend, "first"), p.datagram(from, s.Frontend, "second"))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			of := map[netip.AddrPort]netip.Addr{} // the first packet's decides for its flow
			for _, sent := range seen["lb"].from {
				if _, known := of[sent.Source()]; !known && sent.Tunnelled() && prefix.Contains(sent.IPs[0].Source) {
					of[sent.Source()] = sent.IPs[0].Source
					sources[sent.IPs[0].Source] = true
				}
			}
			for _, r := range seen.requests(s.Frontend) {
				if source, ok := of[r.Source()]; ok {
					all = append(all, oracle.Tunnelled(r, p.leg(f, s.backend(r).Addr()), source, s.backend(r).Addr()))
				} else {
					all = append(all, p.tunnelled(s, r))
				}
			}
			return all
		})
		Expect(len(sources)).To(BeNumerically(">", 20), "outer sources of 40 flows")
	})

	It("gives backends new flows by their weights, and none by a weight of 0", func() {
		f := of()
		weights := []uint16{1, 7, 0, 3}
		s := p.serving(f, "udp", func(s *api.Service) {
			for i := range s.Backends {
				s.Backends[i].Weight = &weights[i]
			}
		})
		p.chosen(s, s.backend)
	})

	It("keeps a client at one backend under affinity, whatever its port", func() {
		f := of()
		s := p.serving(f, "udp", func(s *api.Service) { s.Affinity = api.Duration(time.Minute) })
		chosen := p.chosen(s, func(r oracle.Frame) netip.AddrPort {
			return oracle.Flow{Client: r.Source(), Frontend: r.Dest(), Protocol: r.Protocol}.Choose(s.table, true)
		})
		Expect(chosen).To(HaveLen(1))
	})

	It("chooses at random where that is asked for, and keeps each flow where it began", func() {
		f := of()
		s := p.serving(f, "udp", func(s *api.Service) { s.Selection = "random" })
		byTable, first := 0, p.from(60)
		seen := p.watch(func() {
			for i := range uint16(60) {
				from := netip.AddrPortFrom(f.stranger, first+i)
				p.send("client", p.datagram(from, s.Frontend, "first"), p.datagram(from, s.Frontend, "second"))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			to := map[netip.AddrPort]netip.Addr{}
			for _, sent := range seen["lb"].from {
				if _, known := to[sent.Source()]; !known && sent.Tunnelled() {
					to[sent.Source()] = sent.IPs[0].Dest
				}
			}
			byTable = 0
			for _, r := range seen.requests(s.Frontend) {
				if to[r.Source()] == s.backend(r).Addr() {
					byTable++
				}
				if b, ok := to[r.Source()]; ok {
					all = append(all, oracle.Tunnelled(r, p.leg(f, b), f.own, b))
				} else {
					all = append(all, p.tunnelled(s, r))
				}
			}
			return all
		})
		its := map[netip.Addr]bool{}
		for _, sent := range seen["lb"].from {
			its[sent.IPs[0].Dest] = true
		}
		Expect(its).To(HaveLen(4), "backends of 60 flows")
		Expect(byTable).To(BeNumerically("<", 80), "packets of 120 that went where the table says")
	})

	It("clamps the MSS of a client's SYN, and touches nothing else of it", Label("mtu"), func() {
		f := of()
		s := p.serving(f, "tcp", func(s *api.Service) { s.MSS = 1200 })
		p.watch(func() {
			first := p.from(3)
			for i, mss := range [][]byte{{5, 0xb4}, {4, 0xb0}, {2, 0x18}} { // 1460, 1200, 536
				p.send("client", p.segment(netip.AddrPortFrom(f.stranger, first+uint16(i)), s.Frontend, "S",
					layers.TCPOption{OptionType: layers.TCPOptionKindNop}, layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: mss}))
			}
		}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame { return p.tunnelled(s, oracle.Clamped(r, 1200)) }))
	})

	It("has fragments follow their first one", func() {
		f := of()
		s := p.serving(f, "udp", nil)
		p.answering(f, p.t.Backends()...)
		ports := map[string]netip.AddrPort{}
		seen := p.watch(func() {
			first := p.from(8)
			for i := range uint16(8) {
				p.exchange(netip.AddrPortFrom(f.client, first+i), s.Frontend, strings.Repeat(fmt.Sprint(i), 3500))
			}
		}, func(seen sighting) (all []oracle.Frame) {
			for _, r := range seen["lb"].to {
				if r.Dest().Addr() != f.vip {
					continue
				}
				first := r
				if r.Dest().Port() != 0 {
					ports[r.FragmentID()] = s.backend(r)
				}
				to := ports[r.FragmentID()]
				all = append(all, oracle.Tunnelled(first, p.leg(f, to.Addr()), f.own, to.Addr()))
			}
			return all
		})
		Expect(len(seen["lb"].from)).To(BeNumerically(">=", 24), "three fragments each")
	})
}

// chosen sends many flows' packets and expects each to go to the backend that is named
// for it; it returns who was.
func (p *paths) chosen(s pathService, backend func(oracle.Frame) netip.AddrPort) map[netip.AddrPort]int {
	GinkgoHelper()
	first := p.from(60)
	seen := p.watch(func() {
		for i := range uint16(60) {
			p.send("client", p.datagram(netip.AddrPortFrom(s.family.stranger, first+i), s.Frontend, "new"))
		}
	}, eachRequest(s.Frontend, func(r oracle.Frame) oracle.Frame {
		to := backend(r).Addr()
		return oracle.Tunnelled(r, p.leg(s.family, to), s.family.own, to)
	}))
	count := map[netip.AddrPort]int{}
	for _, r := range seen.requests(s.Frontend) {
		count[backend(r)]++
	}
	return count
}

// straight expects the client to have got what the backends sent from the VIP, and from the
// backends' own MACs: the replies did not take the way of the requests.
func (p *paths) straight(seen sighting, s pathService) {
	GinkgoHelper()
	fromVIP := func(frames []oracle.Frame) (its []oracle.Frame) {
		for _, f := range frames {
			if f.Source() == s.Frontend {
				its = append(its, f)
			}
		}
		return its
	}
	var sent []oracle.Frame
	for name := range s.family.backends {
		for _, f := range fromVIP(seen[name].from) {
			to, from := f.MACs()
			Expect(from).To(Equal(p.macs[name]), f.String())
			Expect(to).To(Equal(p.macs["client"]), f.String())
			if !seen[name].pending[string(f.Data)] {
				Expect(f.Faults()).To(BeEmpty(), f.String())
			}
			Expect(f.Dest().Addr()).To(Equal(s.family.client), f.String())
			sent = append(sent, f)
		}
	}
	Expect(sent).NotTo(BeEmpty())
	Expect(oracle.Match(sent, fromVIP(seen["client"].to))).To(BeEmpty(), "replies at the client")
}
