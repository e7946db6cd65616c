package service

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// programmed is what the maps hold of a service.
type programmed struct {
	key   datapath.ServiceKey
	entry datapath.Service
	// keys are those under which the maps may have an entry of it, key among
	// them: two while its frontend changes.
	keys []datapath.ServiceKey
	// members are its backends, and those that left it and may still have flows.
	members map[netip.AddrPort]*member
	// table is what its Maglev table was made from, of which tableSize is the size; 0: there is none.
	table     []maglev.Backend
	tableSize uint32
	sources   []netip.Prefix
	// unsure says which writes failed, so that the maps may hold the old or the new.
	unsure struct{ entry, table, sources bool }
}

// member is a backend's id and its entry in the maps.
type member struct {
	id     uint32
	entry  datapath.Backend
	unsure bool
	// exposed says that a table may have named it, so that it may have flows.
	exposed bool
	// quiet is in how many sweeps in a row it had none.
	quiet int
	// cut says that its flows shall not be waited for.
	cut bool
}

func (p *programmed) owner() slotOwner {
	return slotOwner{ID: p.entry.ID, Frontend: p.key.Frontend, Protocol: p.key.Protocol}
}

func (p *programmed) backendOwner(b netip.AddrPort) backendOwner {
	return backendOwner{Slot: p.entry.Slot, Address: b, Protocol: p.key.Protocol}
}

// readActual learns from the maps which services there are, and the numbers
// that they use. What does not fit together is taken as far as it goes and
// marked: converge makes it right. What an agent left that died between
// two writes, and nobody refers to, is removed.
func (m *Manager) readActual() error {
	services, err := m.store.Services()
	if err != nil {
		return err
	}
	backends, err := m.store.Backends()
	if err != nil {
		return err
	}
	type place struct{ service, slot uint32 }
	of := make(map[place][]uint32)
	for id, b := range backends {
		at := place{b.ServiceID, b.ServiceSlot}
		of[at] = append(of[at], id)
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
		p := &programmed{key: key, entry: entry, keys: []datapath.ServiceKey{key}, members: make(map[netip.AddrPort]*member)}
		if err := m.adoptMembers(p, of[place{entry.ID, entry.Slot}], backends); err != nil {
			return err
		}
		if entry.Ranges {
			if p.sources, err = m.store.Sources(entry.Slot); err != nil {
				return err
			}
			slices.SortFunc(p.sources, netip.Prefix.Compare)
		}
		m.slots.take(entry.Slot)
		m.actual[entry.ID] = p
		m.holders[key] = entry.ID
	}
	return m.removeLeftovers(backends)
}

// adoptMembers takes over a service's backends. Of two with one address, the
// one counts that the table names: the other could not be removed.
func (m *Manager) adoptMembers(p *programmed, ids []uint32, backends map[uint32]datapath.Backend) error {
	slices.Sort(ids)
	for _, id := range ids {
		b := backends[id]
		if has := p.members[b.Address]; has != nil {
			table, err := m.store.Table(p.entry.Slot)
			if err != nil && !unreadable(err) {
				return err
			}
			if !slices.Contains(table, id) {
				continue // a leftover, as removeLeftovers sees
			}
			m.backendIDs.free(has.id)
		} else {
			m.refer(b.Address.Addr())
		}
		b.MAC = datapath.MAC{}
		p.members[b.Address] = &member{id: id, entry: b, exposed: true}
		m.backendIDs.take(id)
	}
	return nil
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
		if err := errors.Join(m.store.DeleteTable(slot), m.store.PutSources(slot, nil)); err != nil {
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
		m.backendIDs.hold(id)
	}
	return nil
}

// desiredFirst returns the keys so that, of two entries of one service, the
// one that is wanted comes first.
func (m *Manager) desiredFirst(services map[datapath.ServiceKey]datapath.Service) []datapath.ServiceKey {
	rank := func(k datapath.ServiceKey) int {
		if s, ok := m.desired.services[services[k].ID]; ok && s.Frontend == k.Frontend && s.Protocol == k.Protocol.String() {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(maps.Keys(services), func(a, b datapath.ServiceKey) int { return rank(a) - rank(b) })
}

// readTables finds out of which services the table in the map is the one that
// it shall be. Each takes about as long as computing it, so all processors help.
func (m *Manager) readTables() error {
	var checking sync.WaitGroup
	var mu sync.Mutex
	var faults []error
	work := make(chan uint32)
	for range runtime.GOMAXPROCS(0) {
		checking.Go(func() {
			for id := range work {
				if err := m.readTable(m.actual[id]); err != nil {
					mu.Lock()
					faults = append(faults, err)
					mu.Unlock()
				}
			}
		})
	}
	for id := range m.actual {
		work <- id
	}
	close(work)
	checking.Wait()
	return errors.Join(faults...)
}

func (m *Manager) readTable(p *programmed) error {
	p.unsure.table = true
	table, err := m.store.Table(p.entry.Slot)
	if unreadable(err) {
		p.tableSize = p.entry.TableSize
		return nil // it is written anew
	}
	if err != nil {
		return err
	}
	p.tableSize = uint32(len(table))
	if p.tableSize == 0 {
		p.unsure.table = false
		return nil
	}
	shares := m.sharesIn(p, table)
	list := candidates(shares, p.members, p.key.Protocol)
	want, err := maglev.Table(list, p.tableSize)
	if err != nil || !slices.Equal(table, want) {
		return nil // it is written anew
	}
	p.table, p.unsure.table = list, false
	return nil
}

// unreadable says that the process may write tables and not read them: to open an inner
// map by its id needs CAP_SYS_ADMIN, besides CAP_BPF (bpf_map_get_fd_by_id, kernel/bpf/syscall.c).
func unreadable(err error) bool { return errors.Is(err, fs.ErrPermission) }

// sharesIn are the weights from which a service's table should have been made:
// those that are desired, else equal ones of the backends that it names.
func (m *Manager) sharesIn(p *programmed, table []uint32) map[netip.AddrPort]uint32 {
	named := make(map[uint32]bool)
	for _, id := range table {
		named[id] = true
	}
	weights := make(map[netip.AddrPort]uint32)
	if s, wanted := m.desired.services[p.entry.ID]; wanted {
		for _, b := range s.Backends {
			weights[b.Address] = uint32(b.Share())
		}
	}
	shares := make(map[netip.AddrPort]uint32)
	for address, member := range p.members {
		if !named[member.id] {
			continue
		}
		shares[address] = 1
		if w, ok := weights[address]; ok && w > 0 {
			shares[address] = w
		}
	}
	return shares
}

// adopt makes what the maps hold the desired state. They do not say weights: they
// are taken to be equal. What is draining there has left its service, or was to.
func (m *Manager) adopt() {
	for _, id := range slices.Sorted(maps.Keys(m.actual)) {
		if s := m.adopted(m.actual[id]); len(s.Backends) > 0 {
			m.desired.add(s)
			m.log.Info("service adopted from the pinned maps", "id", id, "frontend", s.Frontend)
		}
	}
}

func (m *Manager) adopted(p *programmed) api.Service {
	s := api.Service{
		ID:        p.entry.ID,
		Frontend:  p.key.Frontend,
		Protocol:  p.key.Protocol.String(),
		Mode:      p.entry.Mode.String(),
		Affinity:  api.Duration(p.entry.Affinity),
		Sources:   p.sources,
		MSS:       p.entry.MSS,
		TableSize: p.entry.TableSize,
		Revision:  1,
	}
	if p.entry.Random {
		s.Selection = selectRandom
	}
	byID := func(a, b netip.AddrPort) int { return int(p.members[a].id) - int(p.members[b].id) }
	for _, address := range slices.SortedFunc(maps.Keys(p.members), byID) {
		entry := p.members[address].entry
		if entry.State == datapath.Draining {
			continue
		}
		b := api.Backend{Address: address}
		if entry.State == datapath.Maintenance {
			b.State = entry.State.String()
		}
		s.Backends = append(s.Backends, b)
		s.Encap = entry.Encap.String()
		own := m.own(address.Addr())
		switch {
		case entry.Encap != datapath.IPIP || !entry.Outer.IsValid():
		case entry.Outer.IsSingleIP() && entry.Outer.Addr() != own:
			s.OuterSource = entry.Outer.Addr().String()
		case !entry.Outer.IsSingleIP():
			s.OuterSource = entry.Outer.String()
		}
	}
	return complete(s, p.entry.Mode.String())
}
