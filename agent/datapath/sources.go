package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/bpf"
)

func (m *Maps) readSourcesLocked() error {
	m.sources = make(map[uint32]map[netip.Prefix]bool)
	var key bpf.LBSourceKey
	var value uint32
	all := m.maps.Sources.Iterate()
	for all.Next(&key, &value) {
		// The value is the family, which the key alone does not tell.
		slot, prefix := sourceFromWire(key, value)
		m.noteSource(slot, prefix)
	}
	return explain("read the map sources", all.Err())
}

func (m *Maps) noteSource(slot uint32, prefix netip.Prefix) {
	if m.sources[slot] == nil {
		m.sources[slot] = make(map[netip.Prefix]bool)
	}
	m.sources[slot][prefix] = true
}

// Sources returns the ranges that a slot's service admits, when its Ranges is set.
func (m *Maps) Sources(slot uint32) ([]netip.Prefix, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.sources[slot]), func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	}), nil
}

// PutSources makes a slot's ranges these. New ones are added before old ones
// go, so that no source which is in both is refused meanwhile. When there is
// no room, what was added goes again.
func (m *Maps) PutSources(slot uint32, ranges []netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := make(map[netip.Prefix]bool, len(ranges))
	for _, r := range ranges {
		want[r.Masked()] = true
	}
	var added []netip.Prefix
	for r := range want {
		if m.sources[slot][r] {
			continue
		}
		key, value := sourceToWire(slot, r)
		if err := m.maps.Sources.Put(key, value); err != nil {
			err = m.full(m.maps.Sources, fmt.Sprintf("write %s of slot %d to the map sources", r, slot), err)
			for _, r := range added {
				err = errors.Join(err, m.deleteSourceLocked(slot, r))
			}
			return err
		}
		m.noteSource(slot, r)
		added = append(added, r)
	}
	var faults []error
	for _, r := range slices.Collect(maps.Keys(m.sources[slot])) {
		if !want[r] {
			faults = append(faults, m.deleteSourceLocked(slot, r))
		}
	}
	if len(m.sources[slot]) == 0 {
		delete(m.sources, slot)
	}
	return errors.Join(faults...)
}

func (m *Maps) deleteSourceLocked(slot uint32, r netip.Prefix) error {
	key, _ := sourceToWire(slot, r)
	if err := absentIsFine(m.maps.Sources.Delete(key)); err != nil {
		return fmt.Errorf("delete %s of slot %d from the map sources: %w", r, slot, err)
	}
	delete(m.sources[slot], r)
	return nil
}
