package datapath

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"l4lab/bpf"
)

// EventKind is what happened to a flow (enum event_kind).
type EventKind uint8

// The kinds of events.
const (
	// FlowNew: a first packet was forwarded.
	FlowNew EventKind = 1 + iota
	// FlowClosed: a FIN of each side that passes the balancer, or a reset.
	FlowClosed
	// FlowDropped: a packet of it was dropped.
	FlowDropped
)

func (k EventKind) String() string {
	switch k {
	case FlowNew:
		return "new"
	case FlowClosed:
		return "closed"
	case FlowDropped:
		return "dropped"
	}
	return fmt.Sprintf("event(%d)", uint8(k))
}

// Event is one message of the data path.
type Event struct {
	Kind EventKind
	// Time is one of Clock.
	Time time.Duration
	// Flow is client to VIP; of a dropped reply it is backend to balancer.
	Flow Flow
	// Reason is of a drop, "" else.
	Reason    string
	BackendID uint32
	ServiceID uint32
	// Mode is 0 where the packet was dropped before it was known.
	Mode Mode
}

// EventLoss counts events that were not sent.
type EventLoss struct {
	// Suppressed ones were beyond the rate, Lost ones found the ring full.
	Suppressed, Lost uint64
}

// EventReader reads the data path's events, which it sends while Config.EventRate
// is not 0. Each event goes to one reader.
type EventReader struct {
	ring    *ringbuf.Reader
	reasons []string
	record  ringbuf.Record
}

// ErrNoEvent: none came before the deadline.
var ErrNoEvent = errors.New("no event")

// Events opens the ring of events. The caller closes the reader.
func (m *Maps) Events() (*EventReader, error) {
	reasons, err := m.dropReasons()
	if err != nil {
		return nil, err
	}
	ring, err := ringbuf.NewReader(m.maps.Events)
	if err != nil {
		return nil, fmt.Errorf("open the map events: %w", err)
	}
	return &EventReader{ring: ring, reasons: reasons}, nil
}

// SetEventRate writes how many events a CPU may send in a second.
func (m *Maps) SetEventRate(perSecond uint32) error {
	return m.ChangeConfig(func(c *Config) { c.EventRate = perSecond })
}

// Read waits for an event, for ErrNoEvent at the deadline, or for Close, which makes
// it return os.ErrClosed.
func (r *EventReader) Read(deadline time.Time) (Event, error) {
	r.ring.SetDeadline(deadline)
	for {
		err := r.ring.ReadInto(&r.record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Event{}, ErrNoEvent
		case err != nil:
			return Event{}, fmt.Errorf("read the map events: %w", err)
		}
		if e, ok := r.decode(r.record.RawSample); ok {
			return e, nil
		}
	}
}

// Close ends a Read that waits.
func (r *EventReader) Close() error { return r.ring.Close() }

// EventLoss sums the CPUs' counts.
func (m *Maps) EventLoss() (EventLoss, error) {
	var perCPU []bpf.LBRequest
	if err := m.maps.Scratch.Lookup(uint32(0), &perCPU); err != nil {
		return EventLoss{}, fmt.Errorf("read the map scratch: %w", err)
	}
	var loss EventLoss
	for _, c := range perCPU {
		loss.Suppressed += c.Budget.Suppressed
		loss.Lost += c.Budget.Lost
	}
	return loss, nil
}
