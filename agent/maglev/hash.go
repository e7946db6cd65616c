package maglev

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The seed is Cilium's default, base64 "JLfvgnHc2kaSUFaI", as big-endian words.
const (
	murmurSeed = 616034178
	jhashSeed4 = 1910299206
)

// jhashInitial is JHASH_INITVAL of Linux's include/linux/jhash.h.
const jhashInitial = 0xdeadbeef

// FlowSlot returns the slot that an IPv4 flow takes in a table of size slots,
// as the data path computes it. The VIP's address is not part of the hash.
func FlowSlot(source netip.AddrPort, destPort uint16, protocol uint8, size uint32) uint32 {
	return FlowHash(source, destPort, protocol) % size
}

// FlowHash is jhash_3words over the source address, the ports (destination's
// in the upper half) and the protocol. Address and ports are taken as they lie
// in the packet, loaded little-endian.
func FlowHash(source netip.AddrPort, destPort uint16, protocol uint8) uint32 {
	address := source.Addr().As4()
	return jhash3(
		binary.LittleEndian.Uint32(address[:]),
		uint32(bits.ReverseBytes16(destPort))<<16|uint32(bits.ReverseBytes16(source.Port())),
		uint32(protocol),
		jhashSeed4,
	)
}

// jhash3 is jhash_3words of Linux's jhash.h, Bob Jenkins' lookup3 for three words.
func jhash3(a, b, c, seed uint32) uint32 {
	seed += jhashInitial + 3<<2
	a += seed
	b += seed
	c += seed

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
