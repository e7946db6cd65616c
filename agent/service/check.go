package service

import (
	"errors"
	"fmt"
	"net/netip"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Balancer is what Check knows of where the services are to run.
type Balancer struct {
	// Mode is for services that name none; 0 means DSR.
	Mode datapath.Mode
	// Own4 and Own6 are its addresses, invalid where it has none of a family, or
	// none is known: Known says which of the two.
	Own4, Own6 netip.Addr
	Known      bool
	// Limits are its maps'; what is 0 in them is not checked.
	Limits datapath.Limits
}

// Check returns all that is wrong with services which are to be a balancer's only ones: with each, between
// them, and with the balancer's addresses and sizes. Fields are named as services[2].backends[0]. It
// needs no data path.
func Check(all []api.Service, on Balancer) []*api.Error {
	if on.Mode == 0 {
		on.Mode = datapath.DSR
	}
	c := checking{Manager: &Manager{own4: on.Own4, own6: on.Own6, desired: state{catalog: newCatalog()}}, on: on, place: make(map[uint32]int)}
	for i, s := range all {
		c.values(i, complete(s, on.Mode.String()))
	}
	for i, s := range all {
		if c.place[s.ID] == i && c.desired.services[s.ID].ID != 0 {
			c.others(i, c.desired.services[s.ID])
		}
	}
	c.room(len(all))
	return c.faults
}

// checking is a Check under way. Its Manager has the services and no maps.
type checking struct {
	*Manager
	on    Balancer
	place map[uint32]int
	// backends is how many there are.
	backends int
	faults   []*api.Error
}

func (c *checking) add(i int, err error) {
	var fault *api.Error
	if !errors.As(err, &fault) {
		return
	}
	copied := *fault
	copied.Field = fmt.Sprintf("services[%d].%s", i, fault.Field)
	c.faults = append(c.faults, &copied)
}

// values judges a complete service by itself, and keeps it for others.
func (c *checking) values(i int, s api.Service) {
	for _, err := range valueFaults(s) {
		c.add(i, err)
	}
	if len(s.Backends) == 0 {
		c.add(i, refuse("backends", "none given; leave the service out instead"))
	}
	if fixed := c.on.Limits.TableSize; fixed != 0 && s.TableSize != fixed {
		c.add(i, refuse("tableSize", "is %d; on this system every Maglev table has %d slots", s.TableSize, fixed))
	}
	if first, twice := c.place[s.ID]; twice {
		c.add(i, refuse("id", "%d is services[%d]'s already", s.ID, first))
		return
	}
	c.place[s.ID] = i
	c.backends += len(s.Backends)
	if s.Frontend.IsValid() {
		c.desired.add(s)
	}
}

// others judges a service against the others and the balancer's addresses.
func (c *checking) others(i int, s api.Service) {
	for _, id := range c.desired.frontends[frontendOf(s)] {
		if id != s.ID && c.place[id] < i { // the later one is at fault
			c.add(i, refuse("frontend", "%s/%s is service %d's", s.Frontend, s.Protocol, id))
			break
		}
	}
	if c.on.Known {
		c.add(i, c.validateOwn(s))
	}
	for _, err := range c.loops(s) {
		c.add(i, err)
	}
}

// room checks sizes that are known.
func (c *checking) room(services int) {
	whole := func(what string, n int, limit uint32) {
		if limit != 0 && n > int(limit) {
			c.faults = append(c.faults, &api.Error{Field: "services",
				Message: fmt.Sprintf("%d %s in all, but the balancer has room for %d", n, what, limit)})
		}
	}
	whole("services", services, c.on.Limits.Services)
	whole("backends", c.backends, c.on.Limits.Backends)
	whole("sources", c.desired.sources, c.on.Limits.Sources)
}
