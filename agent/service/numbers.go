package service

import (
	"net/netip"
	"slices"

	"l4lab/agent/datapath"
)

// numbers gives out the numbers first to limit-1, to owners of type K. It goes
// round: a number that was given back is given to another owner as late as possible,
// since flows that outlive their backend still count under its number. The owner
// itself, when it comes back before that, gets its old number again, so that those
// flows count where they are looked for.
type numbers[K comparable] struct {
	first, limit, next uint32
	used               map[uint32]bool
	// former are free numbers whose counters are still an owner's, the oldest first.
	former []former[K]
}

// former is a free number and who had it last.
type former[K comparable] struct {
	Number uint32 `json:"number"`
	Owner  K      `json:"owner"`
}

// maxFormer bounds the memory for owners that have gone: it is in the state file.
const maxFormer = 1024

// slotOwner is a service, whatever its backends.
type slotOwner struct {
	ID       uint32            `json:"id"`
	Frontend netip.AddrPort    `json:"frontend"`
	Protocol datapath.Protocol `json:"protocol"`
}

// backendOwner is a backend of the service that has, or had last, a slot.
type backendOwner struct {
	Slot     uint32            `json:"slot"`
	Address  netip.AddrPort    `json:"address"`
	Protocol datapath.Protocol `json:"protocol"`
}

func newNumbers[K comparable](first, limit uint32) numbers[K] {
	return numbers[K]{first: first, limit: limit, next: first, used: make(map[uint32]bool)}
}

// take marks a number that somebody has already.
func (n *numbers[K]) take(number uint32) {
	n.used[number] = true
	n.forget(func(f former[K]) bool { return f.Number == number })
}

// free takes a number back that has counted nothing.
func (n *numbers[K]) free(number uint32) { delete(n.used, number) }

// retire takes a number back and keeps it for its owner while there are others.
func (n *numbers[K]) retire(number uint32, owner K) {
	n.free(number)
	n.forget(func(f former[K]) bool { return f.Owner == owner })
	n.former = append(n.former, former[K]{number, owner})
	if surplus := len(n.former) - maxFormer; surplus > 0 {
		n.former = slices.Delete(n.former, 0, surplus)
	}
}

// forget gives up numbers that are kept for owners.
func (n *numbers[K]) forget(which func(former[K]) bool) {
	n.former = slices.DeleteFunc(n.former, which)
}

// allot returns a free number; ok is false when there is none. again says that
// the owner had it before and that its counters are its own.
func (n *numbers[K]) allot(owner K) (number uint32, again, ok bool) {
	for _, f := range n.former {
		if f.Owner == owner {
			n.take(f.Number)
			return f.Number, true, true
		}
	}
	kept := make(map[uint32]bool, len(n.former))
	for _, f := range n.former {
		kept[f.Number] = true
	}
	for range n.limit - n.first {
		if n.next < n.first || n.next >= n.limit {
			n.next = n.first
		}
		number, n.next = n.next, n.next+1
		if !n.used[number] && !kept[number] {
			n.take(number)
			return number, false, true
		}
	}
	if len(n.former) == 0 {
		return 0, false, false
	}
	number = n.former[0].Number
	n.take(number)
	return number, false, true
}

// remember takes over what an earlier agent kept; what is in use by now, or no
// number of ours, is left out.
func (n *numbers[K]) remember(kept []former[K]) {
	for _, f := range kept {
		if f.Number >= n.first && f.Number < n.limit && !n.used[f.Number] {
			n.forget(func(g former[K]) bool { return g.Number == f.Number })
			n.retire(f.Number, f.Owner)
		}
	}
}
