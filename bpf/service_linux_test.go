package bpf

import (
	"net/netip"
	"testing"
	"time"
)

// outcome is how a packet left: in which mode, to which backend and port.
type outcome struct {
	mode    LBLbMode
	backend uint32
	port    uint16
}

// leaves sends a TCP segment that must leave, and reads the frame.
func (b *balancer) leaves(p packet) outcome {
	b.t.Helper()
	out := b.forward(p)
	o := outcome{mode: LBLbModeLB_MODE_SNAT}
	at := l4Offset(out)
	if out[23] == 4 {
		o.mode = LBLbModeLB_MODE_DSR
		at = 34 + int(out[34]&15)*4
	}
	o.port = uint16(out[at+2])<<8 | uint16(out[at+3])
	to, _ := netip.AddrFromSlice(out[30:34])
	for id := range uint32(countedBackends) {
		if to == backendAddress(id) {
			o.backend = id
		}
	}
	return o
}

func TestAServiceOfAllPortsTakesWhatHasNoServiceOfItsOwn(t *testing.T) {
	const dsr, snat = LBLbModeLB_MODE_DSR, LBLbModeLB_MODE_SNAT
	all := netip.AddrPortFrom(vip, 0)
	to := func(port uint16) packet {
		p := request(40000, "S")
		p.to = netip.AddrPortFrom(vip, port)
		return p
	}
	for name, c := range map[string]struct {
		modeOfAll, modeOf80 LBLbMode
		portOfAll           uint16 // of its backend; 0: the client's
		to                  uint16
		want                outcome
	}{
		"in DSR, another port":                   {dsr, dsr, 0, 81, outcome{dsr, 5, 81}},
		"in DSR, the highest port":               {dsr, dsr, 0, 65535, outcome{dsr, 5, 65535}},
		"in DSR, port 0":                         {dsr, dsr, 0, 0, outcome{dsr, 5, 0}},
		"in DSR, the exact port wins":            {dsr, dsr, 0, 80, outcome{dsr, 3, 80}},
		"in SNAT, the client's port is kept":     {snat, snat, 0, 8443, outcome{snat, 5, 8443}},
		"in SNAT, the backend's port counts":     {snat, snat, 9000, 8443, outcome{snat, 5, 9000}},
		"in SNAT, the exact port wins":           {snat, snat, 0, 80, outcome{snat, 3, 8080}},
		"in SNAT beside an exact port of DSR":    {snat, dsr, 0, 443, outcome{snat, 5, 443}},
		"an exact port of DSR beside SNAT":       {snat, dsr, 0, 80, outcome{dsr, 3, 80}},
		"in DSR, whatever the backend's port is": {dsr, dsr, 9000, 443, outcome{dsr, 5, 443}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t)
			b.serve(1, web, uint8(tcp), c.modeOf80, 251, 3)
			b.serve(2, all, uint8(tcp), c.modeOfAll, 251, 5)
			b.changeBackend(5, func(e *LBBackend) { e.Port = port(c.portOfAll) })
			for _, flags := range []string{"S", "A", "A"} { // new, established, and on the fast path
				p := to(c.to)
				p.flags = flags
				if got := b.leaves(p); got != c.want {
					t.Errorf("%q left as %+v, want %+v", flags, got, c.want)
				}
			}
			if c.want.mode == snat {
				reply := answer(c.want.backend, 40000, 6, "A")
				reply.from = netip.AddrPortFrom(backendAddress(c.want.backend), c.want.port)
				equalFrames(t, b.forward(reply), translatedBack(reply, to(c.to).to, to(c.to).from).frame(t))
			}
			slot := map[uint32]uint32{3: 1, 5: 2}[c.want.backend]
			if got := b.counters().service[slot]; got.RxPackets != 3 || got.Connections != 1 {
				t.Errorf("service %d counted %+v", slot, got)
			}
		})
	}
	t.Run("but not of the other protocol", func(t *testing.T) {
		b := newBalancer(t)
		b.serve(2, all, uint8(tcp), dsr, 251, 5)
		b.pass(datagram(40000, "query").frame(t))
	})
	t.Run("and a flow of two ports is two flows", func(t *testing.T) {
		b := newBalancer(t)
		b.serve(2, all, uint8(tcp), snat, 251, 5)
		b.changeBackend(5, func(e *LBBackend) { e.Port = 0 })
		b.forward(to(80))
		b.forward(to(81))
		b.wantFlows(2, 2)
	})
}

func TestASYNToAPortThatGotItsOwnServiceOpensAnew(t *testing.T) {
	b := newBalancer(t)
	b.serve(2, netip.AddrPortFrom(vip, 0), uint8(tcp), LBLbModeLB_MODE_DSR, 251, 5)
	for _, flags := range []string{"S", "A"} {
		b.forward(request(40000, flags))
	}
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	if got := b.leaves(request(40000, "A")).backend; got != 5 {
		t.Errorf("the known flow went to backend %d", got)
	}
	if got := b.leaves(request(40000, "S")).backend; got != 3 {
		t.Errorf("the new flow went to backend %d", got)
	}
}

// allow lets in a prefix of sources for a service's slot.
func (b *balancer) allow(slot uint32, prefix string) LBSourceKey {
	b.t.Helper()
	p := netip.MustParsePrefix(prefix)
	key := LBSourceKey{PrefixLength: 32 + uint32(p.Bits()), ServiceSlot: networkOrder(slot), Source: wire(p.Addr())}
	must(b.t, b.objects.Sources.Put(key, uint32(1)))
	return key
}

func TestAServiceWithRangesTakesTheirSourcesOnly(t *testing.T) {
	from := func(client string, flags string) packet {
		p := request(40000, flags)
		p.from = addrPort(client + ":40000")
		return p
	}
	for mode, make := range modes {
		t.Run(mode, func(t *testing.T) {
			b := make(t)
			both := func(flags LBServiceFlag) {
				b.changeService(web, 6, func(s *LBService) { s.Flags = flags })
			}
			both(LBServiceFlagSERVICE_RANGES)
			b.drop(from("20.1.1.100", "S").frame(t), "source_denied") // none is allowed
			b.allow(1, "10.0.0.0/8")
			narrow := b.allow(1, "10.20.0.0/16")
			b.allow(1, "192.0.2.7/32")
			b.allow(2, "20.1.1.100/32") // of the other service
			for client, allowed := range map[string]bool{
				"10.0.0.0": true, "10.255.255.255": true, "9.255.255.255": false, "11.0.0.0": false,
				"10.20.30.40": true, "192.0.2.7": true, "192.0.2.6": false, "192.0.2.8": false, "20.1.1.100": false,
			} {
				if allowed {
					b.forward(from(client, "S"))
				} else {
					b.drop(from(client, "S").frame(t), "source_denied")
				}
			}
			// The wider prefix still allows what the narrower one did.
			must(t, b.objects.Sources.Delete(narrow))
			b.forward(from("10.20.99.1", "S"))
			// A service without ranges takes all.
			b.forward(datagram(40000, "query"))
			both(0)
			b.forward(from("20.1.1.100", "S"))
			// Ranges of all addresses.
			both(LBServiceFlagSERVICE_RANGES)
			b.allow(1, "0.0.0.0/0")
			b.forward(from("203.0.113.1", "S"))
			if n := b.counters().drops["source_denied"]; n != 6 {
				t.Errorf("%d denied, want 6", n)
			}
		})
	}
}

func TestAKnownFlowGoesOnWhenItsSourceIsAllowedNoMore(t *testing.T) {
	options := request(40000, "A")
	options.options = ipOptions(1)
	for mode, make := range modes {
		for name, last := range map[string]func(b *balancer){
			"until its farewell":     func(b *balancer) { b.forward(request(40000, "FA")) },
			"until its time is over": func(b *balancer) { b.age(request(40000, ""), lifeEstablished+time.Second) },
			"until a SYN":            func(*balancer) {},
		} {
			t.Run(mode+", "+name, func(t *testing.T) {
				b := make(t)
				b.forward(request(40000, "S"))
				b.changeService(web, 6, func(s *LBService) { s.Flags = LBServiceFlagSERVICE_RANGES })
				for _, p := range []packet{request(40000, "A"), request(40000, "A"), options} {
					b.forward(p)
				}
				b.drop(request(40001, "S").frame(t), "source_denied")
				b.drop(request(40001, "R").frame(t), "source_denied")
				last(b)
				b.drop(request(40000, "S").frame(t), "source_denied")
				b.drop(request(40000, "A").frame(t), "source_denied")
				b.wantFlows(0, 0)
			})
		}
	}
}

func TestADeniedSourceLeavesNoTrace(t *testing.T) {
	b := snatBalancer(t)
	b.changeService(web, 6, func(s *LBService) { s.Flags = LBServiceFlagSERVICE_RANGES | LBServiceFlagSERVICE_AFFINITY })
	for _, flags := range []string{"S", "A", "R"} {
		b.drop(request(40000, flags).frame(t), "source_denied")
	}
	b.wantFlows(0, 0)
	if n := count(t, b.objects.Affinities); n != 0 {
		t.Errorf("%d affinities", n)
	}
}
