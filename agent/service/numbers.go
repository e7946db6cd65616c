package service

import (
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/datapath"
)

// numbers gives out the numbers first to limit-1, to owners of type K. It goes
// round: a number that was given back is given to another owner as late as possible.
// The owner itself, when it comes back before that, gets its old number again, so
// that what it has counted goes on.
//
// A number that is held is given to nobody but its former owner: flows may still
// have it, and would go to whoever got it.
type numbers[K comparable] struct {
	first, limit, next uint32
	used               map[uint32]bool
	// former are free numbers whose counters are still an owner's, the oldest first.
	former []former[K]
	// owners and kept are what former has, by owner and by number.
	owners map[K]uint32
	kept   map[uint32]bool
	// held has, of each such number, in how many sweeps in a row nothing had it.
	held map[uint32]int
	// retired are what retire was told since the last drain: news for the state file.
	retired []former[K]
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
	return numbers[K]{
		first: first, limit: limit, next: first,
		used:   make(map[uint32]bool),
		owners: make(map[K]uint32),
		kept:   make(map[uint32]bool),
		held:   make(map[uint32]int),
	}
}

// take marks a number that somebody has already.
func (n *numbers[K]) take(number uint32) {
	n.used[number] = true
	delete(n.held, number)
	if n.kept[number] {
		n.forget(func(f former[K]) bool { return f.Number == number })
	}
}

// free takes a number back that has counted nothing.
func (n *numbers[K]) free(number uint32) { delete(n.used, number) }

// retire takes a number back and keeps it for its owner while there are others.
func (n *numbers[K]) retire(number uint32, owner K) {
	n.free(number)
	n.keep(former[K]{number, owner})
	n.retired = append(n.retired, former[K]{number, owner})
}

func (n *numbers[K]) keep(f former[K]) {
	if _, twice := n.owners[f.Owner]; twice || n.kept[f.Number] {
		n.forget(func(g former[K]) bool { return g.Owner == f.Owner || g.Number == f.Number })
	}
	n.former = append(n.former, f)
	n.owners[f.Owner], n.kept[f.Number] = f.Number, true
	if len(n.former) > maxFormer {
		oldest := n.former[0]
		n.forget(func(g former[K]) bool { return g.Number == oldest.Number })
	}
}

// hold keeps a free number from other owners until release has seen nothing of
// it in two sweeps in a row. One alone may have begun before the number was freed, and passed by.
func (n *numbers[K]) hold(number uint32) { n.held[number] = 0 }

// release is told what a sweep has found.
func (n *numbers[K]) release(inUse map[uint32]int) {
	for number := range n.held {
		if inUse[number] > 0 {
			n.held[number] = 0
		} else if n.held[number]++; n.held[number] >= quietSweeps {
			delete(n.held, number)
		}
	}
}

// forget gives up numbers that are kept for owners.
func (n *numbers[K]) forget(which func(former[K]) bool) {
	n.former = slices.DeleteFunc(n.former, func(f former[K]) bool {
		if !which(f) {
			return false
		}
		delete(n.owners, f.Owner)
		delete(n.kept, f.Number)
		return true
	})
}

// room is how many numbers owners can get that had none before.
func (n *numbers[K]) room() int { return int(n.limit-n.first) - len(n.used) - len(n.held) }

// allot returns a free number; ok is false when there is none. again says that
// the owner had it before and that its counters are its own.
func (n *numbers[K]) allot(owner K) (number uint32, again, ok bool) {
	if number, again = n.owners[owner]; again {
		n.take(number)
		return number, true, true
	}
	if n.room() <= 0 {
		return 0, false, false
	}
	for range n.limit - n.first {
		if n.next < n.first || n.next >= n.limit {
			n.next = n.first
		}
		number, n.next = n.next, n.next+1
		if _, held := n.held[number]; !n.used[number] && !n.kept[number] && !held {
			n.take(number)
			return number, false, true
		}
	}
	for _, f := range n.former {
		if _, held := n.held[f.Number]; !held {
			n.take(f.Number)
			return f.Number, false, true
		}
	}
	return 0, false, false
}

// remember takes over what an earlier agent kept; what is in use by now, or no
// number of ours, is left out.
func (n *numbers[K]) remember(kept []former[K]) {
	for _, f := range kept {
		if f.Number >= n.first && f.Number < n.limit && !n.used[f.Number] {
			n.keep(f)
		}
	}
}

// afterUsed has the next number follow those that are in use.
func (n *numbers[K]) afterUsed() {
	n.next = n.first
	for number := range maps.Keys(n.used) {
		n.next = max(n.next, number+1)
	}
}
