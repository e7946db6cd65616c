package winvm

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
)

// MapType is a map's type with Windows' number (include/ebpf_structs.h).
type MapType uint32

// The map types of efW 0.21. Their numbers are not Linux'.
const (
	Hash MapType = iota + 1
	Array
	ProgArray
	PerCPUHash
	PerCPUArray
	HashOfMaps
	ArrayOfMaps
	LRUHash
	LPMTrie
	Queue
	LRUPerCPUHash
	Stack
	RingBuf
	PerfEventArray
)

func (t MapType) String() string {
	names := [...]string{
		Hash: "hash", Array: "array", ProgArray: "prog_array", PerCPUHash: "percpu_hash", PerCPUArray: "percpu_array",
		HashOfMaps: "hash_of_maps", ArrayOfMaps: "array_of_maps", LRUHash: "lru_hash", LPMTrie: "lpm_trie",
		Queue: "queue", LRUPerCPUHash: "lru_percpu_hash", Stack: "stack", RingBuf: "ringbuf",
		PerfEventArray: "perf_event_array",
	}
	if t < Hash || t > PerfEventArray {
		return fmt.Sprintf("map type %d", uint32(t))
	}
	return names[t]
}

func (t MapType) perCPU() bool {
	return t == PerCPUHash || t == PerCPUArray || t == LRUPerCPUHash || t == PerfEventArray
}

func (t MapType) ofMaps() bool  { return t == HashOfMaps || t == ArrayOfMaps }
func (t MapType) objects() bool { return t == ProgArray || t.ofMaps() }
func (t MapType) ring() bool    { return t == RingBuf || t == PerfEventArray }
func (t MapType) keyless() bool { return t == Queue || t == Stack || t.ring() }

// Flag says what [Map.Update] does with a key that is there, or is not.
type Flag uint64

// Update flags (ebpf_map_option_t). Arrays know no NoExist.
const (
	Any     Flag = 0
	NoExist Flag = 1
	Exist   Flag = 2
)

// MapSpec describes a map, as its BTF in the object does.
type MapSpec struct {
	Name       string
	Type       MapType
	KeySize    uint32
	ValueSize  uint32
	MaxEntries uint32
	// Inner is the template of a map of maps.
	Inner *MapSpec
}

// Map is a map of a [Machine]. Keys and values are bytes, of the length that the
// map was made with; methods copy what they take and what they return. Errors wrap
// a [Code], the same that efW returns.
type Map struct {
	MapSpec
	name    string
	machine *Machine
	// handle and values are the map's regions.
	handle, values int
	cpus           int // 1, or the number of values that an element has
	entries        entries
	rings          []*ring
	inner          []*Map     // of a map of maps, by id-1: the value of an element
	programs       []*Program // the same of a prog_array
	made           bool       // by NewInner, not by the object
}

// entries is how a type of map finds its elements. A slot is the number of an
// element's memory.
type entries interface {
	// lookup finds an element as a program's lookup does.
	lookup(key []byte) (slot int, code Code)
	// update stores a value, or zeroes when it is nil.
	update(key, value []byte, flag Flag) Code
	remove(key []byte) Code
	// next gives the key behind one, or the first; it may not be changed.
	next(key []byte) (following []byte, code Code)
	count() int
}

// Name returns the name under which the object has the map.
func (m *Map) Name() string { return m.name }

// Len counts the elements: those present, or for arrays all.
func (m *Map) Len() int {
	if m.entries == nil {
		return 0
	}
	return m.entries.count()
}

func (m *Map) failed(what string, code Code) error {
	if code == success {
		return nil
	}
	return fmt.Errorf("map %s (%s): %s: %w", m.name, m.Type, what, code)
}

// check refuses a key or value that a caller outside gives in another size than the map's,
// as ebpf_map_find_entry and ebpf_map_update_entry do.
func (m *Map) check(what string, key []byte) error {
	switch {
	case m.entries == nil:
		return m.failed(what, OperationNotSupported)
	case uint32(len(key)) != m.KeySize:
		return fmt.Errorf("map %s (%s): %s: key of %d bytes, not %d: %w", m.name, m.Type, what, len(key), m.KeySize, InvalidArgument)
	}
	return nil
}

// element is the memory of all of an element's values.
func (m *Map) element(slot int) []byte {
	r := &m.machine.regions[m.values]
	size := int(r.stride) * m.cpus
	return r.data[slot*size : slot*size+size]
}

// valueBytes is the length of what Lookup returns: of a per-CPU map one value for
// each processor, each padded to 8 bytes, as efW hands them to its users.
func (m *Map) valueBytes() int {
	if m.cpus > 1 || m.Type.perCPU() {
		return m.cpus * int(pad8(m.ValueSize))
	}
	return int(m.ValueSize)
}

func pad8(size uint32) uint64 { return (uint64(size) + 7) &^ 7 }

// Lookup returns a copy of a key's value. Of a per-CPU map it is one value for each
// processor, each padded to a multiple of 8 bytes; see [Map.LookupCPU].
func (m *Map) Lookup(key []byte) ([]byte, error) {
	if err := m.check("lookup", key); err != nil {
		return nil, err
	}
	if m.Type.objects() {
		return nil, m.failed("lookup: use LookupMap", OperationNotSupported)
	}
	slot, code := m.entries.lookup(bytes.Clone(key))
	if code != success {
		return nil, m.failed("lookup", code)
	}
	return bytes.Clone(m.element(slot)[:m.valueBytes()]), nil
}

// LookupCPU returns a copy of one processor's value.
func (m *Map) LookupCPU(key []byte, cpu int) ([]byte, error) {
	all, err := m.Lookup(key)
	if err != nil {
		return nil, err
	}
	if !m.Type.perCPU() || cpu < 0 || cpu >= m.cpus {
		return nil, m.failed(fmt.Sprintf("lookup on processor %d of %d", cpu, m.cpus), InvalidArgument)
	}
	stride := int(pad8(m.ValueSize))
	return all[cpu*stride:][:m.ValueSize], nil
}

// Update stores a value; see [Map.Lookup] for its length.
func (m *Map) Update(key, value []byte, flag Flag) error {
	if err := m.check("update", key); err != nil {
		return err
	}
	if len(value) != m.valueBytes() {
		return fmt.Errorf("map %s (%s): update: value of %d bytes, not %d: %w", m.name, m.Type, len(value), m.valueBytes(), InvalidArgument)
	}
	if m.Type.objects() {
		return m.failed("update: use UpdateMap or UpdateProgram", OperationNotSupported)
	}
	return m.failed("update", m.entries.update(key, value, flag))
}

// UpdateCPU stores one processor's value and leaves the others, or makes them zero
// when the key is new.
func (m *Map) UpdateCPU(key, value []byte, cpu int) error {
	if err := m.check("update", key); err != nil {
		return err
	}
	if !m.Type.perCPU() || cpu < 0 || cpu >= m.cpus || len(value) != int(m.ValueSize) {
		return m.failed(fmt.Sprintf("update of %d bytes on processor %d of %d", len(value), cpu, m.cpus), InvalidArgument)
	}
	return m.failed("update", m.updateCPU(key, value, cpu, Any))
}

// updateCPU is _update_entry_per_cpu of ebpf_maps.c: an element that is there is
// written in place, whatever the flag.
func (m *Map) updateCPU(key, value []byte, cpu int, flag Flag) Code {
	slot, code := m.entries.lookup(key)
	if code != success {
		if code = m.entries.update(key, nil, flag); code != success {
			return code
		}
		if slot, code = m.entries.lookup(key); code != success {
			return NoMemory
		}
	}
	copy(m.element(slot)[cpu*int(pad8(m.ValueSize)):], value)
	return success
}

// Delete removes a key. Of an array it makes the value zero, which on Linux is an
// error.
func (m *Map) Delete(key []byte) error {
	if err := m.check("delete", key); err != nil {
		return err
	}
	return m.failed("delete", m.entries.remove(key))
}

// NextKey returns the key that follows one, or the first when it is nil. The error
// is [NoMoreKeys] at the end, and [KeyNotFound] for a key that a hash has not. The
// order of hashes is not efW's, which is by a random seed.
func (m *Map) NextKey(key []byte) ([]byte, error) {
	if key == nil {
		key = make([]byte, m.KeySize)
		if err := m.check("next key", key); err != nil {
			return nil, err
		}
		key = nil
	} else if err := m.check("next key", key); err != nil {
		return nil, err
	}
	next, code := m.entries.next(key)
	if code != success {
		return nil, m.failed("next key", code)
	}
	return bytes.Clone(next), nil
}

// All yields keys and values as they are when the iteration begins, sorted by key.
// Of maps of maps and of prog_arrays the values are nil.
func (m *Map) All() iter.Seq2[[]byte, []byte] {
	var keys [][]byte
	if m.entries != nil && !m.Type.keyless() {
		for key, code := m.entries.next(nil); code == success; key, code = m.entries.next(key) {
			keys = append(keys, bytes.Clone(key))
		}
	}
	if m.Type != Array && m.Type != PerCPUArray && m.Type != ProgArray && m.Type != ArrayOfMaps {
		slices.SortFunc(keys, bytes.Compare)
	}
	return func(yield func(key, value []byte) bool) {
		for _, key := range keys {
			var value []byte
			if !m.Type.objects() {
				slot, code := m.peek(key)
				if code != success {
					continue
				}
				value = bytes.Clone(m.element(slot)[:m.valueBytes()])
			}
			if !yield(key, value) {
				return
			}
		}
	}
}

// peek is lookup without its effects on the order of an LRU map, and of an LPM
// trie the very prefix.
func (m *Map) peek(key []byte) (slot int, code Code) {
	if h, ok := m.entries.(*hashEntries); ok {
		if slot = h.find(key); slot < 0 {
			return 0, KeyNotFound
		}
		return slot, success
	}
	return m.entries.lookup(key)
}
