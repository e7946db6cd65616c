package service

import (
	"net/netip"
	"testing"
)

// A flow that outlives its backend counts under the id that it began with; when the
// backend comes back, that is where its counters are read.
func TestBackendThatComesBackGoesOnCounting(t *testing.T) {
	for _, c := range []struct {
		name string
		away func(t *testing.T, m *Manager)
	}{
		{"after an update without it", func(t *testing.T, m *Manager) {
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
		}},
		{"after its service was deleted", func(t *testing.T, m *Manager) {
			if err := m.Delete(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}},
		{"after other backends came", func(t *testing.T, m *Manager) {
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80", "20.1.1.30:80", "20.1.1.40:80"))
			mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.10:80"))
		}},
	} {
		for _, restarts := range []bool{false, true} {
			name := c.name
			if restarts {
				name += ", and a restart"
			}
			t.Run(name, func(t *testing.T) {
				store, file := newFakeStore(t), stateFile(t)
				m := open(t, store, file)
				both := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
				mustPut(t, m, both)
				before := m.Numbers()[0]
				for _, id := range before.Backends {
					store.counted[id] = true
				}
				c.away(t, m)
				if restarts {
					m = open(t, store, file)
				}
				mustPut(t, m, both)
				after := m.Numbers()[0]
				if after.Slot != before.Slot {
					t.Errorf("its slot was %d and is %d", before.Slot, after.Slot)
				}
				for b, id := range before.Backends {
					if after.Backends[b] != id || !store.counted[id] {
						t.Errorf("%s had id %d and has %d; its counters are kept: %t", b, id, after.Backends[b], store.counted[id])
					}
				}
			})
		}
	}
}

func TestAnotherServiceOfTheSameNumberCountsFromZero(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	before := m.Numbers()[0]
	if err := m.Delete(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	mustPut(t, m, svc(1, "40.1.1.9:80", "20.1.1.10:80"))
	b := netip.MustParseAddrPort("20.1.1.10:80")
	if after := m.Numbers()[0]; after.Slot == before.Slot || after.Backends[b] == before.Backends[b] {
		t.Errorf("it was %+v and is %+v", before, after)
	}
}

// The numbers that wait for their owners are given to others when there are no more.
func TestKeptNumbersAreNoReasonToRefuse(t *testing.T) {
	n := newNumbers[string](1, 4)
	first, _, _ := n.allot("a")
	n.retire(first, "a")
	for _, owner := range []string{"b", "c"} {
		if number, again, ok := n.allot(owner); !ok || again || number == first {
			t.Errorf("%s got %d, %t, %t", owner, number, again, ok)
		}
	}
	if number, again, ok := n.allot("d"); !ok || again || number != first {
		t.Errorf("d got %d, %t, %t; want %d, cleared", number, again, ok, first)
	}
	if _, _, ok := n.allot("a"); ok {
		t.Error("a got a number, though all are in use")
	}
	n.retire(first, "d")
	if number, again, ok := n.allot("d"); !ok || !again || number != first {
		t.Errorf("d, coming back, got %d, %t, %t", number, again, ok)
	}
}

func TestMemoryForOwnersThatHaveGoneIsBounded(t *testing.T) {
	n := newNumbers[uint32](1, 1<<16)
	for owner := range uint32(3 * maxFormer) {
		number, _, _ := n.allot(owner)
		n.retire(number, owner)
	}
	if len(n.former) != maxFormer || n.former[0].Owner != 2*maxFormer {
		t.Errorf("%d are kept, from %+v", len(n.former), n.former[0])
	}
}
