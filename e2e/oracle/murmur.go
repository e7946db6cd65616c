package oracle

import (
	"encoding/binary"
	"math/bits"
)

// murmur128 is MurmurHash3 x64 128 (Austin Appleby, public domain), whose two
// halves are offset and skip of a backend's permutation.
func murmur128(data []byte, seed uint32) (uint64, uint64) {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	h1, h2 := uint64(seed), uint64(seed)
	rest := data
	for ; len(rest) >= 16; rest = rest[16:] {
		h1 ^= murmurWord(binary.LittleEndian.Uint64(rest), c1, c2, 31)
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= murmurWord(binary.LittleEndian.Uint64(rest[8:]), c2, c1, 33)
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
	}
	var tail [16]byte
	copy(tail[:], rest)
	h2 ^= murmurWord(binary.LittleEndian.Uint64(tail[8:]), c2, c1, 33) // 0 where there is nothing
	h1 ^= murmurWord(binary.LittleEndian.Uint64(tail[:]), c1, c2, 31)

	h1 ^= uint64(len(data))
	h2 ^= uint64(len(data))
	h1 += h2
	h2 += h1
	h1, h2 = murmurFinal(h1), murmurFinal(h2)
	h1 += h2
	return h1, h2 + h1
}

func murmurWord(k, first, second uint64, rotation int) uint64 {
	return bits.RotateLeft64(k*first, rotation) * second
}

func murmurFinal(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
