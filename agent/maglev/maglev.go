// Package maglev computes the lookup tables of Google's Maglev balancer
// (Eisenbud et al., NSDI 2016) exactly as Cilium does, so that the two can
// stand side by side and either can be checked against the other.
//
// A table has M slots; each slot holds a backend's id, and a flow takes the
// slot that its hash names (Slot). Every backend gets about M/N slots, and
// when one leaves, few of the others' slots change hands. It is pure: the same
// backends give the same table on every machine.
package maglev

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"github.com/twmb/murmur3"
)

// DefaultSize is the number of slots when nobody asks for another.
const DefaultSize = 16381

// sizes are the primes that Cilium allows.
var sizes = [...]uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}

// Sizes returns the permitted table sizes, smallest first.
func Sizes() []uint32 { return slices.Clone(sizes[:]) }

// ValidSize says whether a table may have that many slots.
func ValidSize(size uint32) bool { return slices.Contains(sizes[:], size) }

// Backend is a candidate for the slots of a table.
type Backend struct {
	// ID is what its slots hold.
	ID uint32
	// Address and Protocol (6 TCP, 17 UDP, 132 SCTP) make its place in the
	// table: a backend keeps its slots when its ID changes.
	Address  netip.AddrPort
	Protocol uint8
	// Weight is its share relative to the others; 0 gives it no slot.
	Weight uint32
}

// free marks a slot that nobody has taken. Cilium's sentinel, and no id.
const free = math.MaxUint32

// candidate is a backend with its walk through the table: slot, slot+skip,
// slot+2*skip, … modulo M, a permutation because M is prime.
type candidate struct {
	key    string
	id     uint32
	slot   uint32
	skip   uint32
	weight uint64
	// counter is Cilium's: the step, times the weight, at which its turn comes again.
	counter float64
}

// Table returns a table of size slots, each with the ID of a backend.
//
// It is an error when size is not one of Sizes, when no backend has a weight,
// when there are more of them than slots, or when two are the same.
// One that costs 1000 backends x 131071 slots takes about 10 ms.
func Table(backends []Backend, size uint32) ([]uint32, error) {
	if !ValidSize(size) {
		return nil, fmt.Errorf("maglev table of %d slots: not one of %v", size, sizes)
	}
	candidates, err := candidatesOf(backends, size)
	if err != nil {
		return nil, err
	}
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	fill(table, candidates)
	return table, nil
}

// candidatesOf returns the backends that have a weight, in the order in which they take turns.
func candidatesOf(backends []Backend, size uint32) ([]candidate, error) {
	candidates := make([]candidate, 0, len(backends))
	for _, b := range backends {
		if b.Weight == 0 {
			continue
		}
		if b.ID == free {
			return nil, fmt.Errorf("maglev: backend %s: id %d marks a free slot", b.Address, b.ID)
		}
		key := Key(b.Address, b.Protocol)
		h1, h2 := murmur3.SeedStringSum128(murmurSeed, murmurSeed, key)
		candidates = append(candidates, candidate{
			key:    key,
			id:     b.ID,
			slot:   uint32(h1 % uint64(size)),
			skip:   uint32(h2%uint64(size-1)) + 1,
			weight: uint64(b.Weight),
		})
	}
	switch {
	case len(candidates) == 0:
		return nil, errors.New("maglev: no backend with a weight")
	case len(candidates) > int(size):
		return nil, fmt.Errorf("maglev: %d backends do not fit into %d slots", len(candidates), size)
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		switch {
		case a.key < b.key:
			return -1
		case a.key > b.key:
			return 1
		}
		return 0
	})
	for i := 1; i < len(candidates); i++ {
		if candidates[i].key == candidates[i-1].key {
			return nil, fmt.Errorf("maglev: backend %s is there twice", candidates[i].key)
		}
	}
	return candidates, nil
}

// fill gives each slot away. Weights count only where they exceed 1 on
// average: that is Cilium's test, integer division included.
func fill(table []uint32, candidates []candidate) {
	n := len(candidates)
	var sum uint64
	for i := range candidates {
		candidates[i].counter = float64(candidates[i].weight) / float64(n)
		sum += candidates[i].weight
	}
	weighted := sum/uint64(n) > 1
	for step := range table {
		i := step % n
		if weighted {
			for uint64(step+1)*candidates[i].weight < uint64(candidates[i].counter) {
				if i++; i == n {
					i = 0
				}
			}
			candidates[i].counter += float64(sum)
		}
		candidates[i].take(table)
	}
}

// take claims the candidate's next free slot.
func (c *candidate) take(table []uint32) {
	size := uint32(len(table))
	slot := c.slot
	for table[slot] != free {
		if slot += c.skip; slot >= size {
			slot -= size
		}
	}
	table[slot] = c.id
	if slot += c.skip; slot >= size {
		slot -= size
	}
	c.slot = slot
}

// Key is the text that places a backend in the table, for instance
// "[1.2.3.4:80/TCP,State:active]".
func Key(address netip.AddrPort, protocol uint8) string {
	b := make([]byte, 0, 48)
	b = append(b, '[')
	b = address.AppendTo(b)
	b = append(b, '/')
	b = append(b, protocolName(protocol)...)
	b = append(b, ",State:active]"...)
	return string(b)
}

func protocolName(protocol uint8) string {
	switch protocol {
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 132:
		return "SCTP"
	}
	return strconv.Itoa(int(protocol))
}
