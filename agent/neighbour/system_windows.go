package neighbour

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"l4lab/agent/datapath"
	"l4lab/agent/iphelper"
)

// system is Windows, through the IP helper API. Not run on a Windows host yet.
type system struct {
	table iphelper.Table
	index uint32
}

// NewSystem returns the routes and neighbours of the interface with that index.
func NewSystem(index int) System {
	return system{table: iphelper.New(index), index: uint32(index)}
}

func (s system) NextHop(backend netip.Addr) (netip.Addr, error) {
	route, err := s.table.RouteTo(backend)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the route to %s: %w", backend, err)
	}
	if route.InterfaceIndex != s.index {
		return netip.Addr{}, fmt.Errorf("the route to %s leaves through interface %d, the balancer sends through %d",
			backend, route.InterfaceIndex, s.index)
	}
	if gateway, ok := route.Gateway(); ok {
		return gateway, nil
	}
	return backend, nil
}

func (s system) Entries() (map[netip.Addr]Entry, error) {
	entries := make(map[netip.Addr]Entry)
	err := s.table.Neighbours(func(n *iphelper.Neighbour) {
		if a, ok := n.Address.Addr(); ok {
			entries[a] = entryOf(n)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read the neighbours of interface %d: %w", s.index, err)
	}
	return entries, nil
}

func entryOf(n *iphelper.Neighbour) Entry {
	if n.State == iphelper.Unreachable {
		return Entry{State: Failed}
	}
	if mac, ok := n.MAC(); ok {
		return Entry{State: Valid, MAC: datapath.MAC(mac)}
	}
	return Entry{}
}

// Resolve does not wait, though the system does: Watch sees what came of it.
func (s system) Resolve(nextHop netip.Addr) error {
	go func() { _ = s.table.Resolve(nextHop) }()
	return nil
}

func (s system) Forget(nextHop netip.Addr) error {
	var failed error
	err := s.table.Neighbours(func(n *iphelper.Neighbour) {
		if a, _ := n.Address.Addr(); a == nextHop && n.State != iphelper.Permanent {
			failed = s.table.Remove(n)
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("forget the MAC of %s: %w", nextHop, err)
	}
	return nil
}

// pollEvery is how often the table is read: Windows tells of routes and addresses, not
// of neighbours.
const pollEvery = 500 * time.Millisecond

func (s system) Watch(ctx context.Context, _ func(netip.Addr, Entry), resync func()) error {
	changes, err := iphelper.Watch()
	if err != nil {
		return fmt.Errorf("follow the routes: %w", err)
	}
	defer changes.Close()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		resync()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes.C:
		case <-ticker.C:
		}
	}
}
