package datapath

import (
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// Room is how full a table is.
type Room struct {
	Used, Size uint64
}

// countLife is how long a count of a table that the data path fills itself is taken for its fullness. To
// count is to walk over every entry, of which there may be millions. Walks that are made anyway count too,
// such as the sweep's every ten seconds.
const countLife = 20 * time.Second

// entryCounts are what the last walk over each table found.
type entryCounts struct {
	// counting is held while Rooms counts, so that several who ask at once cost one walk.
	counting sync.Mutex

	mu sync.Mutex // of found
	// found has a table only once it was walked to its end.
	found map[*ebpf.Map]entryCount
}

type entryCount struct {
	entries uint64
	at      time.Time
}

func (c *entryCounts) note(table *ebpf.Map, entries uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		c.found = make(map[*ebpf.Map]entryCount)
	}
	c.found[table] = entryCount{entries, time.Now()}
}

func (c *entryCounts) recent(table *ebpf.Map) (entries uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.found[table]
	return found.entries, ok && time.Since(found.at) < countLife
}

// Rooms says how full the tables are: services, backends and sources, and those that the data path
// fills itself. The latter are as they were at most countLife ago.
func (m *Maps) Rooms() (map[string]Room, error) {
	rooms := make(map[string]Room)
	m.entries.counting.Lock()
	defer m.entries.counting.Unlock()
	for _, table := range []struct {
		name  string
		of    *ebpf.Map
		count func(*ebpf.Map) (uint64, error)
	}{
		{bpf.LBMapFlows4, m.maps.Flows4, count[bpf.LBFlow4, bpf.LBCtEntry]},
		{bpf.LBMapFlows6, m.maps.Flows6, count[bpf.LBFlow, bpf.LBCtEntry]},
		{bpf.LBMapNewFlows4, m.maps.NewFlows4, count[bpf.LBFlow4, bpf.LBCtEntry]},
		{bpf.LBMapNewFlows6, m.maps.NewFlows6, count[bpf.LBFlow, bpf.LBCtEntry]},
		{bpf.LBMapNat4, m.maps.Nat4, count[bpf.LBFlow4, bpf.LBNatEntry]},
		{bpf.LBMapNat6, m.maps.Nat6, count[bpf.LBFlow, bpf.LBNatEntry]},
		{bpf.LBMapNewNat4, m.maps.NewNat4, count[bpf.LBFlow4, bpf.LBNatEntry]},
		{bpf.LBMapNewNat6, m.maps.NewNat6, count[bpf.LBFlow, bpf.LBNatEntry]},
		{bpf.LBMapAffinities, m.maps.Affinities, count[bpf.LBAffinityKey, bpf.LBAffinity]},
		{bpf.LBMapFragments, m.maps.Fragments, count[bpf.LBFragmentKey, bpf.LBFragment]},
	} {
		used, recent := m.entries.recent(table.of)
		if !recent {
			var err error
			if used, err = table.count(table.of); err != nil {
				return nil, fmt.Errorf("count the entries of the map %s: %w", table.name, err)
			}
			m.entries.note(table.of, used)
		}
		rooms[table.name] = Room{used, uint64(table.of.MaxEntries())}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var sources uint64
	for _, of := range m.sources {
		sources += uint64(len(of))
	}
	limits := m.Limits()
	rooms[bpf.LBMapSources] = Room{sources, uint64(limits.Sources)}
	rooms[bpf.LBMapServices] = Room{uint64(len(m.vips.services)), uint64(limits.Services)}
	rooms[bpf.LBMapBackends] = Room{uint64(len(m.backends.entries)), uint64(limits.Backends - 1)} // id 0 is nobody's
	return rooms, nil
}

func count[K, V any](of *ebpf.Map) (n uint64, err error) {
	err = walk(of, func(K, V) bool {
		n++
		return true
	})
	return n, err
}
