package evidence

import (
	"cmp"
	"fmt"
	"slices"
)

// Coverage is what part of one direction of a flow a place saw. Offloads cut
// and join segments between two places; the bytes that they cover stay the same.
type Coverage struct {
	// SYN, FIN and RST were seen (TCP).
	SYN, FIN, RST bool
	// Datagrams counts packets (UDP).
	Datagrams int
	// Bytes of payload: UDP's in sum, TCP's each once however often sent.
	Bytes int

	ranges [][2]uint32 // sequence numbers relative to the first segment's
	base   uint32
	some   bool
}

// Add takes one packet's transport into account.
func (c *Coverage) Add(t Transport) {
	if t.Protocol == ProtocolUDP {
		c.Datagrams++
		c.Bytes += len(t.Payload)
		return
	}
	if !c.some {
		c.base, c.some = t.Seq, true
	}
	c.SYN = c.SYN || t.Flags&SYN != 0
	c.FIN = c.FIN || t.Flags&FIN != 0
	c.RST = c.RST || t.Flags&RST != 0
	if len(t.Payload) == 0 {
		return
	}
	start := t.Seq - c.base
	c.merge([2]uint32{start, start + uint32(len(t.Payload))})
}

// merge adds a range; ranges stay sorted and apart from each other.
func (c *Coverage) merge(r [2]uint32) {
	at, _ := slices.BinarySearchFunc(c.ranges, r, func(a, b [2]uint32) int { return cmp.Compare(a[0], b[0]) })
	if at > 0 && c.ranges[at-1][1] >= r[0] {
		at--
		r[0] = c.ranges[at][0]
	}
	end := at
	for end < len(c.ranges) && c.ranges[end][0] <= r[1] {
		r[1] = max(r[1], c.ranges[end][1])
		end++
	}
	c.ranges = slices.Replace(c.ranges, at, end, r)
	c.Bytes = 0
	for _, r := range c.ranges {
		c.Bytes += int(r[1] - r[0])
	}
}

// Equal says that two places saw the same part of a direction.
func (c Coverage) Equal(o Coverage) bool {
	return c.SYN == o.SYN && c.FIN == o.FIN && c.RST == o.RST && c.Datagrams == o.Datagrams && c.Bytes == o.Bytes &&
		len(c.ranges) == len(o.ranges)
}

// String shows a coverage.
func (c Coverage) String() string {
	if c.Datagrams > 0 {
		return fmt.Sprintf("%d datagrams, %d bytes", c.Datagrams, c.Bytes)
	}
	s := fmt.Sprintf("%d bytes", c.Bytes)
	for _, f := range []struct {
		set  bool
		name string
	}{{c.SYN, "SYN"}, {c.FIN, "FIN"}, {c.RST, "RST"}} {
		if f.set {
			s += " " + f.name
		}
	}
	if len(c.ranges) > 1 {
		s += fmt.Sprintf(" with %d gaps", len(c.ranges)-1)
	}
	return s
}
