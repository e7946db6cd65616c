package health

import (
	"container/heap"
	"encoding/binary"
	"hash/fnv"
	"math/bits"
	"time"
)

// The times of checks lie on a grid: a check's phase, which a hash of service
// and backend spreads over the interval, plus a multiple of the interval, counted
// from the Checker's start. However long a check takes and whenever its backend
// was added, the next is on the grid again. So a thousand backends that came with
// one request, or that all hung for a timeout, are asked one after another for
// ever, and a backend is asked at the same place of the interval whatever
// becomes of others.

// phase is a check's place in its interval.
func (k key) phase(interval time.Duration) time.Duration {
	h := fnv.New64a()
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], k.service)
	_, _ = h.Write(id[:]) // never fails
	address, _ := k.backend.MarshalBinary()
	_, _ = h.Write(address)
	place, _ := bits.Mul64(mix(h.Sum64()), uint64(interval))
	return time.Duration(place)
}

// mix is MurmurHash3's finalizer: addresses that differ in their last byte alone
// differ little in FNV's upper bits, which decide the place.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// after returns the first time on the grid after now.
func after(now, epoch time.Time, interval, phase time.Duration) time.Time {
	first := epoch.Add(phase)
	if now.Before(first) {
		return first
	}
	return first.Add((now.Sub(first)/interval + 1) * interval)
}

// queue is a heap of checks by their due time; it implements heap.Interface.
type queue []*check

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *queue) Push(x any) {
	c := x.(*check)
	c.place = len(*q)
	*q = append(*q, c)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil // the array must not keep it
	*q = (*q)[:last]
	c.place = notQueued
	return c
}

// notQueued is the place of a check that runs, or that is over.
const notQueued = -1

func (q *queue) remove(c *check) {
	if c.place != notQueued {
		heap.Remove(q, c.place)
	}
}
