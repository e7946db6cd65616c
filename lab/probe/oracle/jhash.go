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

// flowHash hashes a flow as Cilium's hash_from_tuple_v4 does: words as they
// lie in the packet, read on a little-endian machine; the VIP is not in it.
func flowHash(client netip.AddrPort, port uint16, protocol uint8) uint32 {
	address := client.Addr().As4()
	var ports [4]byte
	binary.BigEndian.PutUint16(ports[0:], client.Port())
	binary.BigEndian.PutUint16(ports[2:], port)
	return jhash3(binary.LittleEndian.Uint32(address[:]), binary.LittleEndian.Uint32(ports[:]), uint32(protocol), jhashSeed4)
}
