package bpf

import (
	"net/netip"
	"testing"
	"time"
)

// manyBackends serves the VIP's TCP port 80 in DSR with backends 1 to 5 in turn.
func manyBackends(t testing.TB, flags LBServiceFlag, affinity time.Duration) *balancer {
	t.Helper()
	b := newBalancer(t)
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 1, 2, 3, 4, 5)
	b.changeService(web, 6, func(s *LBService) { s.Flags, s.AffinityNs = flags, uint64(affinity) })
	return b
}

func from(client string, port uint16) packet {
	p := request(port, "S")
	p.from = netip.AddrPortFrom(netip.MustParseAddr(client), port)
	return p
}

// forgetFlows makes the next packet of each flow a first one.
func (b *balancer) forgetFlows() {
	b.t.Helper()
	clearHash(b.t, b.objects.Flows4)
	clearHash(b.t, b.objects.NewFlows4)
}

func TestUnderAffinityAClientsFlowsGoToOneBackend(t *testing.T) {
	b := manyBackends(t, LBServiceFlagSERVICE_AFFINITY, time.Minute)
	reached := map[uint32]bool{}
	for _, client := range []string{"20.1.1.100", "20.1.1.101", "20.1.1.102", "20.1.1.103", "20.1.1.104", "20.1.1.105", "20.1.1.106", "20.1.1.107"} {
		// The hash leaves out the client's port, so the table alone says the same.
		slot := oracleSlot(from(client, 0).from, web, 6, 251)
		want := 1 + slot%5
		for port := uint16(40000); port < 40020; port++ {
			if got := b.leaves(from(client, port)).backend; got != want {
				t.Errorf("%s port %d went to backend %d, want %d", client, port, got, want)
			}
		}
		reached[want] = true
	}
	if len(reached) < 2 {
		t.Errorf("8 clients reached only %d backends", len(reached))
	}
	if n := count(t, b.objects.Affinities); n != 8 {
		t.Errorf("%d affinities, want one for each client", n)
	}
}

// ageAffinity makes a client's last new flow look as if it had come that long ago.
func (b *balancer) ageAffinity(client netip.Addr, slot uint32, by time.Duration) {
	b.t.Helper()
	key, a := LBAffinityKey{Client: wire(client), ServiceSlot: slot}, LBAffinity{}
	must(b.t, b.objects.Affinities.Lookup(key, &a))
	a.LastSeenNs = monotonic(b.t) - uint64(by)
	must(b.t, b.objects.Affinities.Put(key, a))
}

func TestAffinityOutlivesTheTableUntilItsTimeIsOver(t *testing.T) {
	state := func(state LBBackendState) func(*balancer, uint32) {
		return func(b *balancer, id uint32) { b.changeBackend(id, func(e *LBBackend) { e.State = state }) }
	}
	for name, c := range map[string]struct {
		change func(b *balancer, first uint32)
		stays  bool
	}{
		"when only the table has changed":          {func(*balancer, uint32) {}, true},
		"right before its time is over":            {func(b *balancer, _ uint32) { b.ageAffinity(client, 1, 59*time.Second) }, true},
		"not when its time is over":                {func(b *balancer, _ uint32) { b.ageAffinity(client, 1, 61*time.Second) }, false},
		"not when the backend drains":              {state(LBBackendStateBACKEND_DRAINING), false},
		"not when the backend is in quarantine":    {state(LBBackendStateBACKEND_QUARANTINED), false},
		"not when the backend is in maintenance":   {state(LBBackendStateBACKEND_MAINTENANCE), false},
		"not when the backend is gone":             {state(LBBackendStateBACKEND_GONE), false},
		"not when its number is another service's": {func(b *balancer, id uint32) { b.changeBackend(id, func(e *LBBackend) { e.ServiceSlot = 2 }) }, false},
		"not when the service asks for it no more": {func(b *balancer, _ uint32) { b.changeService(web, 6, func(s *LBService) { s.Flags = 0 }) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := manyBackends(t, LBServiceFlagSERVICE_AFFINITY, time.Minute)
			first := b.leaves(request(40000, "S")).backend
			service := func(s *LBService) { s.Flags, s.AffinityNs = LBServiceFlagSERVICE_AFFINITY, uint64(time.Minute) }
			b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 9)
			b.changeService(web, 6, service)
			c.change(b, first)
			want := uint32(9)
			if c.stays {
				want = first
			}
			for port := uint16(40001); port < 40004; port++ {
				if got := b.leaves(request(port, "S")).backend; got != want {
					t.Errorf("port %d went to backend %d, want %d", port, got, want)
				}
			}
		})
	}
}

func TestEachNewFlowKeepsAffinityAlive(t *testing.T) {
	b := manyBackends(t, LBServiceFlagSERVICE_AFFINITY, time.Minute)
	first := b.leaves(request(40000, "S")).backend
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 9)
	b.changeService(web, 6, func(s *LBService) { s.Flags, s.AffinityNs = LBServiceFlagSERVICE_AFFINITY, uint64(time.Minute) })
	for port := uint16(40001); port < 40004; port++ {
		b.ageAffinity(client, 1, 59*time.Second)
		if got := b.leaves(request(port, "S")).backend; got != first {
			t.Errorf("port %d went to backend %d, want %d", port, got, first)
		}
	}
}

func TestAffinityIsOfOneService(t *testing.T) {
	b := manyBackends(t, LBServiceFlagSERVICE_AFFINITY, time.Minute)
	tls := netip.AddrPortFrom(vip, 443)
	b.serve(2, tls, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 9)
	b.changeService(tls, 6, func(s *LBService) { s.Flags, s.AffinityNs = LBServiceFlagSERVICE_AFFINITY, uint64(time.Minute) })
	b.forward(request(40000, "S"))
	other := request(40000, "S")
	other.to = tls
	if got := b.leaves(other).backend; got != 9 {
		t.Errorf("the other service's flow went to backend %d", got)
	}
	if n := count(t, b.objects.Affinities); n != 2 {
		t.Errorf("%d affinities, want 2", n)
	}
}

func TestWithoutAffinityTheClientsPortCounts(t *testing.T) {
	b := manyBackends(t, 0, 0)
	reached := map[uint32]bool{}
	for port := uint16(40000); port < 40040; port++ {
		got := b.leaves(request(port, "S")).backend
		if want := 1 + oracleSlot(request(port, "").from, web, 6, 251)%5; got != want {
			t.Errorf("port %d went to backend %d, want %d", port, got, want)
		}
		reached[got] = true
	}
	if len(reached) != 5 {
		t.Errorf("40 flows of one client reached %d backends of 5", len(reached))
	}
}

func TestRandomSelectionTakesAnySlotForAFlow(t *testing.T) {
	b := manyBackends(t, LBServiceFlagSERVICE_RANDOM, 0)
	reached := map[uint32]int{}
	for range 200 {
		reached[b.leaves(request(40000, "S")).backend]++
		b.forgetFlows()
	}
	if len(reached) != 5 {
		t.Errorf("200 times the same flow reached backends %v, want all 5", reached)
	}
	// The chance that one of five gets less than 12 of 200 is below 1 in 10,000,000.
	for id, n := range reached {
		if n < 12 {
			t.Errorf("backend %d got %d of 200 flows", id, n)
		}
	}
	first := b.leaves(request(40000, "S")).backend
	for range 20 {
		if got := b.leaves(request(40000, "A")).backend; got != first {
			t.Fatalf("a known flow went to backend %d, then to %d", first, got)
		}
	}
}

func TestRandomSelectionUnderAffinityIsMadeOnce(t *testing.T) {
	b := manyBackends(t, LBServiceFlagSERVICE_RANDOM|LBServiceFlagSERVICE_AFFINITY, time.Minute)
	first := b.leaves(request(40000, "S")).backend
	for port := uint16(40001); port < 40040; port++ {
		if got := b.leaves(request(port, "S")).backend; got != first {
			t.Fatalf("port %d went to backend %d, want %d", port, got, first)
		}
	}
}
