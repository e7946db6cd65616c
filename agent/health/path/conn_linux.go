package path

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"l4lab/agent/health"
)

// conn is one probe's connection: as much of RFC 9293's client as a check
// needs. It takes segments and returns those to send; time and sockets are its
// caller's. There is no TIME_WAIT to wait for, since it ends with a reset.
type conn struct {
	target health.Target
	local  netip.AddrPort
	// request is what is sent with the handshake's last segment; nil for a mere connection.
	request []byte

	connected bool
	// next is the next sequence number to send, unacked the first that was not
	// acknowledged, received the next that is expected.
	next, unacked, received uint32
	answer                  []byte
	// sent counts how often what is unacknowledged was sent.
	sent int
}

func newConn(t health.Target, local netip.AddrPort, iss uint32) *conn {
	c := &conn{target: t, local: local, next: iss + 1, unacked: iss, sent: 1}
	if t.HTTP {
		c.request = t.Request()
	}
	return c
}

// How a peer ends a connection before it has told its status.
var (
	errRefused = errors.New("connection refused (reset)")
	errReset   = errors.New("connection reset")
)

// open is the SYN.
func (c *conn) open() segment { return c.segment(syn, c.next-1, nil) }

func (c *conn) segment(f flags, seq uint32, payload []byte) segment {
	s := segment{from: c.local, to: c.target.VIP, seq: seq, flags: f, payload: payload}
	if c.connected {
		s.flags |= ack
		s.ack = c.received
	}
	return s
}

// hello is the segment that completes the handshake, with the request.
func (c *conn) hello() segment {
	if c.request == nil {
		return c.segment(ack, c.next, nil)
	}
	return c.segment(psh|ack, c.next-uint32(len(c.request)), c.request)
}

// again is what to send when no acknowledgement came, if anything.
func (c *conn) again() (segment, bool) {
	if c.unacked == c.next {
		return segment{}, false
	}
	c.sent++
	if !c.connected {
		return c.open(), true
	}
	return c.hello(), true
}

// abort is the reset that ends the connection. Before the handshake it takes
// away what the peer may have kept of the SYN.
func (c *conn) abort() segment { return c.segment(rst, c.next, nil) }

// receive takes a segment of the peer. When it is done, err is the verdict.
func (c *conn) receive(s segment) (reply []segment, done bool, err error) {
	if !c.connected {
		return c.handshake(s)
	}
	switch {
	case s.flags.has(rst):
		if s.seq == c.received { // RFC 5961: only the exact number counts
			return nil, true, errReset
		}
		return nil, false, nil
	case s.flags.has(syn): // its acknowledgement was lost
		return []segment{c.hello()}, false, nil
	case !s.flags.has(ack):
		return nil, false, nil
	}
	if s.ack-c.unacked <= c.next-c.unacked {
		c.unacked = s.ack
	}
	return c.take(s)
}

// handshake takes what comes as an answer to the SYN.
func (c *conn) handshake(s segment) (reply []segment, done bool, err error) {
	if !s.flags.has(ack) {
		return nil, false, nil
	}
	if s.ack != c.next {
		if s.flags.has(rst) {
			return nil, false, nil
		}
		// The peer remembers an earlier connection from this port, of which the reset was
		// lost. RFC 9293 section 3.10.7.3: reset it; the next SYN finds it gone.
		return []segment{c.foreign(s)}, false, nil
	}
	if s.flags.has(rst) {
		return nil, true, errRefused
	}
	if !s.flags.has(syn) {
		return nil, false, nil
	}
	c.connected = true
	c.received = s.seq + 1
	c.unacked, c.sent = c.next, 1
	if c.request == nil {
		return []segment{c.hello()}, true, nil
	}
	c.next += uint32(len(c.request))
	return []segment{c.hello()}, false, nil
}

// foreign is the reset for a segment that belongs to no connection of ours.
func (c *conn) foreign(s segment) segment {
	return segment{from: c.local, to: c.target.VIP, seq: s.ack, flags: rst}
}

// take appends what follows to the answer, acknowledges, and judges.
func (c *conn) take(s segment) (reply []segment, done bool, err error) {
	if s.seq == s.end() {
		return nil, false, nil
	}
	payload := s.payload
	old := c.received - s.seq
	switch {
	case int32(old) < 0, old >= s.end()-s.seq:
		// A gap, or all known: the acknowledgement says what is wanted.
		return []segment{c.segment(ack, c.next, nil)}, false, nil
	case int(old) <= len(payload):
		payload = payload[old:]
	}
	c.received = s.end()
	c.answer = append(c.answer, payload...)
	if len(c.answer) > 0 {
		if done, err = c.target.Judge(c.answer); done {
			return nil, true, err
		}
	}
	if s.flags.has(fin) {
		return nil, true, fmt.Errorf("closed after %d bytes, before a status", len(c.answer))
	}
	return []segment{c.segment(ack, c.next, nil)}, false, nil
}

// silence is the verdict when the time is over.
func (c *conn) silence(waited time.Duration) error {
	times := "sent once"
	if c.sent > 1 {
		times = fmt.Sprintf("sent %d times", c.sent)
	}
	switch {
	case !c.connected && c.target.Encap == "ipip":
		return fmt.Errorf("no answer to the SYN within %s, %s (decapsulation, the VIP on the backend, or a firewall?)", waited, times)
	case !c.connected:
		return fmt.Errorf("no answer to the SYN within %s, %s (the VIP on the backend, or a firewall?)", waited, times)
	case c.unacked != c.next:
		return fmt.Errorf("connected, but the request was not acknowledged within %s, %s", waited, times)
	}
	return fmt.Errorf("connected, but no status within %s, after %d bytes", waited, len(c.answer))
}
