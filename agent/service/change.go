package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Put creates or replaces a service. A refusal is an *api.Error that names the
// field; then, and when the maps cannot be written, everything is as before.
func (m *Manager) Put(ctx context.Context, s api.Service) (api.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, exists := m.desired.services[s.ID]
	if exists {
		s = keep(s, has)
	}
	s, err := m.prepare(s, m.desired.mode)
	if err != nil {
		return api.Service{}, err
	}
	if exists && equal(s, has) {
		return m.withHealth(has), nil
	}
	if err := m.change(ctx, m.desired.mode, edit{s.ID, &s}); err != nil {
		return api.Service{}, alone(err)
	}
	return m.withHealth(s), nil
}

// Apply makes these the services; others are removed. All are checked before anything is
// changed, and refusals name the field as services[2].mode. What a service leaves
// open is the default, whatever it had. It returns the services ordered by id.
func (m *Manager) Apply(ctx context.Context, all []api.Service) ([]api.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apply(ctx, m.desired.mode, all)
}

func (m *Manager) apply(ctx context.Context, mode string, all []api.Service) ([]api.Service, error) {
	edits, at, err := m.editsTo(mode, all)
	if err != nil {
		return nil, err
	}
	if len(edits) > 0 || mode != m.desired.mode {
		if err := m.change(ctx, mode, edits...); err != nil {
			return nil, numbered(err, at)
		}
	}
	services := make([]api.Service, 0, len(all))
	for _, id := range m.desired.ids() {
		services = append(services, m.withHealth(m.desired.services[id]))
	}
	return services, nil
}

// editsTo are the edits that make these the services; at gives the prefix of a
// service's fields in refusals.
func (m *Manager) editsTo(mode string, all []api.Service) (edits []edit, at func(id uint32) string, err error) {
	place := make(map[uint32]int, len(all))
	at = func(id uint32) string { return fmt.Sprintf("services[%d].", place[id]) }
	for i, s := range all {
		if first, twice := place[s.ID]; twice {
			return nil, at, refuse(fmt.Sprintf("services[%d].id", i), "%d is services[%d]'s already", s.ID, first)
		}
		place[s.ID] = i
		s, err := m.prepare(s, mode)
		if err != nil {
			return nil, at, numbered(&serviceError{s.ID, err}, at)
		}
		if has, exists := m.desired.services[s.ID]; !exists || !equal(s, has) {
			edits = append(edits, edit{s.ID, &s})
		}
	}
	for _, id := range m.desired.ids() {
		if _, wanted := place[id]; !wanted {
			edits = append(edits, edit{id, nil})
		}
	}
	return edits, at, nil
}

// prepare fills in the defaults of a service that was asked for, checks its revision and
// gives it the next.
func (m *Manager) prepare(s api.Service, mode string) (api.Service, error) {
	has, exists := m.desired.services[s.ID]
	if s.Revision != 0 && s.Revision != has.Revision {
		now := fmt.Sprintf("it has %d", has.Revision)
		if !exists {
			now = "it is not there"
		}
		return s, &api.Error{Field: "revision", Code: http.StatusConflict,
			Message: fmt.Sprintf("is %d of service %d, but %s: somebody else has changed it", s.Revision, s.ID, now)}
	}
	if len(s.Backends) == 0 {
		return s, errNoBackends()
	}
	s = complete(s, mode)
	m.setDeadlines(s.Backends, has)
	s.Revision = has.Revision + 1
	if !exists {
		s.Revision = m.desired.revision + 1
	}
	return s, nil
}

func errNoBackends() error {
	return refuse("backends", "none given; `service delete` removes a service")
}

// Delete removes a service, or is api.ErrNotFound. Its connections are cut.
func (m *Manager) Delete(ctx context.Context, id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.desired.services[id]; !ok {
		return notFound(id)
	}
	return alone(m.change(ctx, m.desired.mode, edit{id, nil}))
}

// SetMode changes one service, or with id 0 all and the default. Flows that
// began go on as they began.
func (m *Manager) SetMode(ctx context.Context, mode string, id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mode == "" {
		return &api.Error{Field: "mode", Message: "missing: dsr or snat"}
	}
	if _, err := datapath.ParseMode(mode); err != nil {
		return &api.Error{Field: "mode", Message: err.Error()}
	}
	if _, ok := m.desired.services[id]; id != 0 && !ok {
		return &api.Error{Field: "serviceId", Message: fmt.Sprintf("there is no service %d", id), Code: http.StatusNotFound}
	}
	var edits []edit
	for _, sid := range m.desired.ids() {
		s := m.desired.services[sid]
		if id != 0 && sid != id || s.Mode == mode {
			continue
		}
		s.Mode = mode
		s.Revision++
		edits = append(edits, edit{sid, &s})
	}
	fallback := m.desired.mode
	if id == 0 {
		fallback = mode
	}
	return numbered(m.change(ctx, fallback, edits...), noPrefix)
}

// change judges edits, saves the new desired state and then programs the services that
// it touches. When that fails it goes back to the old state, file and maps.
func (m *Manager) change(ctx context.Context, mode string, edits ...edit) error {
	ids := make([]uint32, len(edits))
	for i, e := range edits {
		ids[i] = e.id
	}
	before := m.desired.mark()
	undo := m.desired.swap(edits)
	back := func() {
		m.desired.swap(undo)
		m.desired.reset(before)
	}
	if err := m.validate(ids...); err != nil {
		back()
		return err
	}
	m.desired.mode = mode
	for _, e := range append(undo, edits...) {
		if e.service != nil {
			m.desired.revision = max(m.desired.revision, e.service.Revision)
		}
	}
	if err := m.saveEdits(edits); err != nil {
		back()
		return err
	}
	err := m.converge(ctx, ids)
	if err == nil {
		// The services are saved already, and in place: what fails here is no failed update.
		if err := m.saveNumbers(); err != nil {
			m.log.Error("the update is in place and saved; which numbers it got could not be saved", "error", err)
		}
		m.announce()
		return nil
	}
	back()
	// The caller may have gone, which is no reason to leave half an update.
	failed := errors.Join(m.converge(context.WithoutCancel(ctx), ids), m.saveEdits(undo))
	if failed != nil {
		m.log.Error("an update failed and could not be undone", "error", err, "undo", failed)
		return errors.Join(err, fmt.Errorf("go back to the state before: %w", failed))
	}
	return err
}

// announce tells who waits on Changed, and Run, that services are others.
func (m *Manager) announce() {
	m.dropHealth()
	close(m.changed)
	m.changed = make(chan struct{})
	select {
	case m.wake <- struct{}{}:
	default: // it is awake already
	}
}
