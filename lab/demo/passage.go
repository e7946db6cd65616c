package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/probe/evidence"
	"l4lab/lab/role"
	"l4lab/topology"
)

// passage is one request and its reply, captured at every place.
type passage struct {
	Passage
	// client is where the connection came from, balancer where it goes on from in
	// SNAT, peer whom the backend said that it sees.
	client, balancer, peer netip.AddrPort
}

const (
	// captureTries is how often a capture that lost frames is made: a machine that
	// is too busy to record says nothing about the path.
	captureTries = 3
	// farewellLimit is how long a connection's last packets may take to be seen;
	// blindSettle is waited where nobody can watch: some retransmissions of a FIN,
	// whose first timeout is 200 ms (TCP_RTO_MIN).
	farewellLimit = 2 * time.Second
	blindSettle   = time.Second
)

// errLost says that a capture lost frames.
var errLost = errors.New("the capture lost frames")

// capturePassage makes one request to a backend, and captures it at the client's
// port of the switch, at the balancer's, at the backend's and inside the backend.
func (w *walk) capturePassage(ctx context.Context, mode topology.Mode, backend string) (p passage, err error) {
	for range captureTries {
		if p, err = w.tryPassage(ctx, mode, backend); !errors.Is(err, errLost) {
			return p, err
		}
	}
	return p, fmt.Errorf("%w, %d times in a row", err, captureTries)
}

func (w *walk) tryPassage(ctx context.Context, mode topology.Mode, backend string) (passage, error) {
	p := passage{Passage: Passage{Mode: mode, Backend: backend}}
	places := []capture.Place{
		{Machine: w.topology.Client.Name, Port: true}, {Machine: w.topology.LoadBalancer(), Port: true},
		{Machine: backend, Port: true}, {Machine: backend},
	}
	r, err := w.startRecording(ctx, places)
	if err != nil {
		return p, err
	}
	askErr := w.askOnce(ctx, &p, backend, r.sessions[0])
	recordings, err := r.stop()
	if err := errors.Join(askErr, err); err != nil {
		return p, err
	}
	if p.balancer, err = w.translated(ctx, p.client); err != nil {
		return p, err
	}
	for i, recording := range recordings {
		if recording.Dropped > 0 {
			return p, fmt.Errorf("%w: %d at %s", errLost, recording.Dropped, recording.Place)
		}
		hop := Hop{Place: recording.Place}
		for _, packet := range evidence.Decode(recording.Place, recording.Frames) {
			if p.owns(packet, w.service.Frontend(), w.address(backend)) {
				hop.Packets = append(hop.Packets, packet)
			}
		}
		recordings[i].Frames = nil
		for _, packet := range hop.Packets {
			recordings[i].Frames = append(recordings[i].Frames, packet.Frame)
		}
		p.Hops = append(p.Hops, hop)
	}
	var file bytes.Buffer
	if err := pcapng.Write(&file, recordings); err != nil {
		return p, err
	}
	p.Pcapng = file.Bytes()
	return p, nil
}

// askOnce makes the request from a port that leads to the backend, and waits until
// the client's port has seen the connection's end.
func (w *walk) askOnce(ctx context.Context, p *passage, backend string, client *capture.Session) error {
	c, _, err := w.converse(ctx, func(port uint16) bool { return w.lookup(port) == backend })
	if err != nil {
		return err
	}
	defer c.close()
	p.client = c.client
	w.far = !c.direct()
	if p.peer, err = c.peer(true); err != nil {
		return err
	}
	if c.backend != backend {
		return fmt.Errorf("%s answered, but the Maglev table has %s for port %d", c.backend, backend, c.client.Port())
	}
	c.close()
	limited, cancel := context.WithTimeout(ctx, farewellLimit)
	defer cancel()
	place := capture.Place{Machine: w.topology.Client.Name, Port: true}
	err = client.Wait(limited, func(frames []capture.Frame) bool {
		return hasEnded(evidence.Decode(place, frames), c.client, w.service.Frontend())
	})
	if errors.Is(err, capture.ErrNotLive) {
		select {
		case <-time.After(blindSettle):
		case <-ctx.Done():
		}
	}
	return nil // what has not come by then, the captures show
}

// hasEnded says that both sides' FINs were acknowledged, or one side reset.
func hasEnded(packets []evidence.Packet, client, server netip.AddrPort) bool {
	var clientFIN, serverFIN, clientAck, serverAck uint32
	for _, p := range packets {
		switch {
		case p.Source() == client && p.Dest() == server:
			clientAck = p.Transport.Ack
			if p.Transport.Has(evidence.FIN) {
				clientFIN = p.Transport.NextSeq()
			}
		case p.Source() == server && p.Dest() == client:
			serverAck = p.Transport.Ack
			if p.Transport.Has(evidence.FIN) {
				serverFIN = p.Transport.NextSeq()
			}
		default:
			continue
		}
		if p.Transport.Has(evidence.RST) {
			return true
		}
	}
	return clientFIN != 0 && serverFIN != 0 && serverAck == clientFIN && clientAck == serverFIN
}

// translated returns the balancer's address and port of a connection in SNAT, the
// zero value of one in DSR.
func (w *walk) translated(ctx context.Context, client netip.AddrPort) (netip.AddrPort, error) {
	list, err := w.agent.Connections(ctx, w.service.ID)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask the agent for its connections: %w", err)
	}
	for _, c := range list {
		if c.Source == client && c.NATPort != 0 {
			return netip.AddrPortFrom(w.topology.Nodes[w.topology.LoadBalancer()].Address, c.NATPort), nil
		}
	}
	return netip.AddrPort{}, nil
}

// owns says that a packet is the passage's: between client and VIP, in an outer
// header or not, or between balancer and backend in its place.
func (p passage) owns(packet evidence.Packet, vip, backend netip.AddrPort) bool {
	from, to := packet.Source(), packet.Dest()
	return from == p.client && to == vip || from == vip && to == p.client ||
		p.balancer.IsValid() && (from == p.balancer && to == backend || from == backend && to == p.balancer)
}

// at returns the packets of a place.
func (p passage) at(place capture.Place) []evidence.Packet {
	i := slices.IndexFunc(p.Hops, func(h Hop) bool { return h.Place == place })
	if i < 0 {
		return nil
	}
	return p.Hops[i].Packets
}

// recorder is captures at several places at once. A Hyper-V host records all its
// ports as one, so that they begin and end together.
type recorder struct {
	places   []capture.Place
	sessions []*capture.Session
}

func (w *walk) startRecording(ctx context.Context, places []capture.Place) (*recorder, error) {
	r := &recorder{places: places}
	for _, place := range places {
		session, err := w.lab.Capture(ctx, place)
		if err != nil {
			_, stopErr := r.stop()
			return nil, errors.Join(fmt.Errorf("start the capture at %s: %w", place, err), stopErr)
		}
		r.sessions = append(r.sessions, session)
	}
	return r, nil
}

func (r *recorder) stop() ([]capture.Recording, error) {
	var (
		recordings []capture.Recording
		errs       []error
	)
	for i, session := range r.sessions {
		result, err := session.Stop()
		if err != nil {
			errs = append(errs, fmt.Errorf("end the capture at %s: %w", r.places[i], err))
		}
		recordings = append(recordings, capture.Recording{Place: r.places[i], Frames: session.Frames(), Dropped: result.Dropped})
	}
	return recordings, errors.Join(errs...)
}

// shownBackend is the backend of the passages: one whose program sits at XDP where
// there is such, since its own interface shows packets without the outer header.
func (w *walk) shownBackend() string {
	for _, b := range w.service.Backends {
		if role.HookOf(w.topology.Nodes[b].OS) == role.XDP {
			return b
		}
	}
	return w.service.Backends[0]
}
