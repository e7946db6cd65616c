package main

import (
	"net/netip"
	"testing"

	"l4lab/agent/api"
)

// The flow goes on through both changes, and counts where its backend's counters
// are read afterwards.
func TestBackendThatLeavesAndComesBackCountsItsFlowsAsBefore(t *testing.T) {
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
	alone := api.Service{ID: 1, Frontend: vip, Backends: plain(other)}
	if _, err := r.client.PutService(t.Context(), alone); err != nil {
		t.Fatal(err)
	}
	r.wire.send(t, source, vip, 1)
	r.wire.receive(t)
	r.put(t)
	r.wire.send(t, source, vip, 2)
	if got := r.wire.receive(t); got.backend != its.Addr() {
		t.Errorf("the flow went over to %s", got.backend)
	}
	counters, err := r.client.Counters(t.Context())
	if err != nil || len(counters.Services) != 1 {
		t.Fatalf("%+v, %v", counters, err)
	}
	for _, b := range counters.Services[0].Backends {
		if want := map[bool]uint64{true: 3, false: 0}[b.Address == its]; b.RxPackets != want {
			t.Errorf("%s counts %d packets, want %d", b.Address, b.RxPackets, want)
		}
	}
}
