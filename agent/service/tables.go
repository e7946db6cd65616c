package service

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"l4lab/agent/maglev"
)

// tablesAtOnce is how many Maglev tables are computed and written together, of
// 64 KiB each at the default size.
const tablesAtOnce = 256

// putTables computes and writes the tables that are to be others.
func (m *Manager) putTables(steps []*step) error {
	var due []*step
	for _, st := range steps {
		p := st.have
		if p.unsure.table || p.tableSize != st.want.entry.TableSize || !slices.Equal(p.table, st.list) {
			due = append(due, st)
		}
	}
	// While some are written the next are computed.
	computed, stop := make(chan tables, 1), make(chan struct{})
	defer close(stop)
	go func() {
		defer close(computed)
		for chunk := range slices.Chunk(due, tablesAtOnce) {
			made, err := compute(chunk)
			select {
			case computed <- tables{chunk, made, err}:
			case <-stop:
				return
			}
		}
	}()
	for t := range computed {
		if t.err != nil {
			return t.err
		}
		if err := m.writeTables(t); err != nil {
			return err
		}
	}
	return nil
}

// WrittenSlot is what the Manager wrote to one index of the Maglev table in a slot, for a process that
// may write tables and not read them; 0 is nobody. It is an error when a write has failed, so that the
// map may hold another table.
func (m *Manager) WrittenSlot(slot, index uint32) (backend uint32, err error) {
	m.mu.Lock()
	var list []maglev.Backend
	var size uint32
	known := true
	for _, p := range m.actual {
		if p.entry.Slot == slot {
			list, size, known = p.table, p.tableSize, !p.unsure.table
		}
	}
	m.mu.Unlock()
	switch {
	case !known:
		return 0, fmt.Errorf("the Maglev table of slot %d could not be written", slot)
	case index >= size:
		return 0, nil
	}
	table, err := maglev.Table(list, size)
	if err != nil {
		return 0, err
	}
	return table[index], nil
}

// tables are those of some services, nil where there is none.
type tables struct {
	steps []*step
	made  [][]uint32
	err   error
}

func (m *Manager) writeTables(t tables) (err error) {
	written := make(map[uint32][]uint32, len(t.steps))
	for i, st := range t.steps {
		st.have.unsure.table = true
		for _, c := range st.list {
			st.have.members[c.Address].exposed = true
		}
		if t.made[i] != nil {
			written[st.have.entry.Slot] = t.made[i]
			continue
		}
		if err := m.store.DeleteTable(st.have.entry.Slot); err != nil {
			return err
		}
	}
	switch len(written) {
	case 0:
	case 1:
		for slot, table := range written {
			err = m.store.PutTable(slot, table)
		}
	default:
		err = m.store.PutTables(written)
	}
	if err != nil {
		return err
	}
	for _, st := range t.steps {
		st.have.table, st.have.tableSize, st.have.unsure.table = st.list, st.want.entry.TableSize, false
	}
	return nil
}

// compute makes the tables of some services with all processors.
func compute(steps []*step) ([][]uint32, error) {
	made, faults := make([][]uint32, len(steps)), make([]error, len(steps))
	var computing sync.WaitGroup
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), len(steps)) {
		computing.Go(func() {
			var builder maglev.Builder
			for i := int(next.Add(1)) - 1; i < len(steps); i = int(next.Add(1)) - 1 {
				if st := steps[i]; st.want.entry.TableSize > 0 {
					made[i] = make([]uint32, st.want.entry.TableSize)
					faults[i] = builder.Fill(made[i], st.list)
				}
			}
		})
	}
	computing.Wait()
	return made, errors.Join(faults...)
}
