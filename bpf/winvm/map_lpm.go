package winvm

import "encoding/binary"

// prefixBits is the length field in front of an LPM trie's key.
const prefixBits = 32

// lpmEntries are LPM tries: a hash of prefixes, and a bitmap of the lengths
// that were ever inserted, which a lookup tries from its own downwards.
type lpmEntries struct {
	*hashEntries
	max     int
	lengths []bool // by length; never cleared, as in ebpf_maps.c
	scratch []byte
}

func newLPMEntries(owner *Map) *lpmEntries {
	longest := int(owner.KeySize-4) * 8
	l := &lpmEntries{max: longest, lengths: make([]bool, longest+1), scratch: make([]byte, owner.KeySize)}
	l.hashEntries = &hashEntries{owner: owner, lpm: l}
	l.rehash(16)
	return l
}

// length is a key's number of bits. Of a key that no map could hold, which is refused
// before it is looked at, it is only kept within the key.
func (l *lpmEntries) length(key []byte) int {
	return min(int(binary.LittleEndian.Uint32(key)), l.max)
}

func (l *lpmEntries) valid(key []byte) bool {
	return binary.LittleEndian.Uint32(key) <= uint32(l.max)
}

// lookup is _find_lpm_map_entry: the longest prefix that is no longer than the key's own.
func (l *lpmEntries) lookup(key []byte) (slot int, code Code) {
	if !l.valid(key) {
		return 0, InvalidArgument
	}
	copy(l.scratch, key)
	for length := l.length(key); length >= 0; length-- {
		if !l.lengths[length] {
			continue
		}
		binary.LittleEndian.PutUint32(l.scratch, uint32(length))
		if slot := l.find(l.scratch); slot >= 0 {
			return slot, success
		}
	}
	return 0, KeyNotFound
}

func (l *lpmEntries) update(key, value []byte, flag Flag) Code {
	if !l.valid(key) {
		return InvalidArgument
	}
	code := l.hashEntries.update(key, value, flag)
	if code == success {
		l.lengths[l.length(key)] = true
	}
	return code
}

func (l *lpmEntries) remove(key []byte) Code {
	if !l.valid(key) {
		return InvalidArgument
	}
	return l.hashEntries.remove(key)
}

func (l *lpmEntries) next(key []byte) (following []byte, code Code) {
	if key != nil && !l.valid(key) {
		return nil, InvalidArgument
	}
	return l.hashEntries.next(key)
}
