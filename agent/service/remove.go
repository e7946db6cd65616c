package service

import (
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/datapath"
)

// dropMember frees a backend's id; flows that have it are over. Nobody refers to it, so
// one that cannot be removed now harms nobody, and is tried again after the next sweep.
func (m *Manager) dropMember(p *programmed, address netip.AddrPort) {
	member := p.members[address]
	delete(p.members, address)
	delete(m.leaving, member.id)
	m.undeleted[member.id] = p.backendOwner(address)
	m.deleteBackend(member.id)
}

// deleteBackend frees an id of m.undeleted. Flows may have it, so it is held.
func (m *Manager) deleteBackend(id uint32) {
	owner := m.undeleted[id]
	if err := m.store.DeleteBackend(id); err != nil {
		m.log.Warn("could not remove a backend that no service has; trying again", "backend", owner.Address, "id", id, "error", err)
		return
	}
	delete(m.undeleted, id)
	m.backendIDs.retire(id, owner)
	m.backendIDs.hold(id)
	m.dismiss(owner.Address.Addr())
}

func (m *Manager) removeAll(ids []uint32) error {
	for _, id := range ids {
		if err := m.remove(id); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a service out of the maps: first its entry, so that no packet
// looks for the rest.
func (m *Manager) remove(id uint32) error {
	p, ok := m.actual[id]
	if !ok {
		return nil
	}
	if err := m.dropKeysBut(p, datapath.ServiceKey{}); err != nil {
		return err
	}
	if p.tableSize > 0 || p.unsure.table {
		p.unsure.table = true
		if err := m.store.DeleteTable(p.entry.Slot); err != nil {
			return err
		}
		p.table, p.tableSize, p.unsure.table = nil, 0, false
	}
	if len(p.sources) > 0 || p.unsure.sources {
		p.unsure.sources = true
		if err := m.store.PutSources(p.entry.Slot, nil); err != nil {
			return err
		}
		p.sources, p.unsure.sources = nil, false
	}
	for _, address := range slices.SortedFunc(maps.Keys(p.members), netip.AddrPort.Compare) {
		m.dropMember(p, address)
	}
	m.slots.retire(p.entry.Slot, p.owner())
	delete(m.actual, id)
	delete(m.unhealthy, id)
	return nil
}

// refer and dismiss count the backends of an address, whose next hop is followed
// as long as there is one.
func (m *Manager) refer(a netip.Addr) {
	if m.hopUsers[a]++; m.hopUsers[a] == 1 {
		m.hopsDue = append(m.hopsDue, a)
	}
}

func (m *Manager) dismiss(a netip.Addr) {
	forgetOne(m.hopUsers, a)
	if m.hopUsers[a] > 0 {
		return
	}
	if err := m.hops.Drop(a); err != nil {
		m.log.Warn("could not let go of a next hop", "backend", a, "error", err)
	}
}
