package path

import (
	"net/netip"
	"sync"
)

// port is a source port. One probe at a time has it, so the port alone says
// whose an answer is: all backends of a service answer from the VIP.
type port struct {
	address netip.AddrPort

	mu sync.Mutex
	// last is the connection that has it, or had it last, and send the way to its backend.
	last     *conn
	send     func(segment) error
	segments chan segment // nil while no probe has the port
}

// backlog is how many segments wait for a probe; more are lost, as in a network.
const backlog = 16

func (p *port) begin(c *conn, send func(segment) error) <-chan segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.send, p.segments = c, send, make(chan segment, backlog)
	return p.segments
}

func (p *port) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.segments = nil
}

// deliver gives a segment to the probe. What comes when it has ended means
// that the backend did not get the reset, so it is sent again: nobody else would
// tell it, since the kernel is kept from doing so.
func (p *port) deliver(s segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil || s.from != p.last.target.VIP {
		return
	}
	if p.segments != nil {
		select {
		case p.segments <- s:
		default:
		}
		return
	}
	if s.flags.has(ack) && !s.flags.has(rst) {
		_ = p.send(p.last.foreign(s)) // the next such segment asks again
	}
}
