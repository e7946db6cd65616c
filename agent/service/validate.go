package service

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// validate checks services of the catalog, which has all of them as they shall
// be: each by itself, against the others and against the maps.
func (m *Manager) validate(ids ...uint32) error {
	for _, id := range ids {
		s, wanted := m.desired.services[id]
		if !wanted {
			continue
		}
		if err := m.validateOne(s); err != nil {
			return &serviceError{id, err}
		}
	}
	return m.validateRoom(ids)
}

// serviceError is a fault of one of several services.
type serviceError struct {
	id  uint32
	err error
}

func (e *serviceError) Error() string { return fmt.Sprintf("service %d: %v", e.id, e.err) }
func (e *serviceError) Unwrap() error { return e.err }

// alone is the fault itself, for a request that names one service only.
func alone(err error) error {
	var of *serviceError
	if errors.As(err, &of) {
		return of.err
	}
	return err
}

// numbered puts the service's number into a refusal, whose own text is what a
// client gets to read. Its field gets the prefix that at gives.
func numbered(err error, at func(id uint32) string) error {
	var of *serviceError
	var refusal *api.Error
	if !errors.As(err, &of) || !errors.As(err, &refusal) {
		return err
	}
	copied := *refusal
	copied.Field = at(of.id) + refusal.Field
	copied.Message = fmt.Sprintf("service %d: %s", of.id, refusal.Message)
	return &copied
}

func noPrefix(uint32) string { return "" }

func (m *Manager) validateOne(s api.Service) error {
	if err := validateValues(s); err != nil {
		return err
	}
	if fixed := m.store.Limits().TableSize; fixed != 0 && s.TableSize != fixed {
		return refuse("tableSize", "is %d; on this system every Maglev table has %d slots", s.TableSize, fixed)
	}
	if m.admit != nil {
		if err := m.admit(s); err != nil {
			return err
		}
	}
	if err := m.validateFrontend(s); err != nil {
		return err
	}
	if err := m.validateOwn(s); err != nil {
		return err
	}
	return first(m.loops(s))
}

// validateFrontend refuses a frontend that another service has.
func (m *Manager) validateFrontend(s api.Service) error {
	for _, id := range m.desired.frontends[frontendOf(s)] {
		if id != s.ID {
			return &api.Error{
				Field:   "frontend",
				Message: fmt.Sprintf("%s/%s is service %d's", s.Frontend, s.Protocol, id),
				Code:    http.StatusConflict,
			}
		}
	}
	return nil
}

// validateAll checks services that were accepted once, perhaps with another
// balancer's address. One whose backend has that address now is let in: machines
// that swap addresses get there, and whoever swaps them can only correct the
// service once the agent runs.
func (m *Manager) validateAll(from string) error {
	for _, id := range m.desired.ids() {
		s := m.desired.services[id]
		err := m.validateOne(s)
		own := m.own(s.Frontend.Addr())
		switch {
		case err == nil:
		case s.Frontend.Addr() != own && hasAddress(s.Backends, own):
			m.log.Warn("a service has the balancer itself as a backend, which is not reached: update it", "id", id, "backend", own)
		default:
			return fmt.Errorf("service %d of %s: %w", id, from, err)
		}
	}
	if err := m.validateRoom(m.desired.ids()); err != nil {
		return fmt.Errorf("the services of %s: %w", from, err)
	}
	return nil
}

func hasAddress(backends []api.Backend, a netip.Addr) bool {
	return slices.ContainsFunc(backends, func(b api.Backend) bool { return b.Address.Addr() == a })
}

// own is the balancer's address of the family of another, invalid when it has none.
func (m *Manager) own(of netip.Addr) netip.Addr {
	if of.Is4() {
		return m.own4
	}
	return m.own6
}

// validateOwn refuses what needs an address of the balancer where it has none.
func (m *Manager) validateOwn(s api.Service) error {
	if m.own(s.Frontend.Addr()).IsValid() {
		return nil
	}
	family := familyOf(s.Frontend.Addr())
	switch {
	case s.Mode == datapath.SNAT.String():
		return refuse("mode", "snat needs an %s address of the balancer's own, and the interface has none", family)
	case s.Encap == datapath.IPIP.String() && s.OuterSource == "":
		return refuse("outerSource", "missing: the balancer has no %s address of its own to send from", family)
	}
	return nil
}

// loops are packets' ways back to the balancer, and a frontend on its own
// address: the service would take the machine's own connections, such as SSH,
// and among the ports of SNAT's pool replies would come before it.
func (m *Manager) loops(s api.Service) (faults []error) {
	vip := s.Frontend.Addr()
	own := m.own(vip)
	if vip == own {
		faults = append(faults, refuse("frontend", "%s is the balancer's own address: a service needs a virtual one", own))
	}
	for i, b := range s.Backends {
		a, field := b.Address.Addr(), fmt.Sprintf("backends[%d]", i)
		switch {
		case a == vip:
			faults = append(faults, refuse(field, "%s is the virtual address of service %d: packets would go round", a, s.ID))
		case m.desired.vips[a] > 0:
			faults = append(faults, refuse(field, "%s is the virtual address of service %d: packets would go round", a, m.desired.withVIP(a)))
		case own.IsValid() && a == own:
			faults = append(faults, refuse(field, "%s is the balancer itself: what it sends leaves through the interface", a))
		}
	}
	if m.desired.backends[vip] > 0 && !hasAddress(s.Backends, vip) {
		faults = append(faults, refuse("frontend", "%s is a backend of service %d: packets would go round", vip, m.desired.withBackend(vip)))
	}
	return faults
}

// validateRoom checks the maps' sizes before anything is written. While a
// service changes, its old and new backends and sources are there together; the ids of
// those that leave stay theirs while connections have them.
func (m *Manager) validateRoom(ids []uint32) error {
	limits := m.store.Limits()
	services, backends, sources := len(m.actual), 0, m.desired.sources
	for _, id := range ids {
		s, wanted := m.desired.services[id]
		have, exists := m.actual[id]
		switch {
		case !wanted && exists:
			services--
			continue
		case !wanted:
			continue
		case !exists:
			services++
			have = &programmed{}
		}
		for _, b := range s.Backends {
			if have.members[b.Address] == nil && !m.hasHeldID(s, b.Address) {
				backends++
			}
		}
		for _, p := range have.sources {
			if !slices.Contains(s.Sources, p) {
				sources++
			}
		}
	}
	switch {
	case services > int(limits.Services):
		return tooMany("id", "services", limits.Services)
	case backends > m.backendIDs.room():
		err := tooMany("backends", "backends", limits.Backends-1)
		if held := len(m.backendIDs.held); held > 0 {
			err.Message += fmt.Sprintf(", and %d of them may still have connections of backends that left", held)
		}
		return err
	case sources > int(limits.Sources):
		return tooMany("sources", "sources", limits.Sources)
	}
	return nil
}

// hasHeldID says whether a backend that comes back gets an id that nobody else could get now.
func (m *Manager) hasHeldID(s api.Service, b netip.AddrPort) bool {
	protocol, err := datapath.ParseProtocol(s.Protocol)
	if err != nil {
		return false
	}
	slot, known := m.slots.owners[slotOwner{ID: s.ID, Frontend: s.Frontend, Protocol: protocol}]
	if have, exists := m.actual[s.ID]; exists {
		slot, known = have.entry.Slot, true
	}
	id, had := m.backendIDs.owners[backendOwner{Slot: slot, Address: b, Protocol: protocol}]
	_, held := m.backendIDs.held[id]
	return known && had && held
}

func tooMany(field, name string, limit uint32) *api.Error {
	return &api.Error{Field: field, Message: fmt.Sprintf("no room: the map `%s` holds %d", name, limit)}
}

func refuse(field, format string, args ...any) error {
	return &api.Error{Field: field, Message: fmt.Sprintf(format, args...)}
}
