package service

// numbers gives out the numbers first to limit-1. It goes round: a number that was
// given back is given out again as late as possible, since flows that outlive
// their backend still count under its number.
type numbers struct {
	first, limit, next uint32
	used               map[uint32]bool
}

func newNumbers(first, limit uint32) numbers {
	return numbers{first: first, limit: limit, next: first, used: make(map[uint32]bool)}
}

// take marks a number that somebody has already.
func (n *numbers) take(number uint32) { n.used[number] = true }

func (n *numbers) free(number uint32) { delete(n.used, number) }

// allot returns a free number; ok is false when there is none.
func (n *numbers) allot() (number uint32, ok bool) {
	for range n.limit - n.first {
		if n.next < n.first || n.next >= n.limit {
			n.next = n.first
		}
		number, n.next = n.next, n.next+1
		if !n.used[number] {
			n.used[number] = true
			return number, true
		}
	}
	return 0, false
}
