package winvm

import "encoding/binary"

// arrayEntries are arrays of values, of maps and of programs: the key is a u32.
type arrayEntries struct {
	owner *Map
	key   [4]byte // what next returned last
}

func (a *arrayEntries) index(key []byte) (int, bool) {
	index := binary.LittleEndian.Uint32(key)
	return int(index), index < a.owner.MaxEntries
}

// lookup is _find_array_map_entry of ebpf_maps.c.
func (a *arrayEntries) lookup(key []byte) (slot int, code Code) {
	slot, ok := a.index(key)
	if !ok {
		return 0, ObjectNotFound
	}
	return slot, success
}

// update is _update_array_map_entry: it refuses NoExist and, unlike hashes, looks at
// no other flag.
func (a *arrayEntries) update(key, value []byte, flag Flag) Code {
	slot, ok := a.index(key)
	if flag == NoExist || !ok {
		return InvalidArgument
	}
	element := a.owner.element(slot)
	if value == nil {
		clear(element)
	} else {
		copy(element, value)
	}
	return success
}

// remove is _delete_array_map_entry, which makes the value zero. Linux returns
// -EINVAL.
func (a *arrayEntries) remove(key []byte) Code {
	slot, ok := a.index(key)
	if !ok {
		if a.owner.Type.objects() {
			return ObjectNotFound
		}
		return InvalidArgument
	}
	clear(a.owner.element(slot))
	return success
}

// next is _next_array_map_key_and_value.
func (a *arrayEntries) next(key []byte) (following []byte, code Code) {
	index := uint32(0)
	if key != nil {
		index = binary.LittleEndian.Uint32(key) + 1
	}
	if index >= a.owner.MaxEntries {
		return nil, NoMoreKeys
	}
	binary.LittleEndian.PutUint32(a.key[:], index)
	return a.key[:], success
}

func (a *arrayEntries) count() int { return int(a.owner.MaxEntries) }
