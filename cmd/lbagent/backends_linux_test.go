package main

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

// resolved waits until the next hops of addresses are known.
func (r *rig) resolved(t *testing.T, addresses ...netip.AddrPort) {
	t.Helper()
	until(t, "the next hops", func() bool {
		known := make(map[netip.Addr]bool)
		all, err := r.client.Neighbours(t.Context())
		for _, n := range all {
			known[n.Address] = n.MAC != ""
		}
		for _, a := range addresses {
			if err != nil || !known[a.Addr()] {
				return false
			}
		}
		return true
	})
}

func TestIPv6ServiceIsBalanced(t *testing.T) {
	r := newRig(t)
	r.addAddress(t, "fd00::1/64")
	r.start(t)
	vip6 := netip.MustParseAddrPort("[fd00:40::1]:80")
	its := []netip.AddrPort{netip.MustParseAddrPort("[fd00::10]:80"), netip.MustParseAddrPort("[fd00::20]:80")}
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 6, Frontend: vip6, Backends: plain(its...), TableSize: 251}); err != nil {
		t.Fatal(err)
	}
	r.resolved(t, its...) // IPv6 takes a while after the link came up
	status, err := r.client.Status(t.Context())
	if err != nil || status.Interface.Address6.String() != "fd00::1" {
		t.Errorf("%+v, %v", status.Interface, err)
	}
	reached := make(map[netip.Addr]int)
	for port := range uint16(32) {
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("fd00::100"), 40000+port), vip6, 0)
		reached[r.wire.receive(t).backend]++
	}
	if reached[its[0].Addr()] == 0 || reached[its[1].Addr()] == 0 || len(reached) != 2 {
		t.Errorf("reached %v", reached)
	}
	connections, err := r.client.Connections(t.Context(), 6)
	if err != nil || len(connections) != 32 || connections[0].Dest != vip6 || connections[0].Backend.Port() != 80 {
		t.Errorf("%d connections, %v: %+v", len(connections), err, connections)
	}
}

// A flow goes on at a backend that drains, until its deadline; new ones never come there.
func TestDrainingBackendKeepsItsFlowsUntilItsDeadline(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	source := netip.MustParseAddrPort("20.1.1.100:45678")
	its := chosen(t, source)
	other := backends[0]
	if other == its {
		other = backends[1]
	}
	r.wire.send(t, source, vip, 0)
	r.wire.receive(t)
	r.wire.send(t, source, vip, 1)
	r.wire.receive(t)
	service, err := r.client.Service(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Second)
	for i := range service.Backends {
		if service.Backends[i].Address == its {
			service.Backends[i].State, service.Backends[i].DrainUntil = "draining", &deadline
		}
	}
	if _, err := r.client.PutService(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	r.wire.send(t, source, vip, 2)
	if got := r.wire.receive(t); got.backend != its.Addr() {
		t.Errorf("the flow went over to %s", got.backend)
	}
	for port := range uint16(16) {
		r.wire.send(t, netip.AddrPortFrom(source.Addr(), 50000+port), vip, 0)
		if got := r.wire.receive(t); got.backend != other.Addr() {
			t.Errorf("a new flow went to %s", got.backend)
		}
	}
	until(t, "the deadline", func() bool {
		s, err := r.client.Service(t.Context(), 1)
		return err == nil && len(s.Backends) == 1
	})
	if now := time.Now(); now.Before(deadline) {
		t.Errorf("it left %s before its deadline", deadline.Sub(now))
	}
	r.wire.send(t, source, vip, 3)
	if got := r.wire.receive(t); got.backend != other.Addr() {
		t.Errorf("after the deadline the flow went to %s", got.backend)
	}
}

func TestBackendThatNobodyUsesIsForgottenAfterTwoSweeps(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for two sweeps, 20 s")
	}
	r := newRig(t)
	r.start(t)
	r.put(t)
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends[1])}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	untilWithin(t, 40*time.Second, "its next hop to be followed no more", func() bool {
		all, err := r.client.Neighbours(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all) == 1
	})
	t.Logf("after %s", time.Since(begin))
}

// Whoever has the new revision wins, and the other is told.
func TestConflictingChangesAreRefused(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	mine, err := r.client.Service(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	theirs := mine
	theirs.MSS = 1400
	if _, err := r.client.PutService(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	mine.MSS = 1300
	if _, err := r.client.PutService(t.Context(), mine); err == nil {
		t.Error("no conflict")
	}
	if s, err := r.client.Service(t.Context(), 1); err != nil || s.MSS != 1400 {
		t.Errorf("%+v, %v", s, err)
	}
}

// The peer's kernel has these addresses and no server, so a connection is refused.
func TestBackendThatFailsItsCheckGetsNoNewFlows(t *testing.T) {
	r := newRig(t)
	r.start(t)
	check := &api.HealthCheck{Type: "tcp", Interval: api.Duration(100 * time.Millisecond), Rise: 1, Fall: 2}
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 251, HealthCheck: check}); err != nil {
		t.Fatal(err)
	}
	health := func() (first, second string) {
		s, err := r.client.Service(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return s.Backends[0].Health, s.Backends[1].Health
	}
	until(t, "the end of both", func() bool {
		first, second := health()
		return first == "quarantined" && second == "quarantined"
	})
	// Both are sick, so both are used.
	reached := make(map[netip.Addr]bool)
	for port := range uint16(16) {
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 40000+port), vip, 0)
		reached[r.wire.receive(t).backend] = true
	}
	if len(reached) != 2 {
		t.Errorf("reached %v", reached)
	}
	r.Peer.Do(t, func() {
		listener, err := net.Listen("tcp", backends[1].String())
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = listener.Close() })
	})
	until(t, "the second's return", func() bool {
		first, second := health()
		return first == "quarantined" && second == "healthy"
	})
	for port := range uint16(16) {
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 50000+port), vip, 0)
		if got := r.wire.receive(t); got.backend != backends[1].Addr() {
			t.Errorf("a new flow went to %s", got.backend)
		}
	}
}

func TestSizesOfTheMapsAreFlags(t *testing.T) {
	r := newRig(t)
	a := r.start(t, "--max-services", "1", "--max-backends", "2", "--max-connections", "1000")
	if steps := strings.Join(a.steps, "\n"); !strings.Contains(steps, "room: 1 services, 2 backends, 4096 sources, 1000 connections") {
		t.Errorf("it says\n%s", steps)
	}
	r.put(t)
	for _, c := range []struct {
		name    string
		service api.Service
		says    string
	}{
		{"another service", api.Service{ID: 2, Frontend: netip.MustParseAddrPort("40.1.1.2:80"), Backends: plain(backends[0])}, "the map `services` holds 1"},
		{"another backend", api.Service{ID: 1, Frontend: vip, Backends: plain(append(backends, netip.MustParseAddrPort("20.1.1.30:80"))...)}, "the map `backends` holds 2"},
	} {
		if _, err := r.client.PutService(t.Context(), c.service); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
}
