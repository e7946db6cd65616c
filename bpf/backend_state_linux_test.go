package bpf

import (
	"net/netip"
	"testing"
)

func TestAFlowKeepsItsBackend(t *testing.T) {
	state := func(state LBBackendState) func(*balancer) {
		return func(b *balancer) {
			b.moved(LBLbModeLB_MODE_SNAT)
			b.changeBackend(3, func(e *LBBackend) { e.State = state })
		}
	}
	for name, change := range map[string]func(*balancer){
		"that left the table":       func(b *balancer) { b.moved(LBLbModeLB_MODE_SNAT) },
		"that drains":               state(LBBackendStateBACKEND_DRAINING),
		"that is in quarantine":     state(LBBackendStateBACKEND_QUARANTINED),
		"that is under maintenance": state(LBBackendStateBACKEND_MAINTENANCE),
		"though the service has none any more": func(b *balancer) {
			must(b.t, b.objects.Maglev.Delete(uint32(1)))
			b.changeService(web, 6, func(s *LBService) { s.TableSize = 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			b.forward(request(40000, "S"))
			change(b)
			// The second packet goes the slow way, the third the fast one.
			for range 2 {
				p := request(40000, "A")
				equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
			}
			b.forward(answer(3, 40000, 6, "A"))
		})
	}
}

func TestAFlowWhoseBackendIsGoneIsOverAtOnce(t *testing.T) {
	for name, before := range map[string][]packet{
		"that is new":         {request(40000, "S")},
		"that is established": {request(40000, "S"), request(40000, "A")},
	} {
		for mode, make := range modes {
			t.Run(mode+", "+name, func(t *testing.T) {
				b := make(t)
				for _, p := range before {
					b.forward(p)
				}
				b.moved(b.entry(request(40000, "")).Mode)
				must(t, b.objects.Backends.Put(uint32(3), LBBackend{}))
				b.pass(answer(3, 40000, 6, "A").frame(t))
				if got := b.backendOf(request(40000, "A")); got != 4 {
					t.Errorf("the packet went to backend %d", got)
				}
				if e := b.entry(request(40000, "")); e.RxPackets != 1 || b.established(request(40000, "")) {
					t.Errorf("the next packet did not open a new flow: %+v", e)
				}
				if got := total(b.counters().service).Connections; got != 2 {
					t.Errorf("%d connections counted, want 2", got)
				}
			})
		}
	}
}

func TestEveryPacketOfAFlowCountsForItsBackendsService(t *testing.T) {
	// The port gets a service of its own beside that of all ports, under which the flow began.
	b := newBalancer(t)
	b.serve(1, netip.AddrPortFrom(vip, 0), uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	b.forward(request(40000, "S"))
	b.serve(3, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 4)
	for _, flags := range []string{"A", "A", "FA"} {
		b.forward(request(40000, flags))
	}
	want := LBTraffic{RxPackets: 4, RxBytes: 160, Connections: 1}
	if got := b.counters(); got.service[1] != want || got.backend[3] != want {
		t.Errorf("service %+v, backend %+v, want %+v", got.service, got.backend, want)
	}
}

func TestPacketsOfADeletedServicePass(t *testing.T) {
	for mode, make := range modes {
		t.Run(mode, func(t *testing.T) {
			b := make(t)
			b.forward(request(40000, "S"))
			b.forward(request(40000, "A"))
			must(t, b.objects.Services.Delete(serviceKey(web, 6)))
			b.forward(request(40000, "A")) // until the agent has zeroed the backends' entries
			must(t, b.objects.Backends.Put(uint32(3), LBBackend{}))
			for _, flags := range []string{"A", "S", "FA", "R"} {
				b.pass(request(40000, flags).frame(t))
			}
			b.pass(answer(3, 40000, 6, "A").frame(t))
		})
	}
}

func TestAnEstablishedFlowWithoutANeighbourIsDroppedAndKept(t *testing.T) {
	b := dsrBalancer(t)
	b.forward(request(40000, "S"))
	b.changeBackend(3, func(e *LBBackend) { e.MacSlot = 2 })
	b.drop(request(40000, "A").frame(t), "no_neighbour")
	b.changeBackend(3, func(e *LBBackend) { e.MacSlot, e.Mac[1] = 1, backendMAC(3) })
	b.forward(request(40000, "A"))
	if got := total(b.counters().service).Connections; got != 1 {
		t.Errorf("%d connections counted, want 1", got)
	}
}
