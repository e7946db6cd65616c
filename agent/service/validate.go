package service

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// complete fills in the defaults and validates.
func (m *Manager) complete(s api.Service) (api.Service, error) {
	if has, exists := m.desired.Services[s.ID]; exists {
		s = keep(s, has)
	}
	if s.Protocol == "" {
		s.Protocol = datapath.TCP.String()
	}
	if s.Mode == "" {
		s.Mode = m.desired.Mode
	}
	if s.TableSize == 0 {
		s.TableSize = maglev.DefaultSize
	}
	s.Backends = slices.Clone(s.Backends)
	return s, m.validate(s)
}

// keep fills in what a request leaves open from what the service has: who
// changes its backends does not mean to change its mode.
func keep(s, has api.Service) api.Service {
	if s.Protocol == "" {
		s.Protocol = has.Protocol
	}
	if s.Mode == "" {
		s.Mode = has.Mode
	}
	if s.TableSize == 0 {
		s.TableSize = has.TableSize
	}
	return s
}

// validate checks a service by itself, against the others and against the maps.
func (m *Manager) validate(s api.Service) error {
	if err := validateValues(s); err != nil {
		return err
	}
	if fixed := m.store.Limits().TableSize; fixed != 0 && s.TableSize != fixed {
		return refuse("tableSize", "is %d; on this system every Maglev table has %d slots", s.TableSize, fixed)
	}
	for id, other := range m.desired.Services {
		if id != s.ID && other.Frontend == s.Frontend && other.Protocol == s.Protocol {
			return &api.Error{
				Field:   "frontend",
				Message: fmt.Sprintf("%s/%s is service %d's", s.Frontend, s.Protocol, id),
				Code:    http.StatusConflict,
			}
		}
	}
	if err := m.validateLoops(s); err != nil {
		return err
	}
	return m.validateRoom(s)
}

// validateAll checks services that were accepted once, perhaps with another
// balancer's address. One whose backend has that address now is let in: machines
// that swap addresses get there, and whoever swaps them can only correct the
// service once the agent runs.
func (m *Manager) validateAll(from string) error {
	for _, id := range slices.Sorted(maps.Keys(m.desired.Services)) {
		s := m.desired.Services[id]
		err := m.validate(s)
		switch {
		case err == nil:
		case s.Frontend.Addr() != m.own && hasAddress(s.Backends, m.own):
			m.log.Warn("a service has the balancer itself as a backend, which is not reached: update it", "id", id, "backend", m.own)
		default:
			return fmt.Errorf("service %d of %s: %w", id, from, err)
		}
	}
	return nil
}

func hasAddress(backends []netip.AddrPort, a netip.Addr) bool {
	return slices.ContainsFunc(backends, func(b netip.AddrPort) bool { return b.Addr() == a })
}

// validateValues checks what a service says by itself.
func validateValues(s api.Service) error {
	if s.ID == 0 || s.ID > api.MaxServiceID {
		return refuse("id", "is %d; wanted is 1 to %d", s.ID, api.MaxServiceID)
	}
	if err := validateEndpoint("frontend", s.Frontend); err != nil {
		return err
	}
	if _, err := datapath.ParseProtocol(s.Protocol); err != nil {
		return refuse("protocol", "%v", err)
	}
	mode, err := datapath.ParseMode(s.Mode)
	if err != nil {
		return refuse("mode", "%v", err)
	}
	if !maglev.ValidSize(s.TableSize) {
		return refuse("tableSize", "is %d; wanted is one of %v", s.TableSize, maglev.Sizes())
	}
	if len(s.Backends) == 0 {
		return refuse("backends", "none given; `service delete` removes a service")
	}
	if uint64(len(s.Backends)) > uint64(s.TableSize) {
		return refuse("backends", "%d do not fit into %d Maglev slots (tableSize)", len(s.Backends), s.TableSize)
	}
	at := make(map[netip.AddrPort]int, len(s.Backends))
	for i, b := range s.Backends {
		field := fmt.Sprintf("backends[%d]", i)
		if err := validateEndpoint(field, b); err != nil {
			return err
		}
		if first, twice := at[b]; twice {
			return refuse(field, "%s is backends[%d] already", b, first)
		}
		at[b] = i
		if mode == datapath.DSR && b.Port() != s.Frontend.Port() {
			return refuse(field, "%s: in mode dsr the packet reaches the backend unchanged, so the port must be the frontend's, %d",
				b, s.Frontend.Port())
		}
	}
	return nil
}

func validateEndpoint(field string, e netip.AddrPort) error {
	a := e.Addr()
	switch {
	case !e.IsValid():
		return refuse(field, "missing: ADDRESS:PORT")
	case !a.Is4():
		return refuse(field, "%s: only IPv4 is balanced", a)
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.As4()[0] == 0, a.As4()[0] >= 240:
		return refuse(field, "%s is no unicast address", a)
	case e.Port() == 0:
		return refuse(field, "port 0; wanted is 1 to 65535")
	}
	return nil
}

// validateLoops refuses packets' way back to the balancer, and a frontend on
// its own address: the service would take the machine's own connections, such as SSH,
// and among the ports of SNAT's pool replies would come before it.
func (m *Manager) validateLoops(s api.Service) error {
	if s.Frontend.Addr() == m.own {
		return refuse("frontend", "%s is the balancer's own address: a service needs a virtual one", m.own)
	}
	vips := map[netip.Addr]uint32{s.Frontend.Addr(): s.ID}
	for id, other := range m.desired.Services {
		if id == s.ID {
			continue
		}
		vips[other.Frontend.Addr()] = id
		for _, b := range other.Backends {
			if b.Addr() == s.Frontend.Addr() {
				return refuse("frontend", "%s is a backend of service %d: packets would go round", b.Addr(), id)
			}
		}
	}
	for i, b := range s.Backends {
		field := fmt.Sprintf("backends[%d]", i)
		if id, isVIP := vips[b.Addr()]; isVIP {
			return refuse(field, "%s is the virtual address of service %d: packets would go round", b.Addr(), id)
		}
		if b.Addr() == m.own {
			return refuse(field, "%s is the balancer itself: what it sends leaves through the interface", b.Addr())
		}
	}
	return nil
}

// validateRoom checks the maps' sizes before anything is written. While a
// service changes, its old and new backends are there together.
func (m *Manager) validateRoom(s api.Service) error {
	limits := m.store.Limits()
	have, exists := m.actual[s.ID]
	if !exists && uint32(len(m.actual)) >= limits.Services {
		return tooMany("id", "services", limits.Services)
	}
	added := 0
	for _, b := range s.Backends {
		if _, ok := have.ids[b]; !ok {
			added++
		}
	}
	if uint64(len(m.backendIDs.used)+added) > uint64(limits.Backends-1) {
		return tooMany("backends", "backends", limits.Backends-1)
	}
	return nil
}

func refuse(field, format string, args ...any) error {
	return &api.Error{Field: field, Message: fmt.Sprintf(format, args...)}
}
