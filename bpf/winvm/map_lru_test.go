package winvm

import (
	"slices"
	"testing"
)

func lruOf(t testing.TB, cpus int, entries uint32) *Map {
	options := fixed()
	options.CPUs = cpus
	return mapOf(t, options, MapSpec{Type: LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: entries})
}

func TestAnLRUMapGivesUpWhatWasUsedLongestAgo(t *testing.T) {
	// Of 100 elements a generation has 10.
	m := lruOf(t, 1, 100)
	for i := range uint32(100) {
		must(t, m.Update(u32(i), u32(i), NoExist))
	}
	for i := range uint32(20) { // the oldest twenty are used again
		_, err := m.Lookup(u32(i))
		must(t, err)
	}
	for i := uint32(100); i < 150; i++ {
		must(t, m.Update(u32(i), u32(i), NoExist))
		if m.Len() != 100 {
			t.Fatalf("%d elements", m.Len())
		}
	}
	for i := range uint32(150) {
		_, err := m.Lookup(u32(i))
		// What was neither used again nor is young: 50 of them for 50 new ones.
		if want := i < 20 || i >= 70; (err == nil) != want {
			t.Errorf("element %d: %v", i, err)
		}
	}
}

// Of 20 elements a generation has 2: it ends with the third use. A use counts only in
// the first of a generation.
func TestUsesOfOneGenerationDoNotChangeTheOrder(t *testing.T) {
	for name, c := range map[string]struct {
		begin func(m *Map)
		gone  []uint32 // of 0, 1 and 2, when one had to go
	}{
		"a use in the next generation": {func(m *Map) {
			insert(t, m, 0, 1, 2)
			_, err := m.Lookup(u32(0))
			must(t, err)
		}, []uint32{1}},
		"a use in the same generation": {func(m *Map) {
			insert(t, m, 0, 1)
			_, err := m.Lookup(u32(0))
			must(t, err)
			insert(t, m, 2)
		}, []uint32{0}},
		"a deletion makes room in the generation": {func(m *Map) {
			insert(t, m, 0, 1)
			must(t, m.Delete(u32(1)))
			insert(t, m, 2)
			_, err := m.Lookup(u32(0))
			must(t, err)
		}, []uint32{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			m := lruOf(t, 1, 20)
			c.begin(m)
			for i := uint32(100); m.Len() < 20; i++ {
				insert(t, m, i)
			}
			insert(t, m, 200)
			for _, i := range []uint32{0, 1, 2} {
				if _, err := m.Lookup(u32(i)); (err != nil) != slices.Contains(c.gone, i) {
					t.Errorf("element %d: %v", i, err)
				}
			}
		})
	}
}

func insert(t testing.TB, m *Map, keys ...uint32) {
	t.Helper()
	for _, key := range keys {
		must(t, m.Update(u32(key), u32(key), NoExist))
	}
}

func TestAnLRUMapIsNeverLargerThanItsMaxEntries(t *testing.T) {
	for _, kind := range []MapType{LRUHash, LRUPerCPUHash} {
		for _, cpus := range []int{1, 2, 16} {
			for _, entries := range []uint32{1, 2, 3, 7, 64} {
				options := fixed()
				options.CPUs = cpus
				m := mapOf(t, options, MapSpec{Type: kind, KeySize: 4, ValueSize: 4, MaxEntries: entries})
				value := make([]byte, m.valueBytes())
				for i := range uint32(500) {
					must(t, m.machine.SetCPU(int(i*7)%cpus))
					must(t, m.Update(u32(i%97), value, Any))
					if i%3 == 0 {
						_, _ = m.Lookup(u32(i % 89))
					}
					if i%11 == 0 {
						_ = m.Delete(u32(i % 83))
					}
					if m.Len() > int(entries) {
						t.Fatalf("%s of %d on %d processors: %d elements", kind, entries, cpus, m.Len())
					}
					if _, err := m.Lookup(u32(i % 97)); err != nil && i%11 != 0 {
						t.Fatalf("%s of %d on %d processors: what was just inserted is gone: %v", kind, entries, cpus, err)
					}
				}
				checkLists(t, m)
			}
		}
	}
}

// checkLists walks the lists of an LRU map: every element stands in at least one, and in none twice.
func checkLists(t *testing.T, m *Map) {
	t.Helper()
	h := m.entries.(*hashEntries)
	found := map[int32]bool{}
	for group := range h.lru.groups {
		g := &h.lru.groups[group]
		seen := map[int32]bool{}
		for _, list := range []lruList{g.hot, g.cold} {
			before := int32(end)
			for slot := list.first; slot != end; slot = h.lru.node(int(slot), group).after {
				if seen[slot] || !h.live[slot] || h.lru.node(int(slot), group).before != before {
					t.Fatalf("group %d: element %d is out of place", group, slot)
				}
				seen[slot], found[slot], before = true, true, slot
			}
			if list.last != before {
				t.Fatalf("group %d: the list ends at %d, not %d", group, before, list.last)
			}
		}
	}
	if len(found) != m.Len() {
		t.Errorf("%d elements in the lists, %d in the map", len(found), m.Len())
	}
}

// _reap_lru_cold_lists takes an element that another group of processors used later off its
// own group's list and goes on to that other group, whose oldest element then goes,
// although others of the first group are older. So an LRU map whose elements are used
// on several processors gives up young ones as well.
func TestAnElementUsedOnAnotherProcessorGoesBeforeOlderOnes(t *testing.T) {
	now := uint64(0)
	m := lruOf(t, 2, 20)
	m.machine.options.Clock = clockOf(&now)
	for i := range uint32(20) {
		now++
		must(t, m.Update(u32(i), u32(i), Any))
	}
	must(t, m.machine.SetCPU(1))
	for i := range uint32(5) {
		now++
		_, err := m.Lookup(u32(i))
		must(t, err)
	}
	must(t, m.machine.SetCPU(0))
	now++
	must(t, m.Update(u32(20), u32(20), Any))
	if _, err := m.Lookup(u32(0)); err == nil {
		t.Error("element 0 is there")
	}
	if _, err := m.Lookup(u32(5)); err != nil {
		t.Errorf("element 5: %v", err)
	}
	checkLists(t, m)
}
