package service

import (
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/api"
)

// catalog is the desired services, and what must be known of all of them to
// judge one without a walk over the rest. A service in it is never changed: another takes its place.
type catalog struct {
	services map[uint32]api.Service
	// frontends has more than one service only while they are judged.
	frontends map[frontend][]uint32
	// vips and backends count the services' addresses.
	vips, backends map[netip.Addr]int
	// sources is the number of all services' source ranges.
	sources int
}

// frontend is what only one service can have.
type frontend struct {
	address  netip.AddrPort
	protocol string
}

func newCatalog() catalog {
	return catalog{
		services:  make(map[uint32]api.Service),
		frontends: make(map[frontend][]uint32),
		vips:      make(map[netip.Addr]int),
		backends:  make(map[netip.Addr]int),
	}
}

func (c *catalog) ids() []uint32 { return slices.Sorted(maps.Keys(c.services)) }

// edit is what shall be of one service: nil when it shall not be.
type edit struct {
	id      uint32
	service *api.Service
}

// swap makes edits and returns those that undo them.
func (c *catalog) swap(edits []edit) (undo []edit) {
	for _, e := range edits {
		before := edit{id: e.id}
		if s, ok := c.services[e.id]; ok {
			before.service = &s
			c.remove(s)
		}
		undo = append(undo, before)
	}
	for _, e := range edits {
		if e.service != nil {
			c.add(*e.service)
		}
	}
	return undo
}

func (c *catalog) add(s api.Service) {
	c.services[s.ID] = s
	c.frontends[frontendOf(s)] = append(c.frontends[frontendOf(s)], s.ID)
	c.vips[s.Frontend.Addr()]++
	for _, b := range s.Backends {
		c.backends[b.Address.Addr()]++
	}
	c.sources += len(s.Sources)
}

func (c *catalog) remove(s api.Service) {
	delete(c.services, s.ID)
	f := frontendOf(s)
	if c.frontends[f] = slices.DeleteFunc(c.frontends[f], func(id uint32) bool { return id == s.ID }); len(c.frontends[f]) == 0 {
		delete(c.frontends, f)
	}
	forgetOne(c.vips, s.Frontend.Addr())
	for _, b := range s.Backends {
		forgetOne(c.backends, b.Address.Addr())
	}
	c.sources -= len(s.Sources)
}

func forgetOne(counts map[netip.Addr]int, a netip.Addr) {
	if counts[a]--; counts[a] <= 0 {
		delete(counts, a)
	}
}

func frontendOf(s api.Service) frontend { return frontend{s.Frontend, s.Protocol} }

// withVIP and withBackend find a service that has an address; there is one.
func (c *catalog) withVIP(a netip.Addr) uint32 {
	return c.find(func(s api.Service) bool { return s.Frontend.Addr() == a })
}

func (c *catalog) withBackend(a netip.Addr) uint32 {
	return c.find(func(s api.Service) bool { return hasAddress(s.Backends, a) })
}

func (c *catalog) find(is func(api.Service) bool) uint32 {
	for _, id := range c.ids() {
		if is(c.services[id]) {
			return id
		}
	}
	return 0
}
