package service

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// The values of api.ServiceDiff.Change.
const (
	diffMissing  = "missing"
	diffUnwanted = "unwanted"
	diffChanged  = "changed"
)

// Diff compares services with what the maps hold now, read anew, ordered by id. Nil services are
// those of the Manager. A backend that left its service and waits for its last
// connection is no difference, nor is one that its health check quarantined.
//
// Tables are not compared where the process may not read them, which unread tells.
func (m *Manager) Diff(wanted []api.Service) (diffs []api.ServiceDiff, unread bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, err := m.readHeld()
	if err != nil {
		return nil, false, err
	}
	services := maps.Clone(m.desired.services)
	if wanted != nil {
		services = make(map[uint32]api.Service, len(wanted))
		for _, s := range m.withoutDrained(wanted) {
			services[s.ID] = complete(s, m.desired.mode)
		}
	}
	diffs = []api.ServiceDiff{}
	for _, id := range slices.Sorted(maps.Keys(services)) {
		diff, err := m.diffOf(services[id], held[id])
		if unreadable(err) {
			unread = true
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("service %d: %w", id, err)
		}
		if diff.Change != "" {
			diffs = append(diffs, diff)
		}
	}
	for id, has := range held {
		if _, wanted := services[id]; !wanted {
			diffs = append(diffs, api.ServiceDiff{ID: id, Frontend: has.key.Frontend, Protocol: has.key.Protocol.String(), Change: diffUnwanted})
		}
	}
	slices.SortStableFunc(diffs, func(a, b api.ServiceDiff) int { return int(int64(a.ID) - int64(b.ID)) })
	return diffs, unread, nil
}

// readHeld reads the services that the maps hold, but for their tables.
func (m *Manager) readHeld() (map[uint32]*programmed, error) {
	services, err := m.store.Services()
	if err != nil {
		return nil, err
	}
	backends, err := m.store.Backends()
	if err != nil {
		return nil, err
	}
	held := make(map[uint32]*programmed, len(services))
	for key, entry := range services {
		p := &programmed{key: key, entry: entry, members: make(map[netip.AddrPort]*member)}
		if entry.Ranges {
			if p.sources, err = m.store.Sources(entry.Slot); err != nil {
				return nil, err
			}
			slices.SortFunc(p.sources, netip.Prefix.Compare)
		}
		held[entry.ID] = p
	}
	for id, b := range backends {
		if p := held[b.ServiceID]; p != nil && p.entry.Slot == b.ServiceSlot {
			b.MAC = datapath.MAC{}
			p.members[b.Address] = &member{id: id, entry: b}
		}
	}
	return held, nil
}

// differences are one service's.
type differences []api.FieldDiff

func (d *differences) add(field string, desired, actual any) {
	if fmt.Sprint(desired) != fmt.Sprint(actual) {
		*d = append(*d, api.FieldDiff{Field: field, Desired: fmt.Sprint(desired), Actual: fmt.Sprint(actual)})
	}
}

// diffOf compares a complete service with what is held of it, nil for nothing.
func (m *Manager) diffOf(s api.Service, has *programmed) (api.ServiceDiff, error) {
	diff := api.ServiceDiff{ID: s.ID, Frontend: s.Frontend, Protocol: s.Protocol}
	if has == nil {
		diff.Change = diffMissing
		return diff, nil
	}
	want, err := m.targetOf(s)
	if err != nil {
		return diff, err
	}
	var d differences
	d.add("frontend", want.key.Frontend, has.key.Frontend)
	d.add("protocol", want.key.Protocol, has.key.Protocol)
	d.add("mode", want.entry.Mode, has.entry.Mode)
	d.add("selection", selectionName(want.entry.Random), selectionName(has.entry.Random))
	d.add("affinity", want.entry.Affinity, has.entry.Affinity)
	d.add("sources", prefixNames(want.sources), prefixNames(has.sources))
	d.add("mss", want.entry.MSS, has.entry.MSS)
	d.add("tableSize", want.entry.TableSize, has.entry.TableSize)
	d.members(want, has)
	stored, known := m.desired.services[s.ID]
	if known {
		d.stored(s, stored)
	}
	if len(d) == 0 {
		if err := m.diffTable(&d, want, has); err != nil {
			return diff, err
		}
	}
	if len(d) > 0 {
		diff.Change, diff.Fields = diffChanged, d
	}
	return diff, nil
}

// members compares the backends.
func (d *differences) members(want target, has *programmed) {
	for _, address := range slices.SortedFunc(maps.Keys(want.members), netip.AddrPort.Compare) {
		field := fmt.Sprintf("backends[%s]", address)
		entry, member := want.members[address], has.members[address]
		if member == nil {
			d.add(field, entry.State, "not there")
			continue
		}
		d.add(field+".state", entry.State, member.entry.State)
		d.add(field+".encap", entry.Encap, member.entry.Encap)
		d.add(field+".outerSource", outerName(entry), outerName(member.entry))
	}
	for _, address := range slices.SortedFunc(maps.Keys(has.members), netip.AddrPort.Compare) {
		if _, wanted := want.members[address]; !wanted && has.members[address].entry.State != datapath.Draining {
			d.add(fmt.Sprintf("backends[%s]", address), "not there", has.members[address].entry.State)
		}
	}
}

// stored compares what the maps do not say with what the Manager has.
func (d *differences) stored(s, has api.Service) {
	at := make(map[netip.AddrPort]api.Backend, len(has.Backends))
	for _, b := range has.Backends {
		at[b.Address] = b
	}
	for _, b := range s.Backends {
		field := fmt.Sprintf("backends[%s]", b.Address)
		h, there := at[b.Address]
		if !there {
			continue
		}
		d.add(field+".weight", b.Share(), h.Share())
		if b.DrainUntil != nil {
			d.add(field+".drainUntil", deadlineName(b), deadlineName(h))
		}
	}
	d.add("healthCheck", checkName(s.HealthCheck), checkName(has.HealthCheck))
}

// diffTable compares the Maglev table, of whose backends each is there.
func (m *Manager) diffTable(d *differences, want target, has *programmed) error {
	table, err := m.store.Table(has.entry.Slot)
	if err != nil {
		return err
	}
	var due []uint32
	if want.entry.TableSize > 0 {
		if due, err = maglev.Table(candidates(want.shares, has.members, want.key.Protocol), want.entry.TableSize); err != nil {
			return err
		}
	}
	if len(table) != len(due) {
		d.add("table", fmt.Sprintf("%d slots", len(due)), fmt.Sprintf("%d slots", len(table)))
		return nil
	}
	others := 0
	for i := range due {
		if table[i] != due[i] {
			others++
		}
	}
	if others > 0 {
		d.add("table", "as the weights give it", fmt.Sprintf("%d of %d slots name another backend", others, len(table)))
	}
	return nil
}

func selectionName(random bool) string {
	if random {
		return selectRandom
	}
	return selectMaglev
}

func prefixNames(all []netip.Prefix) string {
	if len(all) == 0 {
		return "all"
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.String()
	}
	return strings.Join(names, ",")
}

func outerName(b datapath.Backend) string {
	switch {
	case b.Encap != datapath.IPIP || !b.Outer.IsValid():
		return "none"
	case b.Outer.IsSingleIP():
		return b.Outer.Addr().String()
	}
	return b.Outer.String()
}

func deadlineName(b api.Backend) string {
	if b.DrainUntil == nil {
		return "none"
	}
	return b.DrainUntil.UTC().Format(time.RFC3339)
}

func checkName(c *api.HealthCheck) string {
	if c == nil {
		return "none"
	}
	text, err := json.Marshal(c)
	if err != nil {
		return strconv.Quote(err.Error())
	}
	return string(text)
}
