package service

import "testing"

// An agent that may not read the maps' tables traces packets by these.
func TestWrittenTablesAreThoseOfTheMaps(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	large := svc(2, "40.1.1.2:80", "20.1.1.30:80")
	large.TableSize = 509
	mustApply(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"), large)
	store.unreadable = true
	for name, m := range map[string]*Manager{"the agent that wrote them": m, "the next one": open(t, store, file)} {
		t.Run(name, func(t *testing.T) {
			for slot, table := range store.tables {
				for index, want := range table {
					if got, err := m.WrittenSlot(slot, uint32(index)); err != nil || got != want {
						t.Fatalf("slot %d, index %d: got %d, %v, the map has %d", slot, index, got, err, want)
					}
				}
				if got, err := m.WrittenSlot(slot, uint32(len(table))); err != nil || got != 0 {
					t.Errorf("slot %d behind its end: got %d, %v", slot, got, err)
				}
			}
			if got, err := m.WrittenSlot(3, 0); err != nil || got != 0 {
				t.Errorf("a slot that no service has: got %d, %v", got, err)
			}
		})
	}
}

func TestTableThatCouldNotBeWrittenIsNotTaken(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	store.failAt, store.failures = len(store.writes)+4, 100 // the next backend's counters, itself and its next hop come first
	if _, err := m.Put(t.Context(), svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")); err == nil {
		t.Fatal("nothing failed")
	}
	if got, err := m.WrittenSlot(0, 0); err == nil {
		t.Errorf("got %d", got)
	}
}
