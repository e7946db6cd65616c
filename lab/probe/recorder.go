package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// recorder is the captures of a pass.
type recorder struct {
	places   []capture.Place
	sessions map[capture.Place]Session
}

// record starts a capture at every place needed: the client's and the
// balancer's ports, the balancer's own interface, and both places of backends.
func (p *pass) record(ctx context.Context, e *Evidence) (*recorder, error) {
	balancer := p.topology.LoadBalancer()
	r := &recorder{
		sessions: map[capture.Place]Session{},
		places:   []capture.Place{placeOf(p.topology.Client.Name), placeOf(balancer), {Machine: balancer}},
	}
	for i, name := range p.service.Backends {
		both := []capture.Place{placeOf(name), {Machine: name}}
		if i < p.options.MaxCapturedBackends {
			r.places = append(r.places, both...)
		} else {
			e.Uncaptured = append(e.Uncaptured, both...)
		}
	}
	for _, place := range r.places {
		session, err := p.lab.Capture(ctx, place)
		if err != nil {
			err = fmt.Errorf("start the capture at %s: %w", place, err)
			for _, s := range r.sessions {
				_, stopErr := s.Stop()
				err = errors.Join(err, stopErr)
			}
			return nil, err
		}
		r.sessions[place] = session
	}
	return r, nil
}

// stop ends all captures and puts what they recorded into the evidence.
func (r *recorder) stop(e *Evidence) error {
	var errs []error
	for _, place := range r.places {
		session := r.sessions[place]
		result, err := session.Stop()
		if err != nil {
			errs = append(errs, fmt.Errorf("end the capture at %s: %w", place, err))
		}
		e.Recordings = append(e.Recordings, capture.Recording{Place: place, Frames: session.Frames(), Dropped: result.Dropped})
	}
	return errors.Join(errs...)
}

// settleTimeout is how long connections may take to be seen closed.
const settleTimeout = 3 * time.Second

// blindSettle is how long the last packets may take where nobody can watch
// them: a few retransmissions of a FIN (RFC 6298 has 200 ms and more as the first
// timeout, as implemented).
const blindSettle = time.Second

func settleBlind(ctx context.Context) {
	select {
	case <-time.After(blindSettle):
	case <-ctx.Done():
	}
}

// settle waits until the client's port has seen the end of every TCP
// connection: the last packet of each, the acknowledgement of the client's FIN,
// comes to the client, so that all others have passed their places before. A
// connection that does not end in time is no error here: the captures show it.
func (p *pass) settle(ctx context.Context, r *recorder, e *Evidence) {
	if p.service.Protocol != topology.TCP {
		return // each datagram was waited for
	}
	place := placeOf(p.topology.Client.Name)
	open := map[flow]*farewell{}
	expect := func(x Exchange) {
		key := flow{x.Client, p.service.Frontend(), evidence.ProtocolTCP}
		if open[key] == nil {
			open[key] = &farewell{}
		}
		open[key].expected++
	}
	for _, x := range e.Exchanges {
		if x.Err == nil {
			expect(x)
		}
	}
	for _, x := range e.Transfers {
		if x.Err == nil {
			expect(Exchange{Client: x.Client})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	read := 0
	err := r.sessions[place].Wait(ctx, func(frames []capture.Frame) bool {
		for _, packet := range evidence.Decode(place, frames[read:]) {
			if f := open[flow{packet.Source(), packet.Dest(), packet.Transport.Protocol}]; f != nil {
				f.fromClient(packet.Transport)
			}
			if f := open[flow{packet.Dest(), packet.Source(), packet.Transport.Protocol}]; f != nil {
				f.fromServer(packet.Transport)
			}
		}
		read = len(frames)
		for _, f := range open {
			if f.ended < f.expected {
				return false
			}
		}
		return true
	})
	if errors.Is(err, capture.ErrNotLive) {
		settleBlind(ctx)
		return
	}
	if err != nil {
		p.say("service %d, mode %s: some connections were not seen to end: %v", p.service.ID, p.mode, err)
	}
}

// farewell follows a 5-tuple's connections to their ends.
type farewell struct {
	expected, ended int

	serverFIN, clientFIN bool
	afterFIN             uint32 // what acknowledges the client's FIN
}

func (f *farewell) fromClient(t evidence.Transport) {
	switch {
	case t.Has(evidence.SYN):
		f.serverFIN, f.clientFIN = false, false
	case t.Has(evidence.RST):
		f.end()
	case t.Has(evidence.FIN):
		f.clientFIN, f.afterFIN = true, t.NextSeq()
	}
}

func (f *farewell) fromServer(t evidence.Transport) {
	if t.Has(evidence.RST) {
		f.end()
		return
	}
	f.serverFIN = f.serverFIN || t.Has(evidence.FIN)
	if f.serverFIN && f.clientFIN && t.Has(evidence.ACK) && t.Ack == f.afterFIN {
		f.end()
	}
}

func (f *farewell) end() {
	f.ended++
	f.serverFIN, f.clientFIN = false, false
}
