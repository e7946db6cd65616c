package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// murmurSeed is the first word of Cilium's default seed, JLfvgnHc2kaSUFaI.
const murmurSeed = 616034178

// Backend is an entry of a Maglev table.
type Backend struct {
	Address netip.AddrPort
	// Weight 0 means that it gets no slot.
	Weight int
}

// key is what the permutation is computed of, and what backends are sorted by.
func (b Backend) key(protocol string) string {
	address := b.Address.String() // [fd00::1]:80 for IPv6
	return fmt.Sprintf("[%s/%s,State:active]", address, protocol)
}

// Table fills a Maglev table of m slots, a prime, as Cilium's pkg/maglev does:
// each slot has the address of a backend. protocol is "TCP" or "UDP". Without
// backends there is no table.
func Table(backends []Backend, protocol string, m int) []netip.AddrPort {
	var those []Backend
	sum := 0
	for _, b := range backends {
		if b.Weight > 0 {
			those = append(those, b)
			sum += b.Weight
		}
	}
	if len(those) == 0 {
		return nil
	}
	slices.SortFunc(those, func(a, b Backend) int { return strings.Compare(a.key(protocol), b.key(protocol)) })
	return fill(those, protocol, m, sum)
}

// fill hands the slots out: the n-th is the turn of backend n mod N, or, where that one's
// weight says that it has enough, of the next one that has not. It takes its next free position.
func fill(backends []Backend, protocol string, m, sum int) []netip.AddrPort {
	count := len(backends)
	weighted := sum/count > 1
	at, skip, credit := make([]uint64, count), make([]uint64, count), make([]float64, count)
	for i, b := range backends {
		at[i], skip[i] = permutation(b.key(protocol), m)
		credit[i] = float64(b.Weight) / float64(count)
	}
	table := make([]netip.AddrPort, m)
	for n := range m {
		i := n % count
		for weighted && uint64(n+1)*uint64(backends[i].Weight) < uint64(credit[i]) {
			i = (i + 1) % count
		}
		credit[i] += float64(sum)
		for table[at[i]].IsValid() {
			at[i] = (at[i] + skip[i]) % uint64(m)
		}
		table[at[i]] = backends[i].Address
	}
	return table
}

// permutation returns a backend's first position, and how far each next one lies.
func permutation(key string, m int) (offset, skip uint64) {
	h1, h2 := murmur128([]byte(key), murmurSeed)
	return h1 % uint64(m), h2%uint64(m-1) + 1
}
