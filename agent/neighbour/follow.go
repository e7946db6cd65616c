package neighbour

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/datapath"
)

// observe takes one change of the system's table.
func (t *Tracker) observe(nextHop netip.Addr, e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for b, h := range t.hops {
		if h.next == nextHop {
			t.applyLocked(b, h, e)
		}
	}
	t.announceLocked()
}

// resync reads routes and neighbours anew.
func (t *Tracker) resync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refreshLocked(slices.Collect(maps.Keys(t.hops)), time.Now()); err != nil {
		t.log.Error("could not read the neighbours; trying again", "error", err, "in", tickEvery)
		for _, h := range t.hops {
			h.due = time.Now().Add(tickEvery)
		}
	}
}

// refreshLocked finds the next hops of some backends and applies what the
// system knows of them; what it does not know it is asked for.
func (t *Tracker) refreshLocked(backends []netip.Addr, now time.Time) error {
	entries, err := t.system.Entries()
	if err != nil {
		return err
	}
	for _, b := range backends {
		h := t.hops[b]
		if !t.locateLocked(b, h) {
			continue
		}
		e := entries[h.next]
		t.applyLocked(b, h, e)
		if e.State != Valid && !h.resolved() && !h.due.After(now) {
			t.askLocked(b, h)
		}
	}
	t.announceLocked()
	return nil
}

// locateLocked finds the next hop; without one, a backend has no MAC.
func (t *Tracker) locateLocked(backend netip.Addr, h *hop) bool {
	next, err := t.system.NextHop(backend)
	if err == nil {
		h.next = next
		return true
	}
	if h.next.IsValid() || h.failures == 0 {
		t.log.Warn("no next hop", "backend", backend, "error", err)
	}
	h.next = netip.Addr{}
	t.loseLocked(backend, h)
	t.backOff(h)
	return false
}

// applyLocked makes the map say what the system says of a hop.
func (t *Tracker) applyLocked(backend netip.Addr, h *hop, e Entry) {
	soon := time.Now().Add(tickEvery)
	switch e.State {
	case Valid:
		if e.MAC != h.mac {
			if err := t.table.PutNeighbour(backend, e.MAC); err != nil {
				t.log.Error("could not write a neighbour", "backend", backend, "error", err)
				h.due = soon
				return
			}
			t.log.Info("next hop", "backend", backend, "via", h.next, "mac", e.MAC.String(), "new", !h.resolved())
			h.mac = e.MAC
			h.due = time.Now().Add(probeEvery)
		}
		h.failures = 0
	case Failed:
		if h.resolved() {
			t.log.Warn("next hop does not answer", "backend", backend, "via", h.next)
			t.loseLocked(backend, h)
			h.due = soon
		}
	case Unknown:
		// A MAC that was right stays until the system says that nobody
		// answers: that it dropped an entry, or is asking, says nothing.
		if h.resolved() && h.due.After(soon) {
			h.due = soon
		}
	}
}

// loseLocked takes a hop's MAC out of the map.
func (t *Tracker) loseLocked(backend netip.Addr, h *hop) {
	if !h.resolved() {
		return
	}
	if err := t.table.DeleteNeighbour(backend); err != nil {
		t.log.Error("could not remove a neighbour", "backend", backend, "error", err)
		return
	}
	h.mac = datapath.MAC{}
}

// askLocked makes the system resolve a hop, and plans the next time.
func (t *Tracker) askLocked(backend netip.Addr, h *hop) {
	if err := t.system.Resolve(h.next); err != nil {
		t.log.Warn("could not ask for a next hop", "backend", backend, "via", h.next, "error", err)
	}
	if h.resolved() {
		h.due = time.Now().Add(probeEvery)
		return
	}
	t.backOff(h)
}

// backOff plans the next try: after 1, 2, 4, … seconds.
func (t *Tracker) backOff(h *hop) {
	h.due = time.Now().Add(min(tickEvery<<min(h.failures, 10), maxBackoff))
	h.failures++
}

// tick tries again what failed, and probes what is known.
func (t *Tracker) tick(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var unresolved []netip.Addr
	for b, h := range t.hops {
		switch {
		case h.due.After(now):
		case h.resolved() && h.next.IsValid():
			t.askLocked(b, h)
		default:
			unresolved = append(unresolved, b)
		}
	}
	if len(unresolved) == 0 {
		return
	}
	if err := t.refreshLocked(unresolved, now); err != nil {
		t.log.Error("could not read the neighbours", "error", err)
	}
}

func (t *Tracker) announceLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}
