package path

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/agent/health"
)

// Prober makes checks through the VIP. It is a health.Prober.
type Prober struct {
	nextHop func(netip.Addr) (net.HardwareAddr, error)
	tap     *tap
	sides   []*side
	closed  chan struct{}
	// deaf is closed when answers cannot be read any more, for which fault is the reason.
	deaf     chan struct{}
	fault    error
	probes   sync.RWMutex // held for reading by each probe
	reading  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// side is what a Prober has of one family.
type side struct {
	own   netip.Addr
	raw   int // sends packets with their IP header, by the kernel's routes
	held  map[uint16]int
	ports map[uint16]*port
	// free are the ports that no probe has, the one that rested longest first.
	free chan *port
}

// Open makes a prober for an interface of the calling thread's network
// namespace. It takes its sockets and ports here, so that Probe may run on any thread.
func Open(o Options) (*Prober, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	p := &Prober{nextHop: o.NextHop, closed: make(chan struct{}), deaf: make(chan struct{})}
	if p.tap, err = openTap(o.Interface, o.FirstPort, o.LastPort); err != nil {
		return nil, err
	}
	for _, own := range o.Addresses {
		s, err := openSide(own, o)
		if err != nil {
			return nil, errors.Join(err, p.tap.close(), p.closeSides())
		}
		p.sides = append(p.sides, s)
	}
	p.reading.Go(func() {
		p.fault = p.tap.read(p.deliver)
		close(p.deaf)
	})
	return p, nil
}

func openSide(own netip.Addr, o Options) (*side, error) {
	family := unix.AF_INET
	if own.Is6() {
		family = unix.AF_INET6
	}
	// IPPROTO_RAW: what is sent has its IP header, in either family (raw(7), ipv6(7)).
	raw, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EPERM) {
		return nil, ErrPermission
	}
	if err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	// The data path sends through this interface and no other.
	if err := unix.BindToDevice(raw, o.Interface); err != nil {
		_ = unix.Close(raw)
		return nil, fmt.Errorf("raw socket on %s: %w", o.Interface, err)
	}
	s := &side{own: own, raw: raw, ports: make(map[uint16]*port), free: make(chan *port, o.Concurrency)}
	if s.held, err = holdSome(own, o.FirstPort, o.LastPort, o.Concurrency); err != nil {
		_ = unix.Close(raw)
		return nil, err
	}
	for number := range s.held {
		port := &port{address: netip.AddrPortFrom(own, number)}
		s.ports[number] = port
		s.free <- port
	}
	return s, nil
}

// Close waits for the probes that run, which end at once, and gives everything back.
func (p *Prober) Close() error {
	p.closing.Do(func() {
		close(p.closed)
		p.probes.Lock() // for ever: no probe begins any more
		err := p.tap.close()
		p.reading.Wait()
		p.closeErr = errors.Join(err, p.closeSides())
	})
	return p.closeErr
}

func (p *Prober) closeSides() error {
	var faults []error
	for _, s := range p.sides {
		release(s.held)
		faults = append(faults, unix.Close(s.raw))
	}
	return errors.Join(faults...)
}

// Probe checks one backend.
func (p *Prober) Probe(ctx context.Context, t health.Target) error {
	if !p.probes.TryRLock() {
		return fmt.Errorf("%s: %w", describe(t), inconclusive(ErrClosed))
	}
	defer p.probes.RUnlock()
	if err := p.probe(ctx, t); err != nil {
		if fault := p.tap.usable(); fault != nil {
			err = inconclusive(fault) // whatever came of it, it is not the backend's doing
		}
		return fmt.Errorf("%s: %w", describe(t), err)
	}
	return nil
}

func (p *Prober) probe(ctx context.Context, t health.Target) error {
	s := p.side(t.VIP.Addr())
	if s == nil || t.Backend.Addr().Is4() != t.VIP.Addr().Is4() {
		return inconclusive(errors.New("the balancer has no address of this family here"))
	}
	begin := time.Now()
	var own *port
	select {
	case own = <-s.free:
	case <-ctx.Done():
		return inconclusive(errors.New("no source port became free"))
	case <-p.closed:
		return inconclusive(ErrClosed)
	}
	defer func() { s.free <- own }()
	send, err := p.way(s, t)
	if err != nil {
		return err
	}
	c := newConn(t, own.address, rand.Uint32())
	segments := own.begin(c, send)
	defer own.end()
	return p.converse(ctx, c, send, segments, begin)
}

// converse sends and receives until there is a verdict.
func (p *Prober) converse(ctx context.Context, c *conn, send sender, segments <-chan segment, begin time.Time) error {
	if err := send(c.open()); err != nil {
		return err
	}
	wait := firstWait(ctx, begin)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-p.closed:
			_ = send(c.abort())
			return inconclusive(ErrClosed)
		case <-p.deaf: // silence is not the backend's then
			return inconclusive(p.fault)
		case <-ctx.Done():
			_ = send(c.abort())
			return c.silence(time.Since(begin).Round(time.Millisecond))
		case <-timer.C:
			if s, ok := c.again(); ok {
				if err := send(s); err != nil {
					return err
				}
			}
			wait *= 2
			timer.Reset(wait)
		case s := <-segments:
			reply, done, verdict := c.receive(s)
			for _, r := range reply {
				if err := send(r); err != nil {
					return err
				}
			}
			if done {
				_ = send(c.abort())
				return verdict
			}
		}
	}
}

// firstWait is how long the first SYN may go unanswered. RFC 6298's second is
// as long as a whole check, so it is a quarter of the time that there is.
func firstWait(ctx context.Context, now time.Time) time.Duration {
	const shortest, longest = 20 * time.Millisecond, time.Second
	deadline, ok := ctx.Deadline()
	if !ok {
		return longest
	}
	return min(longest, max(shortest, deadline.Sub(now)/4))
}

func (p *Prober) side(a netip.Addr) *side {
	for _, s := range p.sides {
		if s.own.Is4() == a.Is4() {
			return s
		}
	}
	return nil
}

// deliver gives a segment to the port that it is for.
func (p *Prober) deliver(s segment) {
	side := p.side(s.to.Addr())
	if side == nil || side.own != s.to.Addr() {
		return
	}
	if port := side.ports[s.to.Port()]; port != nil {
		port.deliver(s)
	}
}

// sender sends a segment the way that a target is reached.
type sender func(segment) error

// way finds out how a target is reached.
func (p *Prober) way(s *side, t health.Target) (sender, error) {
	if t.Encap == "l2" {
		if p.nextHop == nil {
			return nil, inconclusive(errors.New("there is nobody to ask for MACs"))
		}
		mac, err := p.nextHop(t.Backend.Addr())
		if err != nil {
			return nil, err
		}
		return func(s segment) error {
			return judgeSend(p.tap.send(s.marshal(), mac, s.to.Addr()))
		}, nil
	}
	source, err := outerSource(t, s.own, rand.Uint32())
	if err != nil {
		return nil, inconclusive(err)
	}
	dest := t.Backend.Addr()
	return func(seg segment) error {
		packet := encapsulate(source, dest, seg.marshal())
		// The port of a raw socket's address is the protocol, or 0.
		return judgeSend(unix.Sendto(s.raw, packet, 0, socketAddress(netip.AddrPortFrom(dest, 0))))
	}, nil
}

// judgeSend lets full queues be losses, which are sent again, and tells this
// machine's faults from a backend that is out of reach.
func judgeSend(err error) error {
	switch {
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
		return nil
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH): // no route
		return fmt.Errorf("send: %w", err)
	}
	return inconclusive(fmt.Errorf("send: %w", err))
}
