package service

import (
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// target is what the maps shall hold of a service but for the numbers: slot and ids.
type target struct {
	key     datapath.ServiceKey
	entry   datapath.Service
	members map[netip.AddrPort]datapath.Backend
	// shares are the weights of those that get new flows.
	shares  map[netip.AddrPort]uint32
	sources []netip.Prefix
}

// targetOf says what a valid service means for the maps.
func (m *Manager) targetOf(s api.Service) (target, error) {
	protocol, err := datapath.ParseProtocol(s.Protocol)
	if err != nil {
		return target{}, err
	}
	mode, err := datapath.ParseMode(s.Mode)
	if err != nil {
		return target{}, err
	}
	prototype, err := m.backendOf(s)
	if err != nil {
		return target{}, err
	}
	t := target{
		key: datapath.ServiceKey{Frontend: s.Frontend, Protocol: protocol},
		entry: datapath.Service{
			ID:       s.ID,
			Mode:     mode,
			MSS:      s.MSS,
			Random:   s.Selection == selectRandom,
			Affinity: time.Duration(s.Affinity),
			Ranges:   len(s.Sources) > 0,
		},
		members: make(map[netip.AddrPort]datapath.Backend, len(s.Backends)),
		shares:  make(map[netip.AddrPort]uint32, len(s.Backends)),
		sources: slices.SortedFunc(slices.Values(s.Sources), netip.Prefix.Compare),
	}
	quarantined := m.quarantined(s)
	for _, b := range s.Backends {
		member := prototype
		member.Address, member.State = b.Address, stateOf(b, quarantined[b.Address])
		t.members[b.Address] = member
		if member.State == datapath.Active {
			t.shares[b.Address] = uint32(b.Share())
		}
	}
	if len(t.shares) > 0 {
		t.entry.TableSize = s.TableSize
	}
	return t, nil
}

// backendOf is what all backends of a service have in common.
func (m *Manager) backendOf(s api.Service) (datapath.Backend, error) {
	encap, err := datapath.ParseEncap(s.Encap)
	if err != nil {
		return datapath.Backend{}, err
	}
	b := datapath.Backend{Encap: encap, ServiceID: s.ID}
	if encap != datapath.IPIP {
		return b, nil
	}
	if b.Outer, err = outerSource(s); err != nil {
		return datapath.Backend{}, err
	}
	if own := m.own(s.Frontend.Addr()); !b.Outer.IsValid() && own.IsValid() {
		b.Outer = netip.PrefixFrom(own, own.BitLen())
	}
	return b, nil
}

// wantsFlows says whether a backend is to get new flows as far as its health allows.
func wantsFlows(b api.Backend) bool { return b.State == "" && b.Share() > 0 }

// stateOf is a backend's state in the maps. There, one of weight 0 is like one in
// maintenance: session affinity shall bring it no new flows either.
func stateOf(b api.Backend, quarantined bool) datapath.BackendState {
	switch {
	case b.State == datapath.Draining.String():
		return datapath.Draining
	case !wantsFlows(b):
		return datapath.Maintenance
	case quarantined:
		return datapath.Quarantined
	}
	return datapath.Active
}

// candidates are those that share a Maglev table, ordered by address. Weights
// count in a table only where their average is 2 or more (package maglev, as in Cilium), so
// smaller ones are doubled: what matters is what they are to each other. Equal ones are
// left out, which gives the same table sooner.
func candidates(shares map[netip.AddrPort]uint32, members map[netip.AddrPort]*member, protocol datapath.Protocol) []maglev.Backend {
	var sum, first uint32
	equal := true
	list := make([]maglev.Backend, 0, len(shares))
	for address, weight := range shares {
		list = append(list, maglev.Backend{ID: members[address].id, Address: address, Protocol: uint8(protocol), Weight: weight})
		if sum += weight; first == 0 {
			first = weight
		}
		equal = equal && weight == first
	}
	factor := uint32(1)
	if sum < 2*uint32(len(list)) {
		factor = 2
	}
	for i := range list {
		if list[i].Weight *= factor; equal {
			list[i].Weight = 1
		}
	}
	slices.SortFunc(list, func(a, b maglev.Backend) int { return a.Address.Compare(b.Address) })
	return list
}
