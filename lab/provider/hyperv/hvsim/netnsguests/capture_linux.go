package netnsguests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
)

// captureRing is what a capture's reader may leave unread, in bytes: such a
// capture is read after its end alone, so that nobody holds the traffic back
// for it, and the host's other work may keep its reader waiting for seconds.
const captureRing = 32 << 20

// recording is a capture at switch ports.
type recording struct {
	mu sync.Mutex
	// taps are by machine, "" for the host; a machine that restarts gets a new
	// port and so a further tap.
	taps map[string][]*tap
}

// tap is a capture at one port.
type tap struct {
	place   capture.Place
	session *capture.Session
}

// Capture implements hvsim.Guests.
func (g *Guests) Capture(_ context.Context, ids []string) (func(path func(string) string) (map[string]int64, error), error) {
	r := &recording{taps: map[string][]*tap{}}
	for _, id := range ids {
		taps, err := g.tap(id)
		if err != nil {
			_, stopErr := r.stop(nil)
			return nil, errors.Join(err, stopErr)
		}
		r.taps[id] = taps
	}
	g.mu.Lock()
	g.recordings[r] = true
	g.mu.Unlock()
	return func(path func(string) string) (map[string]int64, error) {
		g.mu.Lock()
		delete(g.recordings, r)
		g.mu.Unlock()
		return r.stop(path)
	}, nil
}

// tap starts a capture at a machine's port, or at those of the host's adapters.
func (g *Guests) tap(id string) ([]*tap, error) {
	type port struct{ place, namespace, link string }
	var ports []port
	g.mu.Lock()
	if id == "" {
		for _, s := range g.switches {
			ports = append(ports, port{"host", s.namespace, hostPort})
		}
		slices.SortFunc(ports, func(a, b port) int { return strings.Compare(a.namespace, b.namespace) })
	} else if m := g.machines[id]; m != nil {
		if s, ok := g.switches[m.machine.Switch]; ok {
			ports = append(ports, port{m.machine.Name, s.namespace, m.port()})
		}
	} else if m, ok := g.outside[id]; ok {
		if s, ok := g.switches[m.Switch]; ok {
			ports = append(ports, port{m.Name, s.namespace, portName(m.MAC)})
		}
	}
	g.mu.Unlock()
	if len(ports) == 0 {
		return nil, fmt.Errorf("capture: %q has no port on a switch", id)
	}
	var taps []*tap
	for _, p := range ports {
		session, err := g.startCapture(p.namespace, p.link)
		if err != nil {
			for _, t := range taps {
				_, _ = t.session.Stop()
			}
			return nil, fmt.Errorf("capture at the port of %s: %w", p.place, err)
		}
		taps = append(taps, &tap{capture.Place{Machine: p.place, Port: true}, session})
	}
	return taps, nil
}

func (g *Guests) startCapture(namespace, link string) (session *capture.Session, err error) {
	ns, err := g.open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		session, err = capture.Start(link, capture.Options{RingBytes: captureRing})
		return err
	})
	return session, err
}

// portIsNew has the captures of a machine go on at its new port.
func (g *Guests) portIsNew(id string) error {
	g.mu.Lock()
	var affected []*recording
	for r := range g.recordings {
		affected = append(affected, r)
	}
	g.mu.Unlock()
	for _, r := range affected {
		r.mu.Lock()
		_, wanted := r.taps[id]
		r.mu.Unlock()
		if !wanted {
			continue
		}
		taps, err := g.tap(id)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.taps[id] = append(r.taps[id], taps...)
		r.mu.Unlock()
	}
	return nil
}

// stop ends the capture and writes the files; with a nil path it writes none.
func (r *recording) stop(path func(string) string) (map[string]int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dropped := map[string]int64{}
	var errs []error
	for id, taps := range r.taps {
		var recordings []capture.Recording
		for _, t := range taps {
			result, err := t.session.Stop()
			errs = append(errs, err)
			dropped[id] += int64(result.Dropped)
			recordings = append(recordings, capture.Recording{Place: t.place, Frames: t.session.Frames(), Dropped: result.Dropped})
		}
		if path != nil {
			errs = append(errs, writeCapture(path(id), recordings))
		}
	}
	return dropped, errors.Join(errs...)
}

func writeCapture(path string, recordings []capture.Recording) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(pcapng.Write(f, recordings), f.Close())
}

// abandonRecordings ends the captures that nobody ended.
func (g *Guests) abandonRecordings() error {
	g.mu.Lock()
	var left []*recording
	for r := range g.recordings {
		left = append(left, r)
	}
	clear(g.recordings)
	g.mu.Unlock()
	var errs []error
	for _, r := range left {
		_, err := r.stop(nil)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
