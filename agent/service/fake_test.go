package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// fakeStore is the maps in memory. After each write it checks what a packet
// that came then would meet, which is the promise of the package.
type fakeStore struct {
	t testing.TB
	// own is the balancer's IPv4 address.
	own      netip.Addr
	limits   datapath.Limits
	services map[datapath.ServiceKey]datapath.Service
	backends map[uint32]datapath.Backend
	tables   map[uint32][]uint32
	sources  map[uint32][]netip.Prefix
	// hops are the addresses whose next hops are followed.
	hops map[netip.Addr]bool
	// unhealthy are the backends that failed their checks.
	unhealthy map[uint32]map[netip.AddrPort]bool
	// undeleted are the ids that nobody has, and that could not be deleted.
	undeleted map[uint32]backendOwner
	// counted are the backend ids that have counters, which flows of tests set.
	counted map[uint32]bool
	writes  []string
	// onWrite, if not nil, is called at each write.
	onWrite func()
	// failAt is the write that fails, counted from 1; 0 is none. failures is how many do.
	failAt, failures int
	// unreadable has the tables be written only.
	unreadable bool
}

var errWrite = errors.New("write failed")

func newFakeStore(t testing.TB) *fakeStore {
	return &fakeStore{
		t:        t,
		own:      netip.MustParseAddr("20.1.1.1"),
		limits:   datapath.Limits{Services: 4, Backends: 16, Sources: 8},
		services: make(map[datapath.ServiceKey]datapath.Service),
		backends: make(map[uint32]datapath.Backend),
		tables:   make(map[uint32][]uint32),
		sources:  make(map[uint32][]netip.Prefix),
		hops:     make(map[netip.Addr]bool),
		counted:  make(map[uint32]bool),
	}
}

// write notes a write, fails it if it is its turn, and looks at what packets meet.
func (f *fakeStore) write(do func(), format string, args ...any) error {
	f.writes = append(f.writes, fmt.Sprintf(format, args...))
	if f.onWrite != nil {
		f.onWrite()
	}
	if f.failAt != 0 && len(f.writes) >= f.failAt && f.failures > 0 {
		f.failures--
		return errWrite
	}
	do()
	f.check()
	return nil
}

// check sends a packet to every slot of every service.
func (f *fakeStore) check() {
	f.t.Helper()
	last := f.writes[len(f.writes)-1]
	for key, s := range f.services {
		table := f.tables[s.Slot]
		if s.TableSize > uint32(len(table)) {
			f.t.Errorf("after %q: service %s reads %d slots of a table of %d", last, key, s.TableSize, len(table))
			return
		}
		for _, id := range slices.Compact(slices.Sorted(slices.Values(table[:s.TableSize]))) {
			b, ok := f.backends[id]
			if !ok || b.State != datapath.Active || b.ServiceSlot != s.Slot || b.ServiceID != s.ID {
				f.t.Errorf("after %q: service %s sends to backend %d, which is %+v", last, key, id, b)
				return
			}
		}
		if s.Ranges && len(f.sources[s.Slot]) == 0 {
			f.t.Errorf("after %q: service %s lets nobody in", last, key)
			return
		}
	}
}

func (f *fakeStore) Limits() datapath.Limits { return f.limits }

func (f *fakeStore) Services() (map[datapath.ServiceKey]datapath.Service, error) {
	return maps.Clone(f.services), nil
}

func (f *fakeStore) PutService(k datapath.ServiceKey, s datapath.Service) error {
	return f.write(func() { f.services[k] = s }, "service %s", k)
}

func (f *fakeStore) DeleteService(k datapath.ServiceKey) error {
	return f.write(func() { delete(f.services, k) }, "delete service %s", k)
}

func (f *fakeStore) ClearServiceTraffic(slot uint32) error {
	return f.write(func() {}, "clear slot %d", slot)
}

func (f *fakeStore) ClearBackendTraffic(id uint32) error {
	return f.write(func() { delete(f.counted, id) }, "clear backend %d", id)
}

func (f *fakeStore) Backends() (map[uint32]datapath.Backend, error) {
	return maps.Clone(f.backends), nil
}

func (f *fakeStore) Slots() ([]uint32, error) { return slices.Collect(maps.Keys(f.tables)), nil }

func (f *fakeStore) PutBackend(id uint32, b datapath.Backend) error {
	return f.write(func() { f.backends[id] = b }, "backend %d %s %s", id, b.Address, b.State)
}

func (f *fakeStore) PutBackends(backends map[uint32]datapath.Backend) error {
	return f.write(func() { maps.Copy(f.backends, backends) }, "%d backends", len(backends))
}

func (f *fakeStore) DeleteBackend(id uint32) error {
	return f.write(func() { delete(f.backends, id) }, "delete backend %d", id)
}

func (f *fakeStore) Table(slot uint32) ([]uint32, error) {
	if f.unreadable {
		return nil, fmt.Errorf("read slot %d: %w", slot, fs.ErrPermission)
	}
	return f.tables[slot], nil
}

func (f *fakeStore) PutTable(slot uint32, table []uint32) error {
	return f.write(func() { f.tables[slot] = table }, "table %d of %d", slot, len(table))
}

func (f *fakeStore) PutTables(tables map[uint32][]uint32) error {
	return f.write(func() { maps.Copy(f.tables, tables) }, "%d tables", len(tables))
}

func (f *fakeStore) Sources(slot uint32) ([]netip.Prefix, error) { return f.sources[slot], nil }

func (f *fakeStore) PutSources(slot uint32, allowed []netip.Prefix) error {
	return f.write(func() {
		f.sources[slot] = allowed
		if len(allowed) == 0 {
			delete(f.sources, slot)
		}
	}, "sources %d %v", slot, allowed)
}

func (f *fakeStore) DeleteTable(slot uint32) error {
	return f.write(func() { delete(f.tables, slot) }, "delete table %d", slot)
}

// Want makes the store the NextHops too, so that their place among the writes shows.
func (f *fakeStore) Want(_ context.Context, backends []netip.Addr) error {
	if !slices.IsSortedFunc(backends, netip.Addr.Compare) {
		f.t.Errorf("unsorted: %v", backends)
	}
	return f.write(func() {
		for _, b := range backends {
			f.hops[b] = true
		}
	}, "next hops %v", backends)
}

func (f *fakeStore) Drop(backend netip.Addr) error {
	return f.write(func() { delete(f.hops, backend) }, "drop next hop %s", backend)
}

// snapshot is what the maps hold, to compare before with after.
func (f *fakeStore) snapshot() string {
	return fmt.Sprintf("%v\n%v\n%v\n%v\n%v", f.services, f.backends, f.tables, f.sources, f.hops)
}

func open(t testing.TB, store *fakeStore, stateFile string) *Manager {
	t.Helper()
	m, err := tryOpen(t, store, stateFile)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryOpen(t testing.TB, store *fakeStore, stateFile string) (*Manager, error) {
	t.Helper()
	saved, err := ReadState(stateFile)
	if err != nil {
		return nil, err
	}
	return Open(t.Context(), Options{
		Store:    store,
		NextHops: store,
		Saved:    saved,
		Own4:     store.own,
		Own6:     netip.MustParseAddr("fd00::1"),
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func stateFile(t testing.TB) string { return filepath.Join(t.TempDir(), "state.json") }

// svc is a TCP service in mode dsr with a small table.
func svc(id uint32, frontend string, backends ...string) api.Service {
	s := api.Service{ID: id, Frontend: netip.MustParseAddrPort(frontend), Protocol: "tcp", Mode: "dsr", Encap: "ipip", Selection: "maglev", TableSize: 251}
	for _, b := range backends {
		s.Backends = append(s.Backends, api.Backend{Address: netip.MustParseAddrPort(b)})
	}
	return s
}

func mustPut(t testing.TB, m *Manager, s api.Service) {
	t.Helper()
	if _, err := m.Put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// wantMaps compares the maps with the services: entries, tables, backends, and nothing
// else but backends that are on their way out.
func wantMaps(t testing.TB, store *fakeStore, services ...api.Service) {
	t.Helper()
	if len(store.services) != len(services) {
		t.Errorf("%d entries, want %d", len(store.services), len(services))
	}
	m := &Manager{own4: store.own, own6: netip.MustParseAddr("fd00::1"), unhealthy: store.unhealthy}
	found, tables := make(map[uint32]bool), 0
	for _, s := range services {
		want, err := m.targetOf(complete(s, "dsr"))
		if err != nil {
			t.Fatal(err)
		}
		entry, ok := store.services[want.key]
		if !ok {
			t.Errorf("no entry for %s", want.key)
			continue
		}
		want.entry.Slot = entry.Slot
		if entry != want.entry {
			t.Errorf("%s: entry %+v, want %+v", want.key, entry, want.entry)
		}
		members := make(map[netip.AddrPort]*member)
		for id, b := range store.backends {
			if _, left := store.undeleted[id]; left || b.ServiceSlot != entry.Slot {
				continue
			}
			wanted, ok := want.members[b.Address]
			if !ok && b.State == datapath.Draining {
				found[id] = true
				continue
			}
			if wanted.ServiceSlot = entry.Slot; b != wanted {
				t.Errorf("%s: backend %d is %+v, want %+v", want.key, id, b, wanted)
			}
			members[b.Address], found[id] = &member{id: id}, true
		}
		if len(members) != len(want.members) {
			t.Errorf("%s: %d backends, want %d", want.key, len(members), len(want.members))
			continue
		}
		if !slices.Equal(store.sources[entry.Slot], want.sources) {
			t.Errorf("%s: sources %v, want %v", want.key, store.sources[entry.Slot], want.sources)
		}
		if want.entry.TableSize == 0 {
			continue
		}
		tables++
		table, err := maglev.Table(candidates(want.shares, members, want.key.Protocol), want.entry.TableSize)
		if err != nil || !slices.Equal(table, store.tables[entry.Slot]) {
			t.Errorf("%s: the table in slot %d is not that of %v (%v)", want.key, entry.Slot, s.Backends, err)
		}
	}
	if len(store.tables) != tables {
		t.Errorf("%d tables, want %d", len(store.tables), tables)
	}
	if len(found)+len(store.undeleted) != len(store.backends) {
		t.Errorf("%d backends in the map, want %d: %v", len(store.backends), len(found), store.backends)
	}
}

// sweep tells the manager twice that connections have only these backend ids.
func sweep(t testing.TB, m *Manager, ids ...uint32) {
	t.Helper()
	flows := make(map[uint32]int)
	for _, id := range ids {
		flows[id] = 1
	}
	for range quietSweeps {
		m.Swept(t.Context(), flows)
	}
}

// revised are services as they are after their first change but for what makes no difference.
func revised(services ...api.Service) []api.Service {
	for i := range services {
		services[i].Revision = uint64(i + 1)
	}
	return services
}
