// Package events brings the data path's flow events to whoever listens. A Hub
// reads the ring once and hands each event to every subscriber that it fits. While nobody
// listens the data path sends none, which is one comparison of its time a packet.
//
// Nobody waits for a slow subscriber: what does not fit into its buffer is counted
// as missed by it.
package events

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"l4lab/agent/datapath"
)

// Source is where events come from: datapath.Maps, or a fake.
type Source interface {
	// Open begins to read; what was sent before may come too.
	Open() (Reader, error)
	SetEventRate(perSecond uint32) error
	EventLoss() (datapath.EventLoss, error)
}

// Reader is datapath.EventReader, or a fake's.
type Reader interface {
	Read(deadline time.Time) (datapath.Event, error)
	Close() error
}

// Maps makes a Source of the data path's maps.
type Maps struct{ *datapath.Maps }

// Open opens the ring.
func (m Maps) Open() (Reader, error) {
	r, err := m.Events()
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ErrClosed: the hub ended.
var ErrClosed = errors.New("the agent is ending")

// buffered is how many events a subscriber may be behind.
const buffered = 4096

// Hub hands events out. Its methods may be called concurrently.
type Hub struct {
	source Source
	clock  func() time.Duration
	log    *slog.Logger

	// changing is held while reading begins or ends, which takes a moment.
	changing sync.Mutex
	reader   Reader
	reading  sync.WaitGroup
	rate     uint32
	closed   bool

	mu          sync.Mutex // of broken, subscribers, what they missed, and sending to them
	subscribers map[*Subscription]bool
	// broken: what is open cannot be read any more.
	broken error
}

// New returns a hub; clock is datapath.Clock but in tests.
func New(source Source, clock func() time.Duration, log *slog.Logger) *Hub {
	return &Hub{source: source, clock: clock, log: log, subscribers: make(map[*Subscription]bool)}
}

// Subscription is one listener.
type Subscription struct {
	// C gets the events, and is closed when the hub ends or cannot read any more.
	C <-chan datapath.Event

	hub    *Hub
	send   chan datapath.Event
	wanted func(datapath.Event) bool
	rate   uint32
	// since is when it came: older events are of before.
	since  time.Duration
	before datapath.EventLoss
	missed uint64
	// broken is why nothing can be read for it any more.
	broken error
}

// Subscribe has the events that wanted takes sent to a new listener, of rate a CPU and
// second at least. The first one switches the data path's events on.
func (h *Hub) Subscribe(rate uint32, wanted func(datapath.Event) bool) (*Subscription, error) {
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	before, err := h.source.EventLoss()
	if err != nil {
		return nil, err
	}
	c := make(chan datapath.Event, buffered)
	s := &Subscription{C: c, hub: h, send: c, wanted: wanted, rate: rate, since: h.clock(), before: before}
	reading := h.reader != nil
	if !reading {
		if h.reader, err = h.source.Open(); err != nil {
			h.reader = nil
			return nil, err
		}
	}
	h.mu.Lock()
	err = h.broken
	if err == nil {
		h.subscribers[s] = true
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !reading { // not before there is a subscriber, with whom a reader that breaks goes
		reader := h.reader
		h.reading.Go(func() { h.read(reader) })
	}
	if err := h.adjust(); err != nil {
		return nil, errors.Join(err, h.remove(s))
	}
	return s, nil
}

// Close ends the subscription; the last one's switches the events off.
func (s *Subscription) Close() error {
	s.hub.changing.Lock()
	defer s.hub.changing.Unlock()
	return s.hub.remove(s)
}

// Err is why C was closed: the reader's error, or nil where the hub or the subscription ended.
func (s *Subscription) Err() error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.broken
}

// Loss is what this listener does not get, since it came.
func (s *Subscription) Loss() (suppressed, lost, missed uint64, err error) {
	s.hub.changing.Lock()
	defer s.hub.changing.Unlock()
	if s.hub.closed { // and the maps perhaps
		return 0, 0, 0, ErrClosed
	}
	now, err := s.hub.source.EventLoss()
	if err != nil {
		return 0, 0, 0, err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return now.Suppressed - s.before.Suppressed, now.Lost - s.before.Lost, s.missed, nil
}

// Close ends every subscription and returns once nothing is read any more.
func (h *Hub) Close() error {
	h.changing.Lock()
	defer h.changing.Unlock()
	h.closed = true
	var faults []error
	for _, s := range h.all() {
		faults = append(faults, h.remove(s))
	}
	return errors.Join(faults...)
}

// remove is for who holds changing.
func (h *Hub) remove(s *Subscription) error {
	h.mu.Lock()
	if !h.subscribers[s] {
		h.mu.Unlock()
		return nil
	}
	delete(h.subscribers, s)
	close(s.send)
	left := len(h.subscribers)
	h.mu.Unlock()
	err := h.adjust()
	if left > 0 || h.reader == nil {
		return err
	}
	err = errors.Join(err, h.reader.Close())
	h.reading.Wait()
	h.reader, h.broken = nil, nil // broken is the reader's, which has ended
	return err
}

// adjust makes the data path's rate the highest that is asked for.
func (h *Hub) adjust() error {
	var rate uint32
	for _, s := range h.all() {
		rate = max(rate, s.rate)
	}
	if rate == h.rate {
		return nil
	}
	if err := h.source.SetEventRate(rate); err != nil {
		return fmt.Errorf("set the rate of the flow events to %d: %w", rate, err)
	}
	h.rate = rate
	return nil
}

func (h *Hub) all() []*Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Subscription, 0, len(h.subscribers))
	for s := range h.subscribers {
		all = append(all, s)
	}
	return all
}

// read hands events out until the reader is closed.
func (h *Hub) read(reader Reader) {
	for {
		e, err := reader.Read(time.Time{})
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				h.log.Error("flow events cannot be read any more", "error", err)
				h.endAll(err)
			}
			return
		}
		h.hand(e)
	}
}

// endAll tells the subscribers that nothing comes any more. They stay until they
// close themselves, since who reads cannot wait for the reader's end.
func (h *Hub) endAll(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = err
	for s := range h.subscribers {
		s.broken = err
		close(s.send)
		s.send = make(chan datapath.Event) // for remove to close
	}
}

func (h *Hub) hand(e datapath.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscribers {
		if e.Time < s.since || !s.wanted(e) {
			continue
		}
		select {
		case s.send <- e:
		default:
			s.missed++
		}
	}
}
