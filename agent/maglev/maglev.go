// Package maglev computes the lookup tables of Google's Maglev balancer
// (Eisenbud et al., NSDI 2016) exactly as Cilium does, so that the two can
// stand side by side and either can be checked against the other.
//
// A table has M slots; each slot holds a backend's id, and a flow takes the
// slot that its hash names (Slot). Every backend gets its share of the slots,
// and when one leaves, few of the others' slots change hands. It is pure: the
// same backends give the same table on every machine.
//
//	var b maglev.Builder // keeps its memory from table to table
//	table := make([]uint32, maglev.DefaultSize)
//	err := b.Fill(table, backends)
//	id := table[maglev.Slot(client, vip, 6, maglev.DefaultSize, false)]
package maglev

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
)

// DefaultSize is the number of slots when nobody asks for another.
const DefaultSize = 16381

// sizes are the primes that Cilium allows.
var sizes = [...]uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}

// Sizes returns the permitted table sizes, smallest first.
func Sizes() []uint32 { return slices.Clone(sizes[:]) }

// ValidSize says whether a table may have that many slots.
func ValidSize(size uint32) bool { return slices.Contains(sizes[:], size) }

// noID marks a free slot in Cilium's tables, and is therefore no backend's id.
const noID = math.MaxUint32

// Backend is a candidate for the slots of a table.
type Backend struct {
	// ID is what its slots hold.
	ID uint32
	// Address and Protocol (6 TCP, 17 UDP, 132 SCTP) make its place in the
	// table: a backend keeps its slots when its ID changes.
	Address  netip.AddrPort
	Protocol uint8
	// Weight is its share relative to the others; 0 gives it no slot.
	//
	// Cilium, and so this package, treats all backends alike when the mean of
	// the weights that are not 0 is below 2.
	Weight uint32
}

// Table returns a table of size slots, each with the ID of a backend. It is
// for tables made now and then; see Builder.Fill for the errors.
func Table(backends []Backend, size uint32) ([]uint32, error) {
	if !ValidSize(size) {
		return nil, sizeError(int(size))
	}
	table := make([]uint32, size)
	var b Builder
	if err := b.Fill(table, backends); err != nil {
		return nil, err
	}
	return table, nil
}

func sizeError(size int) error {
	return fmt.Errorf("maglev table of %d slots: not one of %v", size, sizes)
}

// Key is the text that places a backend in the table, for instance
// "[1.2.3.4:80/TCP,State:active]" or "[[fd00::1]:80/TCP,State:active]".
func Key(address netip.AddrPort, protocol uint8) string {
	return string(appendKey(nil, address, protocol))
}

func appendKey(b []byte, address netip.AddrPort, protocol uint8) []byte {
	b = append(b, '[')
	b = address.AppendTo(b)
	b = append(b, '/')
	switch protocol {
	case 6:
		b = append(b, "TCP"...)
	case 17:
		b = append(b, "UDP"...)
	case 132:
		b = append(b, "SCTP"...)
	default:
		b = strconv.AppendUint(b, uint64(protocol), 10)
	}
	return append(b, ",State:active]"...)
}
