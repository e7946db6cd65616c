package probe

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"time"

	"l4lab/lab/capture"
	"l4lab/topology"
)

const (
	// paceBytes is how much of a transfer passes between two looks at the
	// captures, paceSlack how much of it may still wait in sockets: together
	// well below what a capture's ring holds.
	paceBytes = 512 << 10
	paceSlack = 512 << 10
	// paceTimeout ends the pacing: a capture that lost frames never catches up.
	paceTimeout = 2 * time.Second
)

// pacer holds a transfer back until the captures on its path have recorded
// what passed so far. A capture is not lossless by itself: when its reader gets
// no time, the kernel's ring overflows, and the proof would be worth nothing.
type pacer struct {
	ctx    context.Context
	places []*pacedPlace
	passed int64
	next   int64
	gaveUp func(error)
}

type pacedPlace struct {
	session Session
	read    int   // frames looked at
	bytes   int64 // in them, since the transfer began
}

// pace returns a pacer for a client's transfer. A DSR download passes the
// balancer as acknowledgements only, which are too small to matter.
func (p *pass) pace(ctx context.Context, plan plan, r *recorder, client netip.AddrPort, upload bool) *pacer {
	backend, _ := p.topology.MachineAt(plan.lookup(client).Addr())
	places := []capture.Place{placeOf(p.topology.Client.Name), placeOf(backend), {Machine: backend}}
	if upload || p.mode == topology.SNAT {
		places = append(places, placeOf(p.topology.LoadBalancer()))
	}
	paced := &pacer{ctx: ctx, next: paceBytes, gaveUp: func(err error) {
		p.say("service %d, mode %s: the captures do not keep up with a transfer: %v", p.service.ID, p.mode, err)
	}}
	for _, place := range places {
		if session, ok := r.sessions[place]; ok {
			paced.places = append(paced.places, &pacedPlace{session: session, read: len(session.Frames())})
		}
	}
	return paced
}

// reader returns r, paced by what is read from it.
func (p *pacer) reader(r io.Reader) io.Reader { return &pacedReader{r, p} }

type pacedReader struct {
	io.Reader
	pacer *pacer
}

func (r *pacedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.pacer.pass(n)
	return n, err
}

func (p *pacer) pass(n int) {
	if p.passed += int64(n); p.passed < p.next {
		return
	}
	p.next = p.passed + paceBytes
	ctx, cancel := context.WithTimeout(p.ctx, paceTimeout)
	defer cancel()
	for _, place := range slices.Clone(p.places) {
		err := place.session.Wait(ctx, func(frames []capture.Frame) bool {
			for _, f := range frames[place.read:] {
				place.bytes += int64(f.Length)
			}
			place.read = len(frames)
			return place.bytes >= p.passed-paceSlack
		})
		if errors.Is(err, capture.ErrNotLive) {
			// It writes to a file and is not held up by a reader: nothing to pace.
			p.places = slices.DeleteFunc(p.places, func(other *pacedPlace) bool { return other == place })
			continue
		}
		if err != nil {
			p.places = nil
			p.gaveUp(err)
			return
		}
	}
}
