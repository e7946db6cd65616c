package datapath

import (
	"errors"
	"fmt"
	"iter"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// batchSize is how many flows one system call reads. A batch must hold the fullest
// bucket of the hash table, or the kernel answers ENOSPC.
const batchSize = 512

// FlowConn is a flow (client to VIP) and what is remembered of it.
type FlowConn struct {
	Flow Flow
	Conn Conn
}

// FlowNAT is a reply's flow (backend to balancer) and where it goes.
type FlowNAT struct {
	Flow Flow
	NAT  NAT
}

// Conns walks over the flows that the data path remembers, of both families,
// established ones and new ones. Flows that come, go or move meanwhile may be
// seen, twice even, or not; the walk ends with an error in its last pair when a
// map cannot be read.
func (m *Maps) Conns() iter.Seq2[FlowConn, error] {
	return func(yield func(FlowConn, error) bool) {
		// The new ones first: a flow that moves on meanwhile is seen at its new place.
		_ = walkTable(m, m.maps.NewFlows4, yield, conn4(true)) && walkTable(m, m.maps.Flows4, yield, conn4(false)) &&
			walkTable(m, m.maps.NewFlows6, yield, conn6(true)) && walkTable(m, m.maps.Flows6, yield, conn6(false))
	}
}

func conn4(isNew bool) func(bpf.LBFlow4, bpf.LBCtEntry) FlowConn {
	return func(k bpf.LBFlow4, v bpf.LBCtEntry) FlowConn {
		return FlowConn{flow4FromWire(k), connFromWire(v, isNew)}
	}
}

func conn6(isNew bool) func(bpf.LBFlow, bpf.LBCtEntry) FlowConn {
	return func(k bpf.LBFlow, v bpf.LBCtEntry) FlowConn {
		return FlowConn{flow6FromWire(k), connFromWire(v, isNew)}
	}
}

// NATs walks over SNAT's ways back, as Conns does over flows.
func (m *Maps) NATs() iter.Seq2[FlowNAT, error] {
	return func(yield func(FlowNAT, error) bool) {
		_ = walkTable(m, m.maps.NewNat4, yield, nat4(true)) && walkTable(m, m.maps.Nat4, yield, nat4(false)) &&
			walkTable(m, m.maps.NewNat6, yield, nat6(true)) && walkTable(m, m.maps.Nat6, yield, nat6(false))
	}
}

func nat4(isNew bool) func(bpf.LBFlow4, bpf.LBNatEntry) FlowNAT {
	return func(k bpf.LBFlow4, v bpf.LBNatEntry) FlowNAT {
		return FlowNAT{flow4FromWire(k), natFromWire(v, false, isNew)}
	}
}

func nat6(isNew bool) func(bpf.LBFlow, bpf.LBNatEntry) FlowNAT {
	return func(k bpf.LBFlow, v bpf.LBNatEntry) FlowNAT {
		return FlowNAT{flow6FromWire(k), natFromWire(v, true, isNew)}
	}
}

// tables are the maps of established and of new entries of a flow's family.
type tables struct{ established, fresh *ebpf.Map }

func (m *Maps) flowTables(f Flow) tables {
	if f.six() {
		return tables{m.maps.Flows6, m.maps.NewFlows6}
	}
	return tables{m.maps.Flows4, m.maps.NewFlows4}
}

func (m *Maps) natTables(f Flow) tables {
	if f.six() {
		return tables{m.maps.Nat6, m.maps.NewNat6}
	}
	return tables{m.maps.Nat4, m.maps.NewNat4}
}

// lookup finds an entry in either table, as the data path does.
func (t tables) lookup(key, value any) (isNew, ok bool, err error) {
	for i, table := range []*ebpf.Map{t.established, t.fresh} {
		err := table.Lookup(key, value)
		if err == nil {
			return i == 1, true, nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, false, err
		}
	}
	return false, false, nil
}

func (t tables) put(key, value any, isNew bool) error {
	if isNew {
		return t.fresh.Put(key, value)
	}
	return t.established.Put(key, value)
}

func (t tables) remove(key any) error {
	return errors.Join(absentIsFine(t.established.Delete(key)), absentIsFine(t.fresh.Delete(key)))
}

// Conn reads one flow; ok is false when it is not remembered.
func (m *Maps) Conn(f Flow) (c Conn, ok bool, err error) {
	var w bpf.LBCtEntry
	isNew, ok, err := m.flowTables(f).lookup(f.wire(), &w)
	if err != nil || !ok {
		return Conn{}, false, explain(fmt.Sprintf("read %v from the flows", f), err)
	}
	return connFromWire(w, isNew), true, nil
}

// PutConn writes a flow into the table that c.New says.
func (m *Maps) PutConn(f Flow, c Conn) error {
	return explain(fmt.Sprintf("write %v to the flows", f), m.flowTables(f).put(f.wire(), c.wire(), c.New))
}

// DeleteConn forgets a flow; its not being there is no error.
func (m *Maps) DeleteConn(f Flow) error {
	return explain(fmt.Sprintf("delete %v from the flows", f), m.flowTables(f).remove(f.wire()))
}

// NAT reads one way back; ok is false when there is none.
func (m *Maps) NAT(f Flow) (n NAT, ok bool, err error) {
	var w bpf.LBNatEntry
	isNew, ok, err := m.natTables(f).lookup(f.wire(), &w)
	if err != nil || !ok {
		return NAT{}, false, explain(fmt.Sprintf("read %v from the ways back", f), err)
	}
	return natFromWire(w, f.six(), isNew), true, nil
}

// PutNAT writes a way back into the table that n.New says.
func (m *Maps) PutNAT(f Flow, n NAT) error {
	return explain(fmt.Sprintf("write %v to the ways back", f), m.natTables(f).put(f.wire(), n.wire(), n.New))
}

// DeleteNAT removes a way back; its not being there is no error.
func (m *Maps) DeleteNAT(f Flow) error {
	return explain(fmt.Sprintf("delete %v from the ways back", f), m.natTables(f).remove(f.wire()))
}

// walkTable yields a map's entries, and counts them; false says that the walk is over for all tables.
func walkTable[K, V, E any](m *Maps, table *ebpf.Map, yield func(E, error) bool, entry func(K, V) E) bool {
	going := true
	var n uint64
	err := walk(table, func(k K, v V) bool {
		n++
		going = yield(entry(k, v), nil)
		return going
	})
	if err != nil {
		var none E
		yield(none, fmt.Errorf("read the map of flows %s: %w", table, err))
		return false
	}
	if going {
		m.entries.note(table, n)
	}
	return going
}

// walk calls visit for each entry until it returns false: in batches where the
// system has them (Linux 5.6), else key by key.
func walk[K, V any](m *ebpf.Map, visit func(K, V) bool) error {
	size := min(batchSize, int(m.MaxEntries()))
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return walkSingly(m, visit)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("batch lookup: %w", err)
		}
		for i := range n {
			if !visit(keys[i], values[i]) {
				return nil
			}
		}
		if err != nil { // ErrKeyNotExist: that was the last batch
			return nil
		}
	}
}

func walkSingly[K, V any](m *ebpf.Map, visit func(K, V) bool) error {
	var key K
	var value V
	all := m.Iterate()
	for all.Next(&key, &value) {
		if !visit(key, value) {
			return nil
		}
	}
	if err := all.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil // entries came and went under the walk; the next one sees the rest
}
