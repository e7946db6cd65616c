package oracle

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The other words of Cilium's default seed.
const (
	jhashSeed4 = 1910299206
	jhashSeed6 = 2454738568
)

// Protocol numbers of flows (IANA).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Flow is a client's packets to one frontend.
type Flow struct {
	Client, Frontend netip.AddrPort
	Protocol         uint8
}

// Hash is Cilium's hash of a flow. The VIP is not in it. Under session affinity
// the client's port counts as 0.
func (f Flow) Hash(affinity bool) uint32 {
	sport := f.Client.Port()
	if affinity {
		sport = 0
	}
	// As they lie in the packet, loaded by a little-endian machine.
	ports := uint32(bits.ReverseBytes16(f.Frontend.Port()))<<16 | uint32(bits.ReverseBytes16(sport))
	protocol := uint32(f.Protocol)
	le := binary.LittleEndian
	if f.Client.Addr().Is4() {
		source := f.Client.Addr().As4()
		const initial = 0xdeadbeef + 3<<2 // of jhash_3words
		return jhashFinal(le.Uint32(source[:])+initial+jhashSeed4, ports+initial+jhashSeed4, protocol+initial+jhashSeed4)
	}
	s := f.Client.Addr().As16()
	a, b, c := jhashMix(le.Uint32(s[:]), le.Uint32(s[4:]), le.Uint32(s[8:]))
	a, b, c = jhashMix(a+le.Uint32(s[12:]), b+ports, c+protocol)
	return jhashFinal(a+jhashSeed6, b, c)
}

// Choose returns the backend that a table has for a flow.
func (f Flow) Choose(table []netip.AddrPort, affinity bool) netip.AddrPort {
	return table[f.Hash(affinity)%uint32(len(table))]
}

// jhashMix and jhashFinal are mix and final of Bob Jenkins' lookup3 (public
// domain), as Linux' jhash.h has them.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	step := func(x, y, z uint32, r int) (uint32, uint32) { return (x - z) ^ bits.RotateLeft32(z, r), z + y }
	a, c = step(a, b, c, 4)
	b, a = step(b, c, a, 6)
	c, b = step(c, a, b, 8)
	a, c = step(a, b, c, 16)
	b, a = step(b, c, a, 19)
	c, b = step(c, a, b, 4)
	return a, b, c
}

func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}
