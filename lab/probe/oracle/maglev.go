// Package oracle foretells which backend a flow must reach. It computes
// Cilium's Maglev table (pkg/maglev) and flow hash by itself: the proof that
// the data path takes the right backend must not rest on the code that told
// the data path what to take.
//
//	table, err := oracle.NewTable(16381, "TCP", []oracle.Backend{{Address: be1, Weight: 1}, …})
//	backend := table.Lookup(client, 80, 6)
package oracle

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The seeds are parts of Cilium's default, base64 "JLfvgnHc2kaSUFaI".
const (
	murmurSeed = 616034178
	jhashSeed4 = 1910299206
	jhashSeed6 = 2454738568
)

// Backend is one address behind a service.
type Backend struct {
	Address netip.AddrPort
	// Weight relative to the others; 1 when all are equal, 0 for no slot.
	Weight uint64
}

// Table is a Maglev table.
type Table struct {
	backends []netip.AddrPort
	slots    []int
}

// NewTable fills a table of size slots, a prime. The protocol is the word in
// the backends' hashed names: "TCP" or "UDP". The order of the backends does
// not matter.
func NewTable(size uint32, protocol string, backends []Backend) (Table, error) {
	backends = slices.DeleteFunc(slices.Clone(backends), func(b Backend) bool { return b.Weight == 0 })
	if len(backends) == 0 {
		return Table{}, errors.New("maglev table: no backends with a weight")
	}
	if size < 3 || uint32(len(backends)) > size {
		return Table{}, fmt.Errorf("maglev table: %d slots for %d backends", size, len(backends))
	}
	type candidate struct {
		Backend
		key          string
		offset, skip uint64
		next         uint64 // steps of its permutation already looked at
		due          float64
	}
	m := uint64(size)
	candidates := make([]candidate, 0, len(backends))
	var weights uint64
	for _, b := range backends {
		key := fmt.Sprintf("[%s/%s,State:active]", b.Address, strings.ToUpper(protocol))
		h1, h2 := murmur3([]byte(key), murmurSeed)
		candidates = append(candidates, candidate{
			Backend: b, key: key, offset: h1 % m, skip: h2%(m-1) + 1,
			due: float64(b.Weight) / float64(len(backends)),
		})
		weights += b.Weight
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return strings.Compare(a.key, b.key) })

	t := Table{slots: slices.Repeat([]int{-1}, int(size))}
	for _, c := range candidates {
		t.backends = append(t.backends, c.Address)
	}
	weighted := weights/uint64(len(candidates)) > 1
	for n := uint64(0); n < m; n++ {
		i := int(n % uint64(len(candidates)))
		if weighted {
			for (n+1)*candidates[i].Weight < uint64(candidates[i].due) {
				i = (i + 1) % len(candidates) // passed over: the next one takes this turn
			}
			candidates[i].due += float64(weights)
		}
		c := &candidates[i]
		slot := (c.offset + c.next*c.skip) % m
		for t.slots[slot] >= 0 {
			c.next++
			slot = (c.offset + c.next*c.skip) % m
		}
		t.slots[slot] = i
		c.next++
	}
	return t, nil
}

// Lookup returns the backend of a flow from client, of either family, to the
// service's port. The protocol is IP's number, 6 or 17. Of a service with session
// affinity, the client's port is to be 0.
func (t Table) Lookup(client netip.AddrPort, port uint16, protocol uint8) netip.AddrPort {
	return t.backends[t.slots[flowHash(client, port, protocol)%uint32(len(t.slots))]]
}

// Backends returns every backend that has at least one slot.
func (t Table) Backends() []netip.AddrPort {
	var have []netip.AddrPort
	for i, b := range t.backends {
		if slices.Contains(t.slots, i) {
			have = append(have, b)
		}
	}
	return have
}
