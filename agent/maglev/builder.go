package maglev

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/twmb/murmur3"
)

// Builder fills tables. What it needs besides the table it keeps for the next
// one, so filling again, with no more backends and slots than before, allocates
// nothing. The zero value is ready; it is not for two goroutines at once.
type Builder struct {
	keys       []byte // of all candidates, one behind the other
	order      []place
	candidates []candidate
	ready      []uint32
	taken      []uint8
}

// place is a backend's turn: candidates take theirs in the order of their keys.
type place struct {
	keyStart, keyEnd int
	backend          int
}

// window is how many slots of a walk are looked at together. After each of them
// comes a branch that no processor foretells: with windows of 1 those took more
// than half of the time.
const window = 8

// candidate is a backend with its walk through the table: slot, slot+skip,
// slot+2*skip, … modulo the number of slots, a permutation because that is prime.
type candidate struct {
	id   uint32
	slot uint32 // where the walk goes on
	// step[k] is k*skip modulo the number of slots.
	step    [window + 1]uint32
	weight  uint64
	counter float64 // see Builder.nextTurn
}

// Fill makes table, whose length is its number of slots, that of the backends.
// Their order does not matter.
//
// It is an error, which leaves table as it was, when the length is not one of
// Sizes, when no backend has a weight, when there are more of them than slots,
// when two are the same, or when an ID is the one that marks free slots.
func (b *Builder) Fill(table []uint32, backends []Backend) error {
	if len(table) > math.MaxInt32 || !ValidSize(uint32(len(table))) {
		return sizeError(len(table))
	}
	if err := b.sort(backends); err != nil {
		return err
	}
	if len(b.order) > len(table) {
		return fmt.Errorf("maglev: %d backends do not fit into %d slots", len(b.order), len(table))
	}
	b.begin(backends, uint32(len(table)))

	n := uint64(len(b.candidates))
	var sum uint64
	for _, c := range b.candidates {
		sum += c.weight
	}
	// Weights count only where they exceed 1 on average: Cilium's test, integer
	// division included.
	if sum/n > 1 {
		b.fillWeighted(table, sum)
	} else {
		b.fillEvenly(table)
	}
	return nil
}

// sort sets keys, and order to the backends that have a weight.
func (b *Builder) sort(backends []Backend) error {
	const usualKey = 48
	b.keys = slices.Grow(b.keys[:0], usualKey*len(backends))
	b.order = slices.Grow(b.order[:0], len(backends))
	for i, backend := range backends {
		if backend.Weight == 0 {
			continue
		}
		if backend.ID == noID {
			return fmt.Errorf("maglev: backend %s: id %d marks a free slot", backend.Address, backend.ID)
		}
		start := len(b.keys)
		b.keys = appendKey(b.keys, backend.Address, backend.Protocol)
		b.order = append(b.order, place{start, len(b.keys), i})
	}
	if len(b.order) == 0 {
		return errors.New("maglev: no backend with a weight")
	}
	slices.SortFunc(b.order, func(x, y place) int { return bytes.Compare(b.key(x), b.key(y)) })
	for i := 1; i < len(b.order); i++ {
		if key := b.key(b.order[i]); bytes.Equal(key, b.key(b.order[i-1])) {
			return fmt.Errorf("maglev: backend %s is there twice", key)
		}
	}
	return nil
}

func (b *Builder) key(p place) []byte { return b.keys[p.keyStart:p.keyEnd] }

// begin puts every candidate at the beginning of its walk and frees all slots.
func (b *Builder) begin(backends []Backend, size uint32) {
	b.candidates = slices.Grow(b.candidates[:0], len(b.order))
	for _, p := range b.order {
		h1, h2 := murmur3.SeedSum128(murmurSeed, murmurSeed, b.key(p))
		backend := &backends[p.backend]
		c := candidate{
			id:      backend.ID,
			slot:    uint32(h1 % uint64(size)),
			weight:  uint64(backend.Weight),
			counter: float64(backend.Weight) / float64(len(b.order)),
		}
		skip := uint32(h2%uint64(size-1)) + 1
		for k := 1; k <= window; k++ {
			c.step[k] = modulo(c.step[k-1]+skip, size)
		}
		b.candidates = append(b.candidates, c)
	}
	b.taken = slices.Grow(b.taken[:0], 2*int(size))[:2*size]
	clear(b.taken)
}

// fillEvenly gives the slots away in turn.
func (b *Builder) fillEvenly(table []uint32) {
	i := 0
	for range table {
		c := &b.candidates[i]
		table[c.take(b.taken)] = c.id
		if i++; i == len(b.candidates) {
			i = 0
		}
	}
}

// fillWeighted gives the slots away as Cilium does: at step n it would be the
// turn of candidate n modulo their number, but those are passed over for which
// (n+1)*weight is less than their counter, which grows by the sum of all weights
// with each turn.
//
// Here ready[i] is the first step at which candidate i is not passed over. There
// is always one: the counters, whole, add up to less than (n+1)*sum.
func (b *Builder) fillWeighted(table []uint32, sum uint64) {
	n := len(b.candidates)
	b.ready = slices.Grow(b.ready[:0], n)[:n]
	for i := range b.candidates {
		b.ready[i] = b.candidates[i].readyAt()
	}
	first := 0
	for step := range table {
		i := first
		for b.ready[i] > uint32(step) {
			if i++; i == n {
				i = 0
			}
		}
		c := &b.candidates[i]
		table[c.take(b.taken)] = c.id
		// A float, as Cilium's: beyond 2^53 they round alike.
		c.counter += float64(sum)
		b.ready[i] = c.readyAt()
		if first++; first == n {
			first = 0
		}
	}
}

// readyAt is the least n with (n+1)*weight >= counter without its fraction.
func (c *candidate) readyAt() uint32 {
	whole := uint64(c.counter)
	if whole == 0 {
		return 0
	}
	return uint32(min((whole-1)/c.weight, math.MaxUint32))
}

// take claims the next free slot of the walk.
//
// taken has each slot twice, at slot and at slot plus their number: a slot plus
// a step is below twice that number, so only the slot that is found needs the
// modulo. And it is bytes, a quarter of the table: those of 16,381 slots stay in
// the processor's first cache.
func (c *candidate) take(taken []uint8) uint32 {
	size := uint32(len(taken) / 2)
	s := &c.step
	at := c.slot
	for taken[at]&taken[at+s[1]]&taken[at+s[2]]&taken[at+s[3]]&
		taken[at+s[4]]&taken[at+s[5]]&taken[at+s[6]]&taken[at+s[7]] != 0 {
		at = modulo(at+s[window], size)
	}
	// How many taken ones come before the first free one, without a branch.
	t0 := taken[at]
	t1 := taken[at+s[1]] & t0
	t2 := taken[at+s[2]] & t1
	t3 := taken[at+s[3]] & t2
	t4 := taken[at+s[4]] & t3
	t5 := taken[at+s[5]] & t4
	t6 := taken[at+s[6]] & t5
	k := t0 + t1 + t2 + t3 + t4 + t5 + t6
	at = modulo(at+s[k%window], size)
	taken[at], taken[at+size] = 1, 1
	c.slot = modulo(at+s[1], size)
	return at
}

// modulo is sum modulo size for a sum below twice the size. The compiler makes a
// branch of the comparison that one would write, and it goes either way.
func modulo(sum, size uint32) uint32 {
	rest := int32(sum - size)
	return uint32(rest + int32(size)&(rest>>31))
}
