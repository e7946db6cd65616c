// Package neighbour keeps the data path's next hops right. The program cannot
// ask the kernel which MAC a backend's packets go to (Windows has no
// bpf_fib_lookup), so a Tracker follows the system's routes and neighbour table,
// makes the system resolve what it does not know, and writes the MACs to the maps.
// IPv4's ARP and IPv6's neighbour discovery are one table to it.
//
// A next hop that fails leaves the maps, and its packets are counted drops until
// it answers again. While the system only asks, the MAC that was right stays: of a
// next hop whose MAC changes in silence, packets go to the old one until the system
// has noticed, which the probes see to within probeEvery and its own timeouts.
package neighbour

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Table is where the MACs are written: datapath.Maps, or a fake.
type Table interface {
	Neighbours() (map[netip.Addr]datapath.MAC, error)
	PutNeighbour(backend netip.Addr, mac datapath.MAC) error
	DeleteNeighbour(backend netip.Addr) error
}

// System is the operating system's routes and neighbours on one interface.
type System interface {
	// NextHop returns the gateway towards a backend, or the backend itself
	// on its own link. It is an error when packets to it do not leave through the interface.
	NextHop(backend netip.Addr) (netip.Addr, error)
	// Entries returns the neighbour table.
	Entries() (map[netip.Addr]Entry, error)
	// Resolve makes the system ask for a MAC that it does not have or is
	// not sure of. It does not wait.
	Resolve(nextHop netip.Addr) error
	// Forget removes an entry that the system learned, so that Resolve asks anew.
	Forget(nextHop netip.Addr) error
	// Watch calls entry for each change, and resync when anything may have
	// changed, once at its begin too, until ctx ends. It calls them from any
	// goroutine, but not after it has returned.
	Watch(ctx context.Context, entry func(nextHop netip.Addr, e Entry), resync func()) error
}

// Entry is what the system knows of a next hop.
type Entry struct {
	State State
	MAC   datapath.MAC
}

// State is how far the system's knowledge reaches.
type State int

// The states, in which several of the systems' own fall together.
const (
	// Unknown: no entry, or not resolved yet.
	Unknown State = iota
	// Valid: the MAC may be used (NUD_PERMANENT, NOARP, REACHABLE, STALE, DELAY, PROBE).
	Valid
	// Failed: nobody answered.
	Failed
)

// Times of the tracker.
const (
	// patience is how long Want waits for new next hops.
	patience = 300 * time.Millisecond
	// refreshPatience is how long Refresh waits: Linux gives up after three
	// requests, one a second (mcast_solicit, retrans_time_ms).
	refreshPatience = 4 * time.Second
	// tickEvery is how often retries and probes are looked after.
	tickEvery = time.Second
	// probeEvery is how often the system is made to ask a next hop that it
	// knows: Linux asks only when it sends itself, and XDP sends past it.
	probeEvery = 20 * time.Second
	// maxBackoff bounds the pause between two tries of one that does not answer: as
	// long may a backend that came back be without packets. A try is three requests.
	maxBackoff = 5 * time.Second
)

// Tracker follows the next hops of the backends. Its methods may be called concurrently.
type Tracker struct {
	system System
	table  Table
	log    *slog.Logger

	mu   sync.Mutex
	hops map[netip.Addr]*hop // by backend
	// held are an earlier agent's MACs of backends that nobody has wanted yet.
	held map[netip.Addr]datapath.MAC
	// changed is closed and replaced when a hop got or lost its MAC.
	changed chan struct{}
}

// hop is the next hop of one backend.
type hop struct {
	next netip.Addr // invalid while there is no route
	mac  datapath.MAC
	// failures in a row, and when to try again or to probe.
	failures int
	due      time.Time
}

func (h *hop) resolved() bool { return h.mac != datapath.MAC{} }

// New returns a tracker that keeps what the table holds from an earlier agent: its
// flows may need it.
func New(system System, table Table, log *slog.Logger) (*Tracker, error) {
	held, err := table.Neighbours()
	if err != nil {
		return nil, err
	}
	return &Tracker{
		system: system, table: table, log: log, held: held,
		hops:    make(map[netip.Addr]*hop, len(held)),
		changed: make(chan struct{}),
	}, nil
}

// Run follows the system until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var ticking sync.WaitGroup
	defer ticking.Wait() // what uses the table ends with Run
	defer cancel()
	ticking.Go(func() {
		ticker := time.NewTicker(tickEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				t.tick(now)
			}
		}
	})
	return t.system.Watch(ctx, t.observe, t.resync)
}

// Want says that there are these backends, besides those that were wanted
// before. New ones are resolved, for which it waits a moment.
func (t *Tracker) Want(ctx context.Context, backends []netip.Addr) error {
	added, err := t.add(backends)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t.wait(ctx, func() bool {
		return !slices.ContainsFunc(added, func(b netip.Addr) bool {
			h := t.hops[b]
			return h != nil && h.next.IsValid() && !h.resolved()
		})
	})
	return nil
}

func (t *Tracker) add(backends []netip.Addr) (added []netip.Addr, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range backends {
		if t.hops[b] == nil {
			t.hops[b] = &hop{mac: t.held[b]}
			delete(t.held, b)
			added = append(added, b)
		}
	}
	if len(added) == 0 {
		return nil, nil
	}
	return added, t.refreshLocked(added, time.Now())
}

// Drop says that a backend is not there any more, and nothing is sent to it.
func (t *Tracker) Drop(backend netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.hops, backend)
	delete(t.held, backend)
	return t.table.DeleteNeighbour(backend)
}

// List returns the backends and their next hops, ordered by address.
func (t *Tracker) List() []api.Neighbour {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]api.Neighbour, 0, len(t.hops))
	for _, b := range slices.SortedFunc(maps.Keys(t.hops), netip.Addr.Compare) {
		list = append(list, t.hops[b].describe(b))
	}
	return list
}

// MAC returns that of a backend's next hop, or says why there is none.
func (t *Tracker) MAC(backend netip.Addr) (datapath.MAC, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hops[backend]
	switch {
	case h == nil:
		return datapath.MAC{}, fmt.Errorf("%s is no backend", backend)
	case !h.resolved():
		return datapath.MAC{}, fmt.Errorf("the next hop towards %s does not answer", backend)
	}
	return h.mac, nil
}

// Refresh asks for a backend's next hop and its MAC anew and returns what was
// found; its MAC is "" when nobody answered.
func (t *Tracker) Refresh(ctx context.Context, backend netip.Addr) (api.Neighbour, error) {
	t.mu.Lock()
	h := t.hops[backend]
	if h == nil {
		t.mu.Unlock()
		return api.Neighbour{}, &api.Error{Field: "address", Message: fmt.Sprintf("%s is no backend", backend), Code: http.StatusNotFound}
	}
	if !t.locateLocked(backend, h) {
		_, err := t.system.NextHop(backend)
		t.mu.Unlock()
		return api.Neighbour{}, fmt.Errorf("%s has no next hop: %w", backend, err)
	}
	next := h.next
	// The old MAC stays in use until the system has found another, or that there is none.
	if err := t.system.Forget(next); err != nil {
		t.mu.Unlock()
		return api.Neighbour{}, err
	}
	t.askLocked(backend, h)
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, refreshPatience)
	defer cancel()
	var entryErr error
	answered := false
	t.wait(ctx, func() bool {
		var entries map[netip.Addr]Entry
		entries, entryErr = t.system.Entries()
		answered = entries[next].State != Unknown
		return entryErr != nil || answered
	})
	if entryErr != nil {
		return api.Neighbour{}, entryErr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hops[backend] == nil {
		return api.Neighbour{}, &api.Error{Field: "address", Message: fmt.Sprintf("%s was removed meanwhile", backend), Code: http.StatusNotFound}
	}
	if err := t.refreshLocked([]netip.Addr{backend}, time.Now()); err != nil {
		return api.Neighbour{}, err
	}
	n := t.hops[backend].describe(backend)
	if !answered {
		n.MAC = "" // the map may still have the old one, which nobody has confirmed
	}
	return n, nil
}

func (h *hop) describe(backend netip.Addr) api.Neighbour {
	n := api.Neighbour{Address: backend, NextHop: h.next}
	if h.resolved() {
		n.MAC = h.mac.String()
	}
	return n
}

// wait returns when done, asked with the lock held, says so, or ctx ends.
func (t *Tracker) wait(ctx context.Context, done func() bool) {
	for {
		t.mu.Lock()
		changed := t.changed
		ready := done()
		t.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
