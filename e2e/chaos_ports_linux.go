package e2e

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// The walk's local ports, all in SNAT's pool. labctl test, at the end of the walk,
// takes its own from the same range, of which many then wait out TIME_WAIT.
const walkFirstPort, walkLastPort = 33000, 60999

// synLifetime is how long the balancer remembers a handshake that came to
// nothing. In DSR it does not see that a backend refused one, and a SYN from the
// same port is, until then, a repetition: it keeps its backend and its mode.
const synLifetime = time.Minute

// localPorts hands out the client's local ports one after another, as a kernel
// does not: none comes again while the balancer may take its connection for an earlier one.
type localPorts struct {
	client netip.Addr

	mu   sync.Mutex
	next uint16
	// free is when a port can be used again; one that has no time is free.
	free map[uint16]time.Time
}

func newLocalPorts(client netip.Addr) *localPorts {
	return &localPorts{client: client, next: walkFirstPort, free: map[uint16]time.Time{}}
}

// take returns an address with a port that is free, false when none is.
func (p *localPorts) take() (netip.AddrPort, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range walkLastPort - walkFirstPort + 1 {
		port := p.next
		if p.next++; p.next > walkLastPort {
			p.next = walkFirstPort
		}
		if time.Now().After(p.free[port]) {
			p.free[port] = time.Now().AddDate(1, 0, 0) // until it is given back
			return netip.AddrPortFrom(p.client, port), true
		}
	}
	return netip.AddrPort{}, false
}

// giveBack frees a port, in a while. What lost an established connection is not to
// do so: the balancer, which may know nothing of the end, remembers it for hours.
func (p *localPorts) giveBack(local netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free[local.Port()] = time.Now().Add(synLifetime + time.Second)
}

// dial connects from the next port that the client can have, with dial. It says from
// which, also when that fails.
func (p *localPorts) dial(dial func(local netip.AddrPort) (net.Conn, error)) (net.Conn, netip.AddrPort, error) {
	for {
		local, ok := p.take()
		if !ok {
			return nil, local, errors.New("the walk has used up the client's ports")
		}
		conn, err := dial(local)
		if err == nil {
			return conn, local, nil
		}
		p.giveBack(local)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, local, err
		}
	}
}
