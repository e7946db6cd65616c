package service

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
)

// SetHealth says what the checks found of a service's backends; it makes a
// Manager a health.Reporter. A backend that is not healthy gets no new flows and keeps those that it
// has; when all of a service's are not, none is treated so (health.Eligible). It is
// no change of the desired service. Backends that are not there are passed over; for a service that is not, it is
// api.ErrNotFound, and for one without a health check, whose backends are all healthy, where a change says otherwise.
func (m *Manager) SetHealth(ctx context.Context, id uint32, changes []health.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.desired.services[id]
	if !ok {
		return notFound(id)
	}
	if s.HealthCheck == nil && !slices.ContainsFunc(changes, func(c health.Change) bool { return !c.Healthy }) {
		return nil
	}
	if s.HealthCheck == nil {
		return &api.Error{Field: "id", Message: fmt.Sprintf("service %d has no health check", id), Code: http.StatusNotFound}
	}
	var undo []health.Change
	for _, c := range changes {
		if hasEndpoint(s.Backends, c.Backend) && m.unhealthy[id][c.Backend] == c.Healthy {
			m.setHealth(id, c)
			undo = append(undo, health.Change{Backend: c.Backend, Healthy: !c.Healthy})
		}
	}
	if len(undo) == 0 {
		return nil
	}
	if err := m.converge(ctx, []uint32{id}); err != nil {
		for _, c := range undo {
			m.setHealth(id, c)
		}
		return fmt.Errorf("set the health of service %d's backends: %w", id, err)
	}
	if len(m.quarantined(s)) < len(m.unhealthy[id]) {
		m.log.Warn("of a service no backend that could get connections is healthy: its checks are not heeded", "service", id)
	}
	return nil
}

// quarantined are the backends of a service that get no flows because of their health.
func (m *Manager) quarantined(s api.Service) map[netip.AddrPort]bool {
	if s.HealthCheck == nil || len(m.unhealthy[s.ID]) == 0 {
		return nil
	}
	out := maps.Clone(m.unhealthy[s.ID])
	for _, b := range health.Eligible(m.withHealth(s).Backends) {
		delete(out, b.Address)
	}
	return out
}

func (m *Manager) setHealth(id uint32, c health.Change) {
	if c.Healthy {
		delete(m.unhealthy[id], c.Backend)
		return
	}
	if m.unhealthy[id] == nil {
		m.unhealthy[id] = make(map[netip.AddrPort]bool)
	}
	m.unhealthy[id][c.Backend] = true
}

func hasEndpoint(backends []api.Backend, e netip.AddrPort) bool {
	return slices.ContainsFunc(backends, func(b api.Backend) bool { return b.Address == e })
}

// takeOverHealth keeps quarantined at start what an earlier agent has
// quarantined, until the checks say otherwise.
func (m *Manager) takeOverHealth() {
	for id, p := range m.actual {
		if s, wanted := m.desired.services[id]; !wanted || s.HealthCheck == nil {
			continue
		}
		for address, member := range p.members {
			if member.entry.State == datapath.Quarantined {
				m.setHealth(id, health.Change{Backend: address})
			}
		}
	}
	m.dropHealth()
}

// dropHealth forgets what was found of backends that are not checked any more.
func (m *Manager) dropHealth() {
	for id, unhealthy := range m.unhealthy {
		s, ok := m.desired.services[id]
		if !ok || s.HealthCheck == nil {
			delete(m.unhealthy, id)
			continue
		}
		for b := range unhealthy {
			if !hasEndpoint(s.Backends, b) {
				delete(unhealthy, b)
			}
		}
	}
}

// withHealth is a desired service with its backends' health.
func (m *Manager) withHealth(s api.Service) api.Service {
	if s.HealthCheck == nil {
		return s
	}
	s.Backends = slices.Clone(s.Backends)
	for i, b := range s.Backends {
		s.Backends[i].Health = "healthy"
		if m.unhealthy[s.ID][b.Address] {
			s.Backends[i].Health = "quarantined"
		}
	}
	return s
}
