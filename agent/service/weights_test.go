package service

import (
	"net/netip"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// slotsOf counts the slots of each backend in a service's table.
func slotsOf(store *fakeStore, m *Manager, id uint32) map[string]int {
	counts := make(map[string]int)
	p := m.actual[id]
	for _, b := range store.tables[p.entry.Slot] {
		counts[store.backends[b].Address.String()]++
	}
	return counts
}

func TestWeightsAreSharesOfTheTable(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights [3]uint16
		// shares are of 1000 slots, give or take 20.
		shares [3]int
	}{
		{"equal ones", [3]uint16{7, 7, 7}, [3]int{333, 333, 333}},
		{"1, 2 and 3", [3]uint16{1, 2, 3}, [3]int{167, 333, 500}},
		{"1, 1 and 2, whose average is below 2", [3]uint16{1, 1, 2}, [3]int{250, 250, 500}},
		{"one that gets none", [3]uint16{0, 1, 1}, [3]int{0, 500, 500}},
		{"the largest beside the smallest", [3]uint16{1000, 1, 1}, [3]int{998, 1, 1}},
		{"one that gets all", [3]uint16{0, 0, 9}, [3]int{0, 0, 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			s := svc(1, "40.1.1.1:80")
			s.TableSize = 1021
			addresses := []string{"20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80"}
			for i, a := range addresses {
				s.Backends = append(s.Backends, weighted(c.weights[i], a))
			}
			mustPut(t, m, s)
			got := slotsOf(store, m, 1)
			for i, a := range addresses {
				if share := got[a] * 1000 / 1021; share < c.shares[i]-20 || share > c.shares[i]+20 || (c.weights[i] == 0) != (got[a] == 0) {
					t.Errorf("weight %d: %d slots of 1021", c.weights[i], got[a])
				}
			}
		})
	}
}

func TestEqualWeightsGiveTheUnweightedTable(t *testing.T) {
	plain := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, plain)
	want := slices.Clone(store.tables[0])
	for _, weight := range []uint16{1, 2, 3, 500, 1000} {
		s := plain
		s.Backends = slices.Clone(plain.Backends)
		for i := range s.Backends {
			s.Backends[i].Weight = &weight
		}
		store.writes = nil
		mustPut(t, m, s)
		if len(store.writes) != 0 || !slices.Equal(store.tables[0], want) {
			t.Errorf("weight %d gives another table: %q", weight, store.writes)
		}
	}
}

// The data path drops new flows of such a service, and old ones go on.
func TestServiceOfWhichNobodyGetsNewFlowsHasNoTable(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Backend)
		state  datapath.BackendState
	}{
		{"weight 0", func(b *api.Backend) { *b = weighted(0, b.Address.String()) }, datapath.Maintenance},
		{"maintenance", func(b *api.Backend) { b.State = "maintenance" }, datapath.Maintenance},
		{"draining", func(b *api.Backend) { b.State = "draining" }, datapath.Draining},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
			mustPut(t, m, s)
			idle := s
			idle.Backends = slices.Clone(s.Backends)
			for i := range idle.Backends {
				c.change(&idle.Backends[i])
			}
			mustPut(t, m, idle)
			wantMaps(t, store, idle)
			if len(store.tables) != 0 || len(store.services) != 1 || store.backends[1].State != c.state || store.backends[2].State != c.state {
				t.Errorf("tables %v, services %v, backends %v", store.tables, store.services, store.backends)
			}
			mustPut(t, m, s)
			wantMaps(t, store, s)
		})
	}
}

func TestStatesKeepIDs(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, s)
	before := m.Numbers()
	for _, state := range []string{"maintenance", "active", "draining", "active"} {
		s.Backends = slices.Clone(s.Backends)
		s.Backends[0].State = state
		mustPut(t, m, s)
		wantMaps(t, store, s)
		m = open(t, store, file)
		wantMaps(t, store, s)
		if now := m.Numbers(); now[0].Backends[s.Backends[0].Address] != before[0].Backends[s.Backends[0].Address] {
			t.Errorf("in state %s it has another id: %v, %v", state, now, before)
		}
	}
}

func TestIPv6ServiceIsWrittenWithItsOwnOuterSource(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "[fd00:40::1]:80", "[fd00::10]:80", "[fd00::20]:80")
	mustPut(t, m, s)
	wantMaps(t, store, s)
	if outer := store.backends[1].Outer; outer != netip.MustParsePrefix("fd00::1/128") {
		t.Errorf("the outer source is %s", outer)
	}
	s.OuterSource = "fd00:1::/96"
	mustPut(t, m, s)
	wantMaps(t, store, s)
}

func TestLayer2HasNoOuterSource(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	s.Encap = "l2"
	mustPut(t, m, s)
	if b := store.backends[1]; b.Outer.IsValid() || b.Encap != datapath.L2 {
		t.Errorf("got %+v", b)
	}
}
