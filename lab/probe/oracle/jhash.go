package oracle

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// jhashInit is JHASH_INITVAL of Linux' jhash.h.
const jhashInit = 0xdeadbeef

// jhash3 is jhash_3words of Linux' jhash.h: lookup3's hashword over three words.
func jhash3(a, b, c, seed uint32) uint32 {
	start := seed + jhashInit + 3<<2
	return jhashFinal(a+start, b+start, c+start)
}

// jhashMix is __jhash_mix of Linux' jhash.h: lookup3's mixing between blocks of
// three words. Its six steps differ in the rotation and in the letters alone.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	for _, by := range [...]int{4, 6, 8, 16, 19, 4} {
		a = (a - c) ^ bits.RotateLeft32(c, by)
		c += b
		a, b, c = b, c, a
	}
	return a, b, c
}

// jhashFinal is __jhash_final: lookup3's last mixing. It returns c.
func jhashFinal(a, b, c uint32) uint32 {
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	return c
}

// flowHash hashes a flow as Cilium's hash_from_tuple_v4 and hash_from_tuple_v6
// do: words as they lie in the packet, read on a little-endian machine; the VIP
// is not in it.
func flowHash(client netip.AddrPort, port uint16, protocol uint8) uint32 {
	var raw [4]byte
	binary.BigEndian.PutUint16(raw[0:], client.Port())
	binary.BigEndian.PutUint16(raw[2:], port)
	ports := binary.LittleEndian.Uint32(raw[:])

	address := client.Addr().AsSlice()
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(address[4*i:]) }
	if client.Addr().Is4() {
		return jhash3(word(0), ports, uint32(protocol), jhashSeed4)
	}
	a, b, c := jhashMix(word(0), word(1), word(2))
	a, b, c = jhashMix(a+word(3), b+ports, c+uint32(protocol))
	return jhashFinal(a+jhashSeed6, b, c)
}
