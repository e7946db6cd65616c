package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l4lab/bpf/winvm"
)

// content is what a map holds. It is never changed: two that are the same
// pointer are equal.
type content struct{ entries map[string]string }

// mirroredMap is a map as the kernel has it and as both machines of Windows have it.
// Values of per-CPU maps are counters and stand here as their sums.
type mirroredMap struct {
	name   string
	kernel *ebpf.Map
	lru    bool
	// share is how many entries an LRU map holds at least before it evicts one.
	share  int
	perCPU bool
	// agents maps are written by the agent, here the test, and by no program.
	agents bool
	// times are the offsets of times in a value.
	times []uintptr
	// known is what Windows has, now what the kernel had when last read.
	known, now *content

	keys, values reflect.Value // batches, of arrays of bytes
	raw          []byte        // the last ones, to see at a glance that nothing has changed
}

func mirroredMaps(o *LBObjects) []*mirroredMap {
	entry := []uintptr{unsafe.Offsetof(LBCtEntry{}.LastSeenNs), unsafe.Offsetof(LBCtEntry{}.WayBackNs)}
	affinity := []uintptr{unsafe.Offsetof(LBAffinity{}.LastSeenNs)}
	fragment := []uintptr{unsafe.Offsetof(LBFragment{}.LastSeenNs)}
	maps := []*mirroredMap{
		{name: LBMapConfig, kernel: o.Config, agents: true}, {name: LBMapVipFilter, kernel: o.VipFilter, agents: true},
		{name: LBMapServices, kernel: o.Services, agents: true}, {name: LBMapBackends, kernel: o.Backends, agents: true},
		{name: LBMapFlows4, kernel: o.Flows4, times: entry}, {name: LBMapFlows6, kernel: o.Flows6, times: entry},
		{name: LBMapNewFlows4, kernel: o.NewFlows4, times: entry}, {name: LBMapNewFlows6, kernel: o.NewFlows6, times: entry},
		{name: LBMapNat4, kernel: o.Nat4}, {name: LBMapNat6, kernel: o.Nat6},
		{name: LBMapNewNat4, kernel: o.NewNat4}, {name: LBMapNewNat6, kernel: o.NewNat6},
		{name: LBMapAffinities, kernel: o.Affinities, times: affinity},
		{name: LBMapFragments, kernel: o.Fragments, times: fragment},
		{name: LBMapSources, kernel: o.Sources, agents: true},
		{name: LBMapServiceStats, kernel: o.ServiceStats}, {name: LBMapBackendStats, kernel: o.BackendStats},
		{name: LBMapDrops, kernel: o.Drops}, {name: LBMapIcmpPackets, kernel: o.IcmpPackets},
	}
	for _, m := range maps {
		m.lru = m.kernel.Type() == ebpf.LRUHash
		m.share = int(m.kernel.MaxEntries()) * 3 / 4
		if m.kernel.Flags()&unix.BPF_F_NO_COMMON_LRU != 0 { // each CPU evicts from its own share
			m.share /= ebpf.MustPossibleCPU()
		}
		m.perCPU = m.kernel.Type() == ebpf.PerCPUArray
		m.known = &content{}
		m.now = m.known
		batch := func(size, count uint32) reflect.Value {
			n := int(count)
			return reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
		}
		m.keys = batch(m.kernel.KeySize(), m.kernel.MaxEntries())
		values := m.kernel.MaxEntries()
		if m.perCPU {
			values *= uint32(ebpf.MustPossibleCPU())
		}
		m.values = batch(m.kernel.ValueSize(), values)
	}
	return maps
}

// read reads the kernel's map.
func (m *mirroredMap) read(t testing.TB) {
	var cursor ebpf.MapBatchCursor
	n, err := m.kernel.BatchLookup(&cursor, m.keys.Interface(), m.values.Interface(), nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatalf("map %s: %v", m.name, err)
	}
	width := 1
	if m.perCPU {
		width = ebpf.MustPossibleCPU()
	}
	keys, values := flat(m.keys, n), flat(m.values, n*width)
	if len(m.raw) == len(keys)+len(values) && bytes.Equal(m.raw[:len(keys)], keys) && bytes.Equal(m.raw[len(keys):], values) {
		return
	}
	m.raw = append(append(m.raw[:0], keys...), values...)
	now := &content{make(map[string]string, n)}
	keySize, size := int(m.kernel.KeySize()), int(m.kernel.ValueSize())
	for i := range n {
		value := values[i*width*size:][:size]
		for cpu := 1; cpu < width; cpu++ {
			addWords(value, values[(i*width+cpu)*size:][:size])
		}
		if m.array() && allZero(value) {
			continue // which all elements of an array are that nobody wrote to
		}
		now.entries[string(keys[i*keySize:][:keySize])] = string(value)
	}
	m.now = now
}

// flat is a batch's first elements, one behind another.
func flat(batch reflect.Value, n int) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(batch.UnsafePointer()), n*int(batch.Type().Elem().Size()))
}

func (m *mirroredMap) array() bool {
	return m.perCPU || m.kernel.Type() == ebpf.Array
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

func addWords(sum, more []byte) {
	for at := 0; at+8 <= len(sum); at += 8 {
		binary.NativeEndian.PutUint64(sum[at:], binary.NativeEndian.Uint64(sum[at:])+binary.NativeEndian.Uint64(more[at:]))
	}
}

// set brings a machine's map from one content to another.
func (m *mirroredMap) set(t testing.TB, w *windows, from, to *content) {
	if from == to {
		return
	}
	table := w.tables[m.name]
	for key, value := range to.entries {
		if from.entries[key] != value {
			if err := table.Update([]byte(key), []byte(value), winvm.Any); err != nil {
				t.Fatal(err)
			}
		}
	}
	for key := range from.entries {
		if _, stays := to.entries[key]; !stays {
			if err := table.Delete([]byte(key)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// windows reads a machine's map.
func (m *mirroredMap) windows(w *windows) *content {
	got := &content{map[string]string{}}
	for key, value := range w.tables[m.name].All() {
		if !m.array() || !allZero(value) {
			got.entries[string(key)] = string(value)
		}
	}
	return got
}

// compare fails unless a machine's map is what the kernel's is now, and then makes
// it so in what may differ.
func (m *mirroredMap) compare(t testing.TB, w *windows, from, until time.Duration) error {
	if m.agents {
		return nil
	}
	got := m.windows(w)
	if m.lru && len(m.known.entries) > m.share {
		for key, value := range m.known.entries {
			if _, there := m.now.entries[key]; !there && got.entries[key] == value {
				delete(got.entries, key)
				must(t, w.tables[m.name].Delete([]byte(key)))
			}
		}
	}
	if err := m.difference(m.now, got, from, until); err != nil {
		return err
	}
	m.set(t, w, got, m.now)
	return nil
}

// difference says how one content differs from another; times may within a span.
func (m *mirroredMap) difference(want, got *content, from, until time.Duration) error {
	for key, value := range want.entries {
		other, there := got.entries[key]
		if !there {
			return fmt.Errorf("key %x is missing, its value is %x in the kernel", key, value)
		}
		if !m.equal(value, other, from, until) {
			return fmt.Errorf("key %x\nkernel  %x\nWindows %x", key, value, other)
		}
	}
	for key, value := range got.entries {
		if _, there := want.entries[key]; !there {
			return fmt.Errorf("key %x of value %x is not in the kernel's", key, value)
		}
	}
	return nil
}

// equal compares two values. Two times are equal when both lie in the span, too.
func (m *mirroredMap) equal(a, b string, from, until time.Duration) bool {
	if a == b {
		return true
	}
	x, y := []byte(a), []byte(b)
	for _, at := range m.times {
		p := time.Duration(binary.NativeEndian.Uint64(x[at:]))
		q := time.Duration(binary.NativeEndian.Uint64(y[at:]))
		if p >= from && p <= until && q >= from && q <= until {
			copy(x[at:at+8], y[at:at+8])
		}
	}
	return bytes.Equal(x, y)
}

// carryTables carries Maglev tables over. On Windows every inner map has the
// template's size; what is behind the table's own is never looked at.
func (m *mirror) carryTables(t testing.TB) {
	t.Helper()
	var slot uint32
	var inner *ebpf.Map
	present := map[uint32]bool{}
	entries := m.objects.Maglev.Iterate()
	for entries.Next(&slot, &inner) {
		present[slot] = true
		table := readTable(t, inner)
		must(t, inner.Close())
		inner = nil
		if was, there := m.maglev[slot]; there && slices.Equal(was, table) {
			continue
		}
		for _, w := range m.machines {
			w.carryTable(t, slot, table)
		}
		m.maglev[slot] = table
	}
	must(t, entries.Err())
	for slot := range m.maglev {
		if present[slot] {
			continue
		}
		delete(m.maglev, slot)
		for _, w := range m.machines {
			must(t, w.tables[LBMapMaglev].Delete(binary.NativeEndian.AppendUint32(nil, slot)))
		}
	}
}

func (w *windows) carryTable(t testing.TB, slot uint32, table []uint32) {
	t.Helper()
	if w.inner[slot] == nil {
		made, err := w.tables[LBMapMaglev].NewInner(fmt.Sprint("table ", slot))
		must(t, err)
		w.inner[slot] = made
	}
	must(t, w.tables[LBMapMaglev].UpdateMap(binary.NativeEndian.AppendUint32(nil, slot), w.inner[slot], winvm.Any))
	var index [4]byte
	var pair [8]byte
	for i := 0; i < len(table); i += 2 {
		binary.NativeEndian.PutUint32(index[:], uint32(i/2))
		binary.NativeEndian.PutUint32(pair[:], table[i])
		binary.NativeEndian.PutUint32(pair[4:], table[i+1])
		if err := w.inner[slot].Update(index[:], pair[:], winvm.Any); err != nil {
			t.Fatal(err)
		}
	}
}

// readTable returns all slots that there is room for, one more than a table has.
func readTable(t testing.TB, inner *ebpf.Map) (slots []uint32) {
	t.Helper()
	keys, values := make([]uint32, inner.MaxEntries()), make([]uint64, inner.MaxEntries())
	var cursor ebpf.MapBatchCursor
	n, err := inner.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	for _, pair := range values[:n] {
		slots = append(slots, uint32(pair), uint32(pair>>32))
	}
	return slots
}
