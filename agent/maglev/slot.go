package maglev

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The seeds are parts of Cilium's default, base64 "JLfvgnHc2kaSUFaI", as
// big-endian words: for placing backends, and for flows of IPv4 and of IPv6.
const (
	murmurSeed = 616034178
	jhashSeed4 = 1910299206
	jhashSeed6 = 2454738568
)

// jhashInitial is JHASH_INITVAL of Linux's include/linux/jhash.h.
const jhashInitial = 0xdeadbeef

// Slot returns the slot that a flow takes in a table of size slots, as the data
// path and Cilium compute it: of a service with session affinity, all flows of
// a client to one port take the same.
func Slot(from, to netip.AddrPort, protocol uint8, size uint32, affinity bool) uint32 {
	if affinity {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	return FlowHash(from, to, protocol) % size
}

// FlowHash is Cilium's hash_from_tuple_v4 or hash_from_tuple_v6: the family is
// that of from, and an IPv4 address mapped into IPv6 counts as the IPv6 address
// that is in the packet. The VIP, to's address, is not part of it: a client
// reaches the same backend under every VIP that has the same ones.
func FlowHash(from, to netip.AddrPort, protocol uint8) uint32 {
	// Addresses and ports are taken as they lie in the packet, and loaded
	// little-endian: the eBPF targets are.
	ports := uint32(bits.ReverseBytes16(to.Port()))<<16 | uint32(bits.ReverseBytes16(from.Port()))
	if from.Addr().Is4() {
		address := from.Addr().As4()
		return jhash3(binary.LittleEndian.Uint32(address[:]), ports, uint32(protocol), jhashSeed4)
	}
	address := from.Addr().As16()
	// Unlike jhash2, which adds an initial constant and the length, Cilium
	// starts from the address itself and brings the seed in at the end.
	a, b, c := jhashMix(
		binary.LittleEndian.Uint32(address[0:]),
		binary.LittleEndian.Uint32(address[4:]),
		binary.LittleEndian.Uint32(address[8:]),
	)
	a, b, c = jhashMix(a+binary.LittleEndian.Uint32(address[12:]), b+ports, c+uint32(protocol))
	return jhashFinal(a+jhashSeed6, b, c)
}

// jhash3 is jhash_3words of Linux's jhash.h, Bob Jenkins' lookup3 for three words.
func jhash3(a, b, c, seed uint32) uint32 {
	seed += jhashInitial + 3<<2
	return jhashFinal(a+seed, b+seed, c+seed)
}

// jhashMix is __jhash_mix of jhash.h, lookup3's mixing between blocks of three words.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	a -= c
	a ^= bits.RotateLeft32(c, 4)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 6)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 8)
	b += a
	a -= c
	a ^= bits.RotateLeft32(c, 16)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 19)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 4)
	b += a
	return a, b, c
}

// jhashFinal is __jhash_final of jhash.h, lookup3's last mixing; it returns c.
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
