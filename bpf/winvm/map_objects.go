package winvm

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Maps of maps and prog_arrays hold ids of objects. Here an id is the object's place
// in a list of the map, from 1; 0 is an empty element.

// handleKey is the element that an update by handle reaches in an array.
// _update_array_map_entry_with_handle of efW 0.21.1 takes its place from the key's
// first byte alone, so that index 256 lands in element 0; 1.0.0-rc1 mends it (#4466).
// Lookups and deletions take the whole key.
func (m *Map) handleKey(key []byte) []byte {
	if m.entriesAreArray() && m.machine.options.Profile == EFW021 {
		return []byte{key[0], 0, 0, 0}
	}
	return key
}

func (m *Map) entriesAreArray() bool {
	_, ok := m.entries.(*arrayEntries)
	return ok
}

// put stores an object's id.
func (m *Map) put(what string, key []byte, id uint32, flag Flag) error {
	if err := m.check(what, key); err != nil {
		return err
	}
	if m.entriesAreArray() && binary.LittleEndian.Uint32(key) >= m.MaxEntries {
		return m.failed(what, InvalidArgument)
	}
	var value [4]byte
	binary.LittleEndian.PutUint32(value[:], id)
	return m.failed(what, m.entries.update(m.handleKey(key), value[:], flag))
}

// object finds the id of an element; 0: none.
func (m *Map) object(key []byte) uint32 {
	slot, code := m.entries.lookup(key)
	if code != success {
		return 0
	}
	return binary.LittleEndian.Uint32(m.element(slot))
}

// NewInner makes an empty map after the template of a map of maps. It is in none
// yet; see [Map.UpdateMap].
func (m *Map) NewInner(name string) (*Map, error) {
	if m.Inner == nil {
		return nil, m.failed("new inner map", OperationNotSupported)
	}
	spec := *m.Inner
	spec.Name = name
	inner, err := m.machine.addMap(spec)
	if err != nil {
		return nil, err
	}
	inner.made = true
	return inner, nil
}

// UpdateMap puts a map into a map of maps. It must be like the template in type
// and sizes (_check_value_type of ebpf_maps.c), max_entries among them.
func (m *Map) UpdateMap(key []byte, inner *Map, flag Flag) error {
	if !m.Type.ofMaps() {
		return m.failed("update with a map", OperationNotSupported)
	}
	t := m.Inner
	if inner.Type != t.Type || inner.KeySize != t.KeySize || inner.ValueSize != t.ValueSize || inner.MaxEntries != t.MaxEntries {
		return fmt.Errorf("map %s: update: map %s is a %s of %d elements of %d and %d bytes, the template a %s of %d of %d and %d: %w",
			m.name, inner.name, inner.Type, inner.MaxEntries, inner.KeySize, inner.ValueSize,
			t.Type, t.MaxEntries, t.KeySize, t.ValueSize, InvalidObject)
	}
	if inner.machine != m.machine {
		return m.failed("update with another machine's map", InvalidFD)
	}
	id := 0
	for i, known := range m.inner {
		if known == inner {
			id = i + 1
		}
	}
	if id == 0 {
		m.inner = append(m.inner, inner)
		id = len(m.inner)
	}
	return m.put("update", key, uint32(id), flag)
}

// LookupMap returns the map that a map of maps has under a key.
func (m *Map) LookupMap(key []byte) (*Map, error) {
	if !m.Type.ofMaps() {
		return nil, m.failed("lookup of a map", OperationNotSupported)
	}
	if err := m.check("lookup", key); err != nil {
		return nil, err
	}
	id := m.object(bytes.Clone(key))
	if id == 0 {
		return nil, m.failed("lookup", ObjectNotFound)
	}
	return m.inner[id-1], nil
}

// UpdateProgram puts a program into a prog_array, where tail calls find it.
func (m *Map) UpdateProgram(index uint32, program *Program) error {
	if m.Type != ProgArray {
		return m.failed("update with a program", OperationNotSupported)
	}
	if program.machine != m.machine {
		return m.failed("update with another machine's program", InvalidFD)
	}
	id := 0
	for i, known := range m.programs {
		if known == program {
			id = i + 1
		}
	}
	if id == 0 {
		m.programs = append(m.programs, program)
		id = len(m.programs)
	}
	return m.put("update", binary.LittleEndian.AppendUint32(nil, index), uint32(id), Any)
}

// LookupProgram returns the program that a prog_array has at an index.
func (m *Map) LookupProgram(index uint32) (*Program, error) {
	if m.Type != ProgArray {
		return nil, m.failed("lookup of a program", OperationNotSupported)
	}
	id := m.object(binary.LittleEndian.AppendUint32(nil, index))
	if id == 0 {
		return nil, m.failed("lookup", ObjectNotFound)
	}
	return m.programs[id-1], nil
}
