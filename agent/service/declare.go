package service

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Declare is Apply for services that stand somewhere, such as in a file, and sets the
// default mode with them. A backend that drains there, and has left its service, is
// not put back to drain once more. Nil services are left as they are.
func (m *Manager) Declare(ctx context.Context, mode datapath.Mode, all []api.Service) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := m.desired.mode
	if mode != 0 {
		wanted = mode.String()
	}
	if all == nil {
		if wanted == m.desired.mode {
			return nil
		}
		return m.change(ctx, wanted)
	}
	_, err := m.apply(ctx, wanted, m.withoutDrained(all))
	return err
}

// DefaultMode is the mode of services that name none.
func (m *Manager) DefaultMode() datapath.Mode {
	m.mu.Lock()
	defer m.mu.Unlock()
	mode, _ := datapath.ParseMode(m.desired.mode) // the state has no other
	return mode
}

// begins gives a Manager that opens the services to begin with, and judges them.
func (m *Manager) begins(declared []api.Service, saved Saved) error {
	if declared == nil {
		return m.validateAll("the state file " + saved.path)
	}
	edits, at, err := m.editsTo(m.desired.mode, m.withoutDrained(declared))
	if err != nil {
		return err
	}
	m.desired.swap(edits)
	for _, e := range edits {
		if e.service != nil {
			m.desired.revision = max(m.desired.revision, e.service.Revision)
		}
	}
	return numbered(m.validate(m.desired.ids()...), at)
}

// withoutDrained leaves out the backends that drain and have left their services
// already. Those of a service of which none would be left stay: they leave anew.
func (m *Manager) withoutDrained(all []api.Service) []api.Service {
	left := slices.Clone(all)
	for i, s := range left {
		has, exists := m.desired.services[s.ID]
		if !exists || has.Frontend != s.Frontend {
			continue
		}
		backends := slices.DeleteFunc(slices.Clone(s.Backends), func(b api.Backend) bool {
			return b.State == datapath.Draining.String() && !hasEndpoint(has.Backends, b.Address)
		})
		if len(backends) > 0 {
			left[i].Backends = backends
		}
	}
	return left
}

// SetDrainAfter bounds the draining of backends for which no deadline is given from now on.
func (m *Manager) SetDrainAfter(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drainAfter = d
}

// setDeadlines gives those that drain without a deadline the default one, which counts
// from the beginning of their draining.
func (m *Manager) setDeadlines(backends []api.Backend, has api.Service) {
	if m.drainAfter <= 0 {
		return
	}
	var before map[netip.AddrPort]*time.Time
	for i, b := range backends {
		if b.State != datapath.Draining.String() || b.DrainUntil != nil {
			continue
		}
		if before == nil {
			before = make(map[netip.AddrPort]*time.Time)
			for _, h := range has.Backends {
				before[h.Address] = h.DrainUntil
			}
		}
		if backends[i].DrainUntil = before[b.Address]; backends[i].DrainUntil == nil {
			until := time.Now().Add(m.drainAfter).Round(0).UTC()
			backends[i].DrainUntil = &until
		}
	}
}
