package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
)

// Slots returns the slots that have a Maglev table.
func (m *Maps) Slots() ([]uint32, error) {
	var slots []uint32
	var slot uint32
	err := m.maps.Maglev.NextKey(nil, &slot)
	for ; err == nil; err = m.maps.Maglev.NextKey(slot, &slot) {
		slots = append(slots, slot)
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read the keys of the map maglev: %w", err)
	}
	return slots, nil
}

// Table reads the Maglev table of a slot, nil when there is none.
func (m *Maps) Table(slot uint32) ([]uint32, error) {
	var inner *ebpf.Map
	err := m.maps.Maglev.Lookup(slot, &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read slot %d of the map maglev: %w", slot, err)
	}
	defer inner.Close()
	pairs, err := readArray[uint64](inner)
	if err != nil {
		return nil, fmt.Errorf("read the Maglev table of slot %d: %w", slot, err)
	}
	table := make([]uint32, 0, 2*len(pairs))
	for _, pair := range pairs {
		table = append(table, uint32(pair), uint32(pair>>32))
	}
	return table[:len(table)-1], nil // all sizes are odd
}

// PutTable writes a table of backend ids whole and then puts it in the place
// of the slot's old one, in one write. When it returns, on Linux, no packet is
// being looked up in the old one any more: the kernel waits for running
// programs after it has replaced an inner map (maybe_wait_bpf_programs, 4.15).
func (m *Maps) PutTable(slot uint32, table []uint32) error {
	var w window
	inner, err := m.newTable(&w, table)
	if err := errors.Join(err, w.close()); err != nil {
		return err
	}
	defer inner.Close()
	return m.enterTable(slot, inner)
}

// enterTable puts a table that is filled into its slot.
func (m *Maps) enterTable(slot uint32, inner *ebpf.Map) error {
	write := func() error {
		return m.full(m.maps.Maglev, fmt.Sprintf("write slot %d of the map maglev", slot), m.maps.Maglev.Put(slot, inner))
	}
	if m.keeper == nil {
		return write()
	}
	id, err := mapID(inner)
	if err != nil {
		return err
	}
	return m.keeper.put(slot, inner, id, write)
}

func mapID(of *ebpf.Map) (ebpf.MapID, error) {
	info, err := of.Info()
	if err != nil {
		return 0, fmt.Errorf("read a Maglev table's info: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("a Maglev table has no id")
	}
	return id, nil
}

// tablesAtOnce bounds the open files of PutTables.
const tablesAtOnce = 512

// PutTables does for many slots what PutTable does for one. Where the kernel has
// batches for maps of maps (Linux 5.19), it waits for running programs once in
// a while only, not for each.
func (m *Maps) PutTables(tables map[uint32][]uint32) error {
	for slots := range slices.Chunk(slices.Sorted(maps.Keys(tables)), tablesAtOnce) {
		if err := m.putTables(slots, tables); err != nil {
			return err
		}
	}
	return nil
}

func (m *Maps) putTables(slots []uint32, tables map[uint32][]uint32) (err error) {
	var w window
	inner := make([]*ebpf.Map, 0, len(slots))
	defer func() {
		err = errors.Join(err, w.close())
		for _, t := range inner {
			err = errors.Join(err, t.Close())
		}
	}()
	fds := make([]uint32, 0, len(slots))
	for _, slot := range slots {
		t, err := m.newTable(&w, tables[slot])
		if err != nil {
			return err
		}
		inner = append(inner, t)
		fds = append(fds, uint32(t.FD()))
	}
	if m.keeper == nil {
		n, err := m.maps.Maglev.BatchUpdate(slots, fds, nil)
		if err == nil && n == len(slots) {
			return nil
		}
	}
	for i, slot := range slots {
		if err := m.enterTable(slot, inner[i]); err != nil {
			return err
		}
	}
	return nil
}

func (m *Maps) newTable(w *window, table []uint32) (*ebpf.Map, error) {
	spec := m.table
	spec.MaxEntries = uint32(len(table)+1) / 2
	inner, err := ebpf.NewMap(&spec)
	if err != nil {
		return nil, fmt.Errorf("create a Maglev table of %d slots: %w", len(table), err)
	}
	if err := writeTable(w, inner, table); err != nil {
		return nil, errors.Join(fmt.Errorf("fill a Maglev table of %d slots: %w", len(table), err), inner.Close())
	}
	return inner, nil
}

// DeleteTable removes a slot's table; there being none is no error.
func (m *Maps) DeleteTable(slot uint32) error {
	remove := func() error {
		return explain(fmt.Sprintf("delete slot %d of the map maglev", slot), absentIsFine(m.maps.Maglev.Delete(slot)))
	}
	if m.keeper == nil {
		return remove()
	}
	return m.keeper.remove(slot, remove)
}

// writeTable fills an array map with a table's pairs of slots: as memory where the map
// can be that, else with one system call where there are batches, else one by one.
func writeTable(w *window, array *ebpf.Map, table []uint32) error {
	if done, err := w.write(array, table); done || err != nil {
		return err
	}
	keys, pairs := make([]uint32, (len(table)+1)/2), make([]uint64, (len(table)+1)/2)
	for i, id := range table {
		keys[i/2] = uint32(i / 2)
		pairs[i/2] |= uint64(id) << (i % 2 * 32)
	}
	n, err := array.BatchUpdate(keys, pairs, nil)
	if err == nil && n == len(pairs) {
		return nil
	}
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("batch update: %w", err)
	}
	for i, pair := range pairs {
		if err := array.Put(uint32(i), pair); err != nil {
			return fmt.Errorf("slots %d and the next: %w", 2*i, err)
		}
	}
	return nil
}

// readArray reads an array map, in one system call where there are batches.
func readArray[V any](array *ebpf.Map) ([]V, error) {
	values := make([]V, array.MaxEntries())
	keys := make([]uint32, len(values))
	var cursor ebpf.MapBatchCursor
	n, err := array.BatchLookup(&cursor, keys, values, nil)
	if n == len(values) && (err == nil || errors.Is(err, ebpf.ErrKeyNotExist)) {
		return values, nil
	}
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("batch lookup: %w", err)
	}
	for i := range values {
		if err := array.Lookup(uint32(i), &values[i]); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return values, nil
}
