package service

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// quietSweeps is in how many sweeps in a row nothing must have been found of a
// backend's flows until they are over. One does not do: it may have begun before the
// backend left the table, and have passed by a flow that came then.
const quietSweeps = 2

// leaver is a backend that goes once it has no flows.
type leaver struct {
	service uint32
	address netip.AddrPort
}

// noteLeaving keeps m.leaving as a service's backends are.
func (m *Manager) noteLeaving(id uint32) {
	p := m.actual[id]
	for address, member := range p.members {
		delete(m.leaving, member.id)
		if member.entry.State == datapath.Draining {
			m.leaving[member.id] = leaver{id, address}
		}
	}
}

// Swept is told after each sweep of the connections how many were found of each
// backend id. Backends of which there are none any more leave: out of the maps, and
// those that drain out of their service.
func (m *Manager) Swept(ctx context.Context, flows map[uint32]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backendIDs.release(flows)
	for _, id := range slices.Sorted(maps.Keys(m.undeleted)) {
		m.deleteBackend(id)
	}
	over := make(map[uint32][]netip.AddrPort)
	for id, l := range m.leaving {
		member := m.actual[l.service].members[l.address]
		if flows[id] > 0 {
			member.quiet = 0
		} else if member.quiet++; member.quiet >= quietSweeps {
			over[l.service] = append(over[l.service], l.address)
		}
	}
	m.leave(ctx, over, "its last connection has ended")
}

// leave takes backends out of their services, and out of the maps those that
// had left already. What fails is tried again after the next sweep.
func (m *Manager) leave(ctx context.Context, over map[uint32][]netip.AddrPort, why string) (failed bool) {
	for _, id := range slices.Sorted(maps.Keys(over)) {
		s := m.desired.services[id]
		left := slices.DeleteFunc(slices.Clone(s.Backends), func(b api.Backend) bool { return slices.Contains(over[id], b.Address) })
		var err error
		if len(left) < len(s.Backends) {
			for _, b := range over[id] {
				m.log.Info("a drained backend leaves its service", "service", id, "backend", b, "reason", why)
			}
			s.Backends = left
			s.Revision++
			err = m.change(ctx, m.desired.mode, edit{id, &s})
		} else if err = m.converge(ctx, []uint32{id}); err == nil {
			err = m.saveNumbers()
		}
		if err != nil {
			failed = true
			m.log.Error("could not remove backends that have no connections", "service", id, "backends", over[id], "error", err)
		}
	}
	return failed
}

const (
	// retryAfter is the pause after a deadline that could not be kept.
	retryAfter = time.Second
	// lookAgain bounds the pause until a deadline: it is a time of day, and somebody may set the clock meanwhile.
	lookAgain = time.Minute
)

// Run ends the draining of backends at their deadlines, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-timer.C:
		}
		next, failed := m.endDrains(ctx, time.Now())
		if pause := pauseUntil(next, failed, time.Now()); pause >= 0 {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
	}
}

// pauseUntil is how long Run waits, negative for until it is woken.
func pauseUntil(next time.Time, failed bool, now time.Time) time.Duration {
	switch {
	case failed:
		return retryAfter
	case next.IsZero():
		return -1
	}
	return min(lookAgain, max(0, next.Sub(now)))
}

// endDrains cuts what is left of backends whose deadline has come, and returns
// the next deadline.
func (m *Manager) endDrains(ctx context.Context, now time.Time) (next time.Time, failed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	over := make(map[uint32][]netip.AddrPort)
	for _, l := range m.leaving {
		until := m.deadline(l)
		switch {
		case until == nil:
		case !until.After(now):
			m.actual[l.service].members[l.address].cut = true
			over[l.service] = append(over[l.service], l.address)
		case next.IsZero() || until.Before(next):
			next = *until
		}
	}
	return next, m.leave(ctx, over, "its deadline has come")
}

func (m *Manager) deadline(l leaver) *time.Time {
	for _, b := range m.desired.services[l.service].Backends {
		if b.Address == l.address {
			return b.DrainUntil
		}
	}
	return nil
}
