package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// readActual learns from the maps which services there are, and the numbers
// that they use. What does not fit together is taken as far as it goes and
// marked stale: program makes it right. What an agent left that died between
// two writes, and nobody refers to, is removed.
func (m *Manager) readActual() error {
	m.actual = make(map[uint32]programmed)
	services, err := m.store.Services()
	if err != nil {
		return err
	}
	backends, err := m.store.Backends()
	if err != nil {
		return err
	}
	for _, key := range m.desiredFirst(services) {
		entry := services[key]
		if _, twice := m.actual[entry.ID]; twice || entry.ID == 0 || m.slots.used[entry.Slot] {
			// An agent died between writing a service's new frontend and
			// removing the old one, or somebody else wrote here.
			m.log.Warn("removing a service entry without a number or slot of its own", "frontend", key, "id", entry.ID)
			if err := m.store.DeleteService(key); err != nil {
				return err
			}
			continue
		}
		table, err := m.store.Table(entry.Slot)
		if err != nil {
			return err
		}
		p := programmed{key: key, entry: entry, ids: m.backendsOf(table, backends, key.Protocol)}
		p.stale = !p.consistent(table)
		m.slots.take(entry.Slot)
		m.actual[entry.ID] = p
	}
	return m.removeLeftovers(backends)
}

// backendsOf returns the backends that a table names.
func (m *Manager) backendsOf(table []uint32, backends map[uint32]datapath.Backend, protocol datapath.Protocol) map[netip.AddrPort]uint32 {
	ids := make(map[netip.AddrPort]uint32)
	for _, id := range table {
		b, ok := backends[id]
		if !ok || b.Protocol != protocol || m.backendIDs.used[id] {
			continue
		}
		if _, twice := ids[b.Address]; !twice {
			ids[b.Address] = id
		}
	}
	for _, id := range ids {
		m.backendIDs.take(id)
	}
	return ids
}

// removeLeftovers frees the slots and ids that no service uses.
func (m *Manager) removeLeftovers(backends map[uint32]datapath.Backend) error {
	slots, err := m.store.Slots()
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if m.slots.used[slot] {
			continue
		}
		if err := m.store.DeleteTable(slot); err != nil {
			return err
		}
	}
	for id := range backends {
		if m.backendIDs.used[id] {
			continue
		}
		if err := m.store.DeleteBackend(id); err != nil {
			return err
		}
	}
	return nil
}

// desiredFirst returns the keys so that, of two entries of one service, the
// one that is wanted comes first.
func (m *Manager) desiredFirst(services map[datapath.ServiceKey]datapath.Service) []datapath.ServiceKey {
	rank := func(k datapath.ServiceKey) int {
		if s, ok := m.desired.Services[services[k].ID]; ok && s.Frontend == k.Frontend && s.Protocol == k.Protocol.String() {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Keys(services), func(a, b datapath.ServiceKey) int { return rank(a) - rank(b) })
}

// consistent says whether the table in the map is the one that the backends give.
func (p *programmed) consistent(table []uint32) bool {
	if uint32(len(table)) != p.entry.TableSize || len(p.ids) == 0 {
		return false
	}
	want, err := tableOf(p.ids, p.key.Protocol, p.entry.TableSize)
	return err == nil && slices.Equal(table, want)
}

// program makes the maps hold one service. It may be called again after it
// failed: m.actual says at each step what the maps hold.
func (m *Manager) program(ctx context.Context, s api.Service) error {
	want, err := wanted(s)
	if err != nil {
		return err
	}
	have, exists := m.actual[s.ID]
	if exists && have.key == want.key && have.entry == withSlot(want.entry, have.entry.Slot) &&
		!have.stale && sameBackends(have.ids, s.Backends) {
		return nil
	}
	if exists && have.key.Protocol != want.key.Protocol {
		// Its backends cannot be shared for a moment, so nothing is: the
		// service of the one protocol goes, that of the other comes.
		if err := m.remove(s.ID); err != nil {
			return err
		}
		have, exists = programmed{}, false
	}
	if !exists {
		if have, err = m.prepare(want); err != nil {
			return err
		}
	}
	want.entry.Slot = have.entry.Slot

	ids, err := m.writeBackends(have, s.Backends)
	if err != nil {
		m.dropBackends(have, ids, have.ids)
		if !exists {
			m.slots.retire(have.entry.Slot, ownerOf(have))
		}
		return err
	}
	// From here on the table may name any of them, so none is free.
	merged := have
	merged.ids, merged.stale = union(have.ids, ids), true
	m.actual[s.ID] = merged
	if err := m.wantHops(ctx, s.Backends); err != nil {
		return err
	}
	if err := m.switchOver(have, exists, want, ids); err != nil {
		return err
	}
	want.ids = ids
	m.actual[s.ID] = want
	m.dropBackends(want, have.ids, ids)
	return nil
}

// prepare gives a new service its slot, and to one that comes back the slot that it
// had, with what it has counted.
func (m *Manager) prepare(want programmed) (programmed, error) {
	slot, again, ok := m.slots.allot(ownerOf(want))
	if !ok {
		return programmed{}, tooMany("id", "services", m.store.Limits().Services)
	}
	want.entry.Slot = slot
	if again {
		return want, nil
	}
	m.backendIDs.forget(func(f former[backendOwner]) bool { return f.Owner.Slot == slot })
	if err := m.store.ClearServiceTraffic(slot); err != nil {
		m.slots.free(slot)
		return programmed{}, err
	}
	return want, nil
}

func ownerOf(p programmed) slotOwner {
	return slotOwner{ID: p.entry.ID, Frontend: p.key.Frontend, Protocol: p.key.Protocol}
}

func (p *programmed) backendOwner(b netip.AddrPort) backendOwner {
	return backendOwner{Slot: p.entry.Slot, Address: b, Protocol: p.key.Protocol}
}

// switchOver replaces the Maglev table and the service entry. They are two
// writes: a packet between them takes the entry's size and the other's table,
// so a larger table must be in place first, and stay until no entry has its
// size. Its slots all name backends that are there.
func (m *Manager) switchOver(have programmed, exists bool, want programmed, ids map[netip.AddrPort]uint32) error {
	table, err := tableOf(ids, want.key.Protocol, want.entry.TableSize)
	if err != nil {
		return err
	}
	writeTable := func() error { return m.store.PutTable(want.entry.Slot, table) }
	writeEntry := func() error { return m.store.PutService(want.key, want.entry) }
	deleteOld := func() error { return nil }
	moved := exists && have.key != want.key
	if moved {
		deleteOld = func() error { return m.store.DeleteService(have.key) }
	}
	steps := []func() error{writeTable, writeEntry, deleteOld}
	if exists && want.entry.TableSize < have.entry.TableSize {
		steps = []func() error{writeEntry, deleteOld, writeTable}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			if moved { // m.actual knows the old key only
				err = errors.Join(err, m.store.DeleteService(want.key))
			}
			return err
		}
	}
	return nil
}

// writeBackends gives ids to those of a service's backends that have none, and
// writes them. The ids are returned even with an error.
func (m *Manager) writeBackends(of programmed, backends []netip.AddrPort) (map[netip.AddrPort]uint32, error) {
	ids := make(map[netip.AddrPort]uint32, len(backends))
	for _, b := range backends {
		if id, ok := of.ids[b]; ok {
			ids[b] = id
			continue
		}
		id, again, ok := m.backendIDs.allot(of.backendOwner(b))
		if !ok {
			return ids, tooMany("backends", "backends", m.store.Limits().Backends-1)
		}
		if !again {
			if err := m.store.ClearBackendTraffic(id); err != nil {
				m.backendIDs.free(id)
				return ids, err
			}
		}
		ids[b] = id
		if err := m.store.PutBackend(id, datapath.Backend{Address: b, Protocol: of.key.Protocol}); err != nil {
			return ids, err
		}
	}
	return ids, nil
}

// dropBackends frees the ids of those of a service's backends that are not in
// keep. Nobody refers to them any more, so one that cannot be removed now harms
// nobody: it keeps its id, and the next agent's start removes it.
func (m *Manager) dropBackends(of programmed, ids, keep map[netip.AddrPort]uint32) {
	for _, b := range slices.SortedFunc(maps.Keys(ids), netip.AddrPort.Compare) {
		if id, kept := keep[b]; kept && id == ids[b] {
			continue
		}
		if err := m.store.DeleteBackend(ids[b]); err != nil {
			m.log.Warn("could not remove a backend that no service has", "backend", b, "id", ids[b], "error", err)
			continue
		}
		m.backendIDs.retire(ids[b], of.backendOwner(b))
	}
}

// remove takes a service out of the maps: first its entry, so that no packet
// looks for the rest.
func (m *Manager) remove(id uint32) error {
	have, ok := m.actual[id]
	if !ok {
		return nil
	}
	if err := m.store.DeleteService(have.key); err != nil {
		return err
	}
	if err := m.store.DeleteTable(have.entry.Slot); err != nil {
		return err
	}
	m.dropBackends(have, have.ids, nil)
	m.slots.retire(have.entry.Slot, ownerOf(have))
	delete(m.actual, id)
	return nil
}

// wanted is what the maps shall hold of a service; slot and ids are not known yet.
func wanted(s api.Service) (programmed, error) {
	protocol, err := datapath.ParseProtocol(s.Protocol)
	if err != nil {
		return programmed{}, err
	}
	mode, err := datapath.ParseMode(s.Mode)
	if err != nil {
		return programmed{}, err
	}
	return programmed{
		key:   datapath.ServiceKey{Frontend: s.Frontend, Protocol: protocol},
		entry: datapath.Service{ID: s.ID, TableSize: s.TableSize, Mode: mode},
	}, nil
}

func withSlot(s datapath.Service, slot uint32) datapath.Service {
	s.Slot = slot
	return s
}

func sameBackends(ids map[netip.AddrPort]uint32, backends []netip.AddrPort) bool {
	if len(ids) != len(backends) {
		return false
	}
	for _, b := range backends {
		if _, ok := ids[b]; !ok {
			return false
		}
	}
	return true
}

func union(a, b map[netip.AddrPort]uint32) map[netip.AddrPort]uint32 {
	both := make(map[netip.AddrPort]uint32, len(a)+len(b))
	maps.Copy(both, a)
	maps.Copy(both, b)
	return both
}

func tooMany(field, name string, limit uint32) error {
	return &api.Error{Field: field, Message: fmt.Sprintf("no room: the map `%s` holds %d", name, limit)}
}
