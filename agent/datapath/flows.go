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

// Conns walks over the flows that the data path remembers. Flows that come or
// go meanwhile may be seen or not; the walk ends with an error in its last pair
// when the map cannot be read.
func (m *Maps) Conns() iter.Seq2[FlowConn, error] {
	return func(yield func(FlowConn, error) bool) {
		err := walk(m.maps.Conntrack, func(k bpf.LBFlowKey, v bpf.LBCtEntry) bool {
			return yield(FlowConn{Flow: flowFromWire(k), Conn: connFromWire(v)}, nil)
		})
		if err != nil {
			yield(FlowConn{}, fmt.Errorf("read the map conntrack: %w", err))
		}
	}
}

// FlowConn is a flow (client to VIP) and what is remembered of it.
type FlowConn struct {
	Flow Flow
	Conn Conn
}

// Conn reads one flow; ok is false when it is not remembered.
func (m *Maps) Conn(f Flow) (c Conn, ok bool, err error) {
	var w bpf.LBCtEntry
	err = m.maps.Conntrack.Lookup(f.wire(), &w)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Conn{}, false, nil
	}
	if err != nil {
		return Conn{}, false, fmt.Errorf("read %v from the map conntrack: %w", f, err)
	}
	return connFromWire(w), true, nil
}

// PutConn writes a flow.
func (m *Maps) PutConn(f Flow, c Conn) error {
	return explain("write the map conntrack", m.maps.Conntrack.Put(f.wire(), c.wire()))
}

// DeleteConn forgets a flow; its not being there is no error.
func (m *Maps) DeleteConn(f Flow) error {
	return explain("delete from the map conntrack", absentIsFine(m.maps.Conntrack.Delete(f.wire())))
}

// FlowNAT is a reply's flow (backend to balancer) and where it goes.
type FlowNAT struct {
	Flow Flow
	NAT  NAT
}

// NATs walks over SNAT's ways back, as Conns does over flows.
func (m *Maps) NATs() iter.Seq2[FlowNAT, error] {
	return func(yield func(FlowNAT, error) bool) {
		err := walk(m.maps.Nat, func(k bpf.LBFlowKey, v bpf.LBNatEntry) bool {
			return yield(FlowNAT{Flow: flowFromWire(k), NAT: natFromWire(v)}, nil)
		})
		if err != nil {
			yield(FlowNAT{}, fmt.Errorf("read the map nat: %w", err))
		}
	}
}

// NAT reads one way back; ok is false when there is none.
func (m *Maps) NAT(f Flow) (n NAT, ok bool, err error) {
	var w bpf.LBNatEntry
	err = m.maps.Nat.Lookup(f.wire(), &w)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return NAT{}, false, nil
	}
	if err != nil {
		return NAT{}, false, fmt.Errorf("read %v from the map nat: %w", f, err)
	}
	return natFromWire(w), true, nil
}

// PutNAT writes a way back.
func (m *Maps) PutNAT(f Flow, n NAT) error {
	return explain("write the map nat", m.maps.Nat.Put(f.wire(), n.wire()))
}

// DeleteNAT removes a way back; its not being there is no error.
func (m *Maps) DeleteNAT(f Flow) error {
	return explain("delete from the map nat", absentIsFine(m.maps.Nat.Delete(f.wire())))
}

// walk calls visit for each entry until it returns false: in batches where the
// system has them (Linux 5.6), else key by key.
func walk[V any](m *ebpf.Map, visit func(bpf.LBFlowKey, V) bool) error {
	size := min(batchSize, int(m.MaxEntries()))
	keys, values := make([]bpf.LBFlowKey, size), make([]V, size)
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

func walkSingly[V any](m *ebpf.Map, visit func(bpf.LBFlowKey, V) bool) error {
	var key bpf.LBFlowKey
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
