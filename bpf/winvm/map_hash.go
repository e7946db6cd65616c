package winvm

// hashEntries are the hash maps (libs/runtime/ebpf_hash_table.c), and below the LRU
// maps and the LPM tries, which efW builds from the same table.
//
// Only LRU maps mind max_entries: _create_hash_map_internal of ebpf_maps.c makes all
// others with EBPF_HASH_TABLE_NO_LIMIT, so that an insertion into a "full" hash,
// which Linux answers with -E2BIG, succeeds.
//
// An update puts a new copy of the value in the place of the old one, which lives
// until the program ends (its epoch): a pointer from an earlier lookup still works
// then, but what is written through it is lost. Linux' hashes do the same. So
// slots are retired first and free only after the run.
type hashEntries struct {
	owner   *Map
	keys    []byte  // by slot
	chain   []int32 // by slot: the next of the bucket, or end
	live    []bool  // by slot
	heads   []int32 // by bucket
	free    []int32
	retired []int32
	used    int
	lru     *lru
	lpm     *lpmEntries
}

const end = -1

func newHashEntries(owner *Map) *hashEntries {
	h := &hashEntries{owner: owner}
	h.rehash(16)
	return h
}

func (h *hashEntries) key(slot int) []byte {
	size := int(h.owner.KeySize)
	return h.keys[slot*size : slot*size+size]
}

// bits is how much of a key counts.
func (h *hashEntries) bits(key []byte) int {
	if h.lpm != nil {
		return prefixBits + h.lpm.length(key)
	}
	return len(key) * 8
}

// bucket hashes by FNV-1a. efW uses CRC32 with a random seed; nothing but the
// order of iteration depends on it.
func (h *hashEntries) bucket(key []byte, bits int) int {
	hash := uint32(2166136261)
	for _, b := range key[:bits/8] {
		hash = (hash ^ uint32(b)) * 16777619
	}
	if rest := bits % 8; rest != 0 {
		hash = (hash ^ uint32(key[bits/8]>>(8-rest))) * 16777619
	}
	hash ^= hash >> 15
	return int(hash) & (len(h.heads) - 1)
}

func same(a, b []byte, bits int) bool {
	if string(a[:bits/8]) != string(b[:bits/8]) {
		return false
	}
	rest := bits % 8
	return rest == 0 || a[bits/8]>>(8-rest) == b[bits/8]>>(8-rest)
}

// find returns a key's slot, or -1.
func (h *hashEntries) find(key []byte) int {
	bits := h.bits(key)
	for slot := h.heads[h.bucket(key, bits)]; slot != end; slot = h.chain[slot] {
		if candidate := h.key(int(slot)); h.bits(candidate) == bits && same(candidate, key, bits) {
			return int(slot)
		}
	}
	return end
}

func (h *hashEntries) rehash(buckets int) {
	h.heads = make([]int32, buckets)
	for i := range h.heads {
		h.heads[i] = end
	}
	for slot, live := range h.live {
		if live {
			h.link(slot)
		}
	}
}

func (h *hashEntries) link(slot int) {
	key := h.key(slot)
	bucket := h.bucket(key, h.bits(key))
	h.chain[slot] = h.heads[bucket]
	h.heads[bucket] = int32(slot)
}

func (h *hashEntries) unlink(slot int) {
	key := h.key(slot)
	at := &h.heads[h.bucket(key, h.bits(key))]
	for *at != int32(slot) {
		at = &h.chain[*at]
	}
	*at = h.chain[slot]
	h.live[slot] = false
	h.used--
}

// take finds memory for a new element.
func (h *hashEntries) take() (slot int, ok bool) {
	if last := len(h.free) - 1; last >= 0 {
		slot = int(h.free[last])
		h.free = h.free[:last]
		return slot, true
	}
	slots := max(2*len(h.live), 8)
	if !h.owner.setSlots(slots) {
		return 0, false
	}
	for slot := slots - 1; slot >= len(h.live); slot-- {
		h.free = append(h.free, int32(slot))
	}
	grow := slots - len(h.live)
	h.keys = append(h.keys, make([]byte, grow*int(h.owner.KeySize))...)
	h.chain = append(h.chain, make([]int32, grow)...)
	h.live = append(h.live, make([]bool, grow)...)
	if h.lru != nil {
		h.lru.grow(grow)
	}
	return h.take()
}

// retire gives back a slot once no program can have a pointer to it.
func (h *hashEntries) retire(slot int) {
	if h.owner.machine.running {
		if len(h.retired) == 0 {
			h.owner.machine.retiring = append(h.owner.machine.retiring, h)
		}
		h.retired = append(h.retired, int32(slot))
		return
	}
	h.free = append(h.free, int32(slot))
}

// release ends the epoch of what was retired.
func (h *hashEntries) release() {
	h.free = append(h.free, h.retired...)
	h.retired = h.retired[:0]
}

// lookup is _find_hash_map_entry.
func (h *hashEntries) lookup(key []byte) (slot int, code Code) {
	slot = h.find(key)
	if slot < 0 {
		return 0, ObjectNotFound
	}
	if h.lru != nil {
		h.lru.use(slot)
	}
	return slot, success
}

// update is _update_hash_map_entry: in an LRU map elements go until there is room.
func (h *hashEntries) update(key, value []byte, flag Flag) Code {
	if flag > Exist {
		return InvalidArgument
	}
	for {
		code := h.replace(key, value, flag)
		if code != OutOfSpace || h.lru == nil {
			return code
		}
		h.lru.evict()
	}
}

// replace is _ebpf_hash_table_replace_bucket.
func (h *hashEntries) replace(key, value []byte, flag Flag) Code {
	slot, ok := h.take()
	if !ok {
		return NoMemory
	}
	element := h.owner.element(slot)
	if value == nil {
		clear(element)
	} else {
		clear(element[copy(element, value):])
	}
	copy(h.key(slot), key)
	if h.lru != nil {
		h.lru.allocated(slot)
	}
	old := h.find(key)
	code := success
	switch {
	case old >= 0 && flag == NoExist:
		code = ObjectAlreadyExists
	case old < 0 && flag == Exist:
		code = KeyNotFound
	case old < 0 && h.lru != nil && h.used >= int(h.owner.MaxEntries):
		code = OutOfSpace
	}
	if code != success {
		if h.lru != nil {
			h.lru.freed(slot)
		}
		h.free = append(h.free, int32(slot)) // no program saw it
		return code
	}
	if old >= 0 {
		copy(h.key(slot), h.key(old)) // an update keeps the bytes that do not count
		h.discard(old)
	}
	h.used++
	h.live[slot] = true
	if h.used > len(h.heads) {
		h.rehash(2 * len(h.heads))
	} else {
		h.link(slot)
	}
	return success
}

func (h *hashEntries) discard(slot int) {
	h.unlink(slot)
	if h.lru != nil {
		h.lru.freed(slot)
	}
	h.retire(slot)
}

// remove is _delete_hash_map_entry.
func (h *hashEntries) remove(key []byte) Code {
	slot := h.find(key)
	if slot < 0 {
		return KeyNotFound
	}
	h.discard(slot)
	return success
}

func (h *hashEntries) next(key []byte) (following []byte, code Code) {
	slot := 0
	if key != nil {
		if slot = h.find(key); slot < 0 {
			return nil, KeyNotFound
		}
		slot++
	}
	for ; slot < len(h.live); slot++ {
		if h.live[slot] {
			return h.key(slot), success
		}
	}
	return nil, NoMoreKeys
}

func (h *hashEntries) count() int { return h.used }
