package winvm

import (
	"fmt"
	"math/bits"
)

// memoryLimit is what all maps of a machine may take together. efW's own limit is
// 128 GB for each (EBPF_MAP_MAXIMUM_ALLOCATION of ebpf_maps.c).
const memoryLimit = 1 << 30

// pageSize is the granularity of rings (ebpf_allocate_ring_buffer_memory of
// ebpf_platform_kernel.c).
const pageSize = 4096

// refusal says what ebpf_map_create would refuse of a map, or nil.
func (s MapSpec) refusal() error {
	switch {
	case s.Type < Hash || s.Type > PerfEventArray:
		return fmt.Errorf("type %d is none of Windows'", uint32(s.Type))
	case s.KeySize == 0 && !s.Type.keyless():
		return fmt.Errorf("a %s without keys", s.Type)
	case s.KeySize != 0 && s.Type.keyless() && s.Type != PerfEventArray:
		return fmt.Errorf("a %s with keys", s.Type)
	case s.ValueSize == 0 && !s.Type.ring():
		return fmt.Errorf("a %s without values", s.Type)
	case s.MaxEntries == 0:
		return fmt.Errorf("no max_entries")
	case s.Type.objects() && s.ValueSize != 4:
		return fmt.Errorf("a %s with values of %d bytes, not 4", s.Type, s.ValueSize)
	case s.Type.ofMaps() && s.Inner == nil:
		return fmt.Errorf("a %s without a template for its inner maps", s.Type)
	case !s.Type.ofMaps() && s.Inner != nil:
		return fmt.Errorf("a %s with inner maps", s.Type)
	case (s.Type == Array || s.Type == PerCPUArray || s.Type == ProgArray || s.Type == ArrayOfMaps) && s.KeySize != 4:
		// efW reads four bytes of whatever the key's size is.
		return fmt.Errorf("an %s with keys of %d bytes, not 4", s.Type, s.KeySize)
	case s.Type == LPMTrie && s.KeySize <= 4:
		return fmt.Errorf("an lpm_trie with keys of %d bytes, which begin with a length of 4", s.KeySize)
	case s.Type.ring() && bits.OnesCount32(s.MaxEntries) != 1:
		return fmt.Errorf("a %s of %d bytes, which is no power of two", s.Type, s.MaxEntries)
	case s.Type.ring() && s.MaxEntries%pageSize != 0:
		return fmt.Errorf("a %s of %d bytes, which are no whole pages", s.Type, s.MaxEntries)
	case s.KeySize > 1<<16 || s.ValueSize > 1<<26:
		return fmt.Errorf("keys of %d bytes and values of %d: too large to simulate", s.KeySize, s.ValueSize)
	case s.Inner != nil && s.Inner.Inner != nil:
		return fmt.Errorf("maps of maps of maps")
	}
	if s.Inner != nil {
		if err := s.Inner.refusal(); err != nil {
			return fmt.Errorf("inner maps: %w", err)
		}
	}
	return nil
}

// addMap makes a map and the memory of its values.
func (m *Machine) addMap(spec MapSpec) (*Map, error) {
	if err := spec.refusal(); err != nil {
		return nil, fmt.Errorf("map %s: %w", spec.Name, err)
	}
	made := &Map{MapSpec: spec, name: spec.Name, machine: m, cpus: 1, handle: len(m.regions), values: len(m.regions) + 1}
	if spec.Type.perCPU() {
		made.cpus = m.options.CPUs
	}
	stride := pad8(spec.ValueSize)
	values := region{
		kind: kindMapValue, allows: readAccess | writeAccess, owner: made, size: uint64(spec.ValueSize), stride: stride,
		// Twice the value, so that a pointer behind its end is not yet in the next.
		shift: uint8(bits.Len64(stride)) + 1,
	}
	m.regions = append(m.regions, region{kind: kindMapHandle, owner: made}, values)
	if err := made.allocate(); err != nil {
		return nil, fmt.Errorf("map %s: %w", spec.Name, err)
	}
	m.maps = append(m.maps, made)
	return made, nil
}

func (m *Map) allocate() error {
	enough := true
	switch m.Type {
	case Array, PerCPUArray, ProgArray, ArrayOfMaps:
		m.entries = &arrayEntries{owner: m}
		enough = m.setSlots(int(m.MaxEntries))
	case Hash, PerCPUHash, HashOfMaps:
		m.entries = newHashEntries(m)
	case LRUHash, LRUPerCPUHash:
		h := newHashEntries(m)
		h.lru = newLRU(h, m.machine.options.CPUs)
		m.entries = h
	case LPMTrie:
		m.entries = newLPMEntries(m)
	case Queue, Stack:
		m.entries = &listEntries{owner: m}
	case RingBuf, PerfEventArray:
		if enough = m.machine.reserve(uint64(m.cpus) * uint64(m.MaxEntries)); !enough {
			break
		}
		for range m.cpus {
			m.rings = append(m.rings, &ring{data: make([]byte, m.MaxEntries)})
		}
	}
	if !enough {
		return fmt.Errorf("the maps take more than %d bytes", memoryLimit)
	}
	return nil
}

// reserve counts memory of maps.
func (m *Machine) reserve(size uint64) bool {
	if size > memoryLimit-m.memory {
		return false
	}
	m.memory += size
	return true
}

// setSlots gives the map memory for a number of elements, never for fewer than it has.
func (m *Map) setSlots(slots int) bool {
	r := &m.machine.regions[m.values]
	need := r.stride * uint64(m.cpus) * uint64(slots)
	if !m.machine.reserve(need - uint64(len(r.data))) {
		return false
	}
	if need > uint64(cap(r.data)) {
		larger := make([]byte, need, max(need, uint64(cap(r.data))*2))
		copy(larger, r.data)
		r.data = larger
	}
	r.data = r.data[:need]
	r.slots = uint64(slots) * uint64(m.cpus)
	return true
}

// addressOf is where a program finds an element's value on a processor.
func (m *Map) addressOf(slot, cpu int) uint64 {
	r := &m.machine.regions[m.values]
	return address(m.values, uint64(slot*m.cpus+cpu)<<r.shift)
}
