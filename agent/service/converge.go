package service

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// step is what has to be done for one service.
type step struct {
	want target
	have *programmed
	// list is what its Maglev table is to be made from.
	list []maglev.Backend
	// due are the backends that have to be written before the table names them.
	due map[*member]datapath.Backend
	// shrinks says that its table gets smaller, or goes.
	shrinks bool
}

// converge makes the maps hold these services as they are desired. All go through each
// stage together: one wait for the next hops, and few writes for many tables. It may be
// called again after it failed: m.actual says at each moment what the maps hold.
//
// Table and entry of a service are two writes: a packet between them takes the entry's
// size and the other's table, so a larger table must be in place first, and stay
// until no entry has its size. Its slots all name backends that are there and active.
func (m *Manager) converge(ctx context.Context, ids []uint32) error {
	var gone []uint32
	var steps []*step
	for _, id := range ids {
		if _, wanted := m.desired.services[id]; !wanted {
			gone = append(gone, id)
		}
	}
	// A frontend that one service leaves to another is taken over without a
	// gap, if there is room for both.
	if m.slotsNeeded(ids) > 0 {
		if err := m.removeAll(gone); err != nil {
			return err
		}
		gone = nil
	}
	for _, id := range ids {
		s, wanted := m.desired.services[id]
		if !wanted {
			continue
		}
		st, err := m.begin(s)
		if st != nil {
			steps = append(steps, st)
		}
		if err != nil {
			return err
		}
	}
	if err := m.putMembers(steps); err != nil {
		return err
	}
	if err := m.wantHops(ctx); err != nil {
		return err
	}
	for _, stage := range []func(*step) error{m.allowSources, m.shrinkEntry} {
		if err := each(steps, stage); err != nil {
			return err
		}
	}
	if err := m.putTables(steps); err != nil {
		return err
	}
	for _, stage := range []func(*step) error{m.putEntry, m.dropKeys, m.finish} {
		if err := each(steps, stage); err != nil {
			return err
		}
	}
	return m.removeAll(gone)
}

func each(steps []*step, do func(*step) error) error {
	for _, st := range steps {
		if err := do(st); err != nil {
			return err
		}
	}
	return nil
}

// slotsNeeded is how many slots are missing as long as no service has gone.
func (m *Manager) slotsNeeded(ids []uint32) int {
	added := 0
	for _, id := range ids {
		_, wanted := m.desired.services[id]
		if _, exists := m.actual[id]; wanted && !exists {
			added++
		}
	}
	return added - m.slots.room()
}

// begin finds out what is to be done for a service, gives the numbers that are
// missing, and says which backends to write. What was given is in m.actual, also with an error.
func (m *Manager) begin(s api.Service) (*step, error) {
	want, err := m.targetOf(s)
	if err != nil {
		return nil, err
	}
	have, exists := m.actual[s.ID]
	if !exists {
		if have, err = m.newService(want); err != nil {
			return nil, err
		}
		m.actual[s.ID] = have
	}
	st := &step{want: want, have: have, due: make(map[*member]datapath.Backend)}
	st.want.entry.Slot = have.entry.Slot
	for _, b := range s.Backends {
		wanted := want.members[b.Address]
		wanted.ServiceSlot = have.entry.Slot
		want.members[b.Address] = wanted
		member := have.members[b.Address]
		switch {
		case member == nil:
			member, err = m.newMember(have, b.Address)
			if err != nil {
				return st, err
			}
		case wanted == member.entry && !member.unsure, wanted.State != datapath.Active:
			continue
		}
		st.due[member] = wanted
	}
	st.list = candidates(want.shares, have.members, want.key.Protocol)
	st.shrinks = want.entry.TableSize < have.entry.TableSize
	return st, nil
}

// newService gives a new service its slot, and to one that comes back the slot that it
// had, with what it has counted.
func (m *Manager) newService(want target) (*programmed, error) {
	p := &programmed{key: want.key, members: make(map[netip.AddrPort]*member)}
	p.entry.ID = want.entry.ID
	slot, again, ok := m.slots.allot(p.owner())
	if !ok {
		return nil, tooMany("id", "services", m.store.Limits().Services)
	}
	p.entry.Slot = slot
	if again {
		return p, nil
	}
	m.backendIDs.forget(func(f former[backendOwner]) bool { return f.Owner.Slot == slot })
	m.reusedSlots = append(m.reusedSlots, slot)
	if err := m.store.ClearServiceTraffic(slot); err != nil {
		m.slots.free(slot)
		return nil, err
	}
	return p, nil
}

// newMember gives a backend its id, or the one that it had.
func (m *Manager) newMember(of *programmed, address netip.AddrPort) (*member, error) {
	owner := of.backendOwner(address)
	_, flows := m.backendIDs.held[m.backendIDs.owners[owner]]
	id, again, ok := m.backendIDs.allot(owner)
	if !ok {
		return nil, tooMany("backends", "backends", m.store.Limits().Backends-1)
	}
	if !again {
		if err := m.store.ClearBackendTraffic(id); err != nil {
			m.backendIDs.free(id)
			return nil, err
		}
	}
	member := &member{id: id, exposed: again && flows}
	of.members[address] = member
	m.refer(address.Addr())
	return member, nil
}

// putMembers writes the backends that are due, of all services at once.
func (m *Manager) putMembers(steps []*step) error {
	entries := make(map[uint32]datapath.Backend)
	for _, st := range steps {
		for member, entry := range st.due {
			member.unsure = true
			entries[member.id] = entry
		}
	}
	switch len(entries) {
	case 0:
		return nil
	case 1:
		for id, entry := range entries {
			if err := m.store.PutBackend(id, entry); err != nil {
				return err
			}
		}
	default:
		if err := m.store.PutBackends(entries); err != nil {
			return err
		}
	}
	for _, st := range steps {
		for member, entry := range st.due {
			member.written(entry)
		}
		st.due = nil
	}
	return nil
}

func (m *Manager) putMember(b *member, entry datapath.Backend) error {
	b.unsure = true
	if err := m.store.PutBackend(b.id, entry); err != nil {
		return err
	}
	b.written(entry)
	return nil
}

func (b *member) written(entry datapath.Backend) {
	b.entry, b.unsure = entry, false
	b.quiet, b.cut = 0, false
}

// wantHops asks for the next hops of addresses that are new.
func (m *Manager) wantHops(ctx context.Context) error {
	due := slices.DeleteFunc(m.hopsDue, func(a netip.Addr) bool { return m.hopUsers[a] == 0 })
	if len(due) == 0 {
		return nil
	}
	slices.SortFunc(due, netip.Addr.Compare)
	m.hopsDue = slices.Compact(due) // and still, if it fails
	if err := m.hops.Want(ctx, m.hopsDue); err != nil {
		return fmt.Errorf("find the next hops towards the backends: %w", err)
	}
	m.hopsDue = nil
	return nil
}

// allowSources writes the source ranges before an entry heeds them.
func (m *Manager) allowSources(st *step) error {
	if len(st.want.sources) == 0 {
		return nil
	}
	return m.putSources(st)
}

func (m *Manager) putSources(st *step) error {
	p := st.have
	if slices.Equal(p.sources, st.want.sources) && !p.unsure.sources {
		return nil
	}
	p.unsure.sources = true
	if err := m.store.PutSources(p.entry.Slot, st.want.sources); err != nil {
		return err
	}
	p.sources, p.unsure.sources = st.want.sources, false
	return nil
}

// shrinkEntry has every entry of a service say the smaller size before its table is of that.
func (m *Manager) shrinkEntry(st *step) error {
	if !st.shrinks {
		return nil
	}
	held := slices.Clone(st.have.keys)
	if err := m.writeEntry(st.have, st.want.key, st.want.entry); err != nil {
		return err
	}
	st.have.key = st.want.key
	for _, key := range held {
		if key == st.want.key || m.holders[key] != st.want.entry.ID {
			continue
		}
		if err := m.writeEntry(st.have, key, st.want.entry); err != nil {
			return err
		}
	}
	return nil
}

// putEntry writes the service's entry if it is not as it shall be, or another service's.
func (m *Manager) putEntry(st *step) error {
	p := st.have
	if holder, held := m.holders[st.want.key]; held && holder == st.want.entry.ID &&
		p.key == st.want.key && p.entry == st.want.entry && !p.unsure.entry {
		return nil
	}
	if err := m.writeEntry(p, st.want.key, st.want.entry); err != nil {
		return err
	}
	p.key = st.want.key
	return nil
}

func (m *Manager) writeEntry(p *programmed, key datapath.ServiceKey, entry datapath.Service) error {
	m.holders[key] = entry.ID
	if !slices.Contains(p.keys, key) {
		p.keys = append(p.keys, key)
	}
	p.unsure.entry = true
	if err := m.store.PutService(key, entry); err != nil {
		return err
	}
	p.entry, p.unsure.entry = entry, false
	return nil
}

// dropKeys removes the entries of a service under frontends that it had.
func (m *Manager) dropKeys(st *step) error {
	return m.dropKeysBut(st.have, st.want.key)
}

func (m *Manager) dropKeysBut(p *programmed, keep datapath.ServiceKey) error {
	for _, key := range slices.Clone(p.keys) {
		if key == keep {
			continue
		}
		if m.holders[key] == p.entry.ID { // else another service has taken it over
			if err := m.store.DeleteService(key); err != nil {
				return err
			}
			delete(m.holders, key)
		}
		p.keys = slices.DeleteFunc(p.keys, func(k datapath.ServiceKey) bool { return k == key })
	}
	return nil
}

// finish does what can wait until no packet is sent by the old table: it takes
// backends out of use. One that left stays, draining, while it may have flows.
func (m *Manager) finish(st *step) error {
	p := st.have
	if err := m.putSources(st); err != nil {
		return err
	}
	for _, address := range slices.SortedFunc(maps.Keys(p.members), netip.AddrPort.Compare) {
		member := p.members[address]
		entry, wanted := st.want.members[address]
		if !wanted {
			written := member.entry.State != datapath.Gone
			if !written || !member.exposed || member.cut || member.quiet >= quietSweeps {
				m.dropMember(p, address)
				continue
			}
			entry = member.entry
			entry.State = datapath.Draining
		}
		if entry != member.entry || member.unsure {
			if err := m.putMember(member, entry); err != nil {
				return err
			}
		}
	}
	m.noteLeaving(st.want.entry.ID)
	return nil
}
