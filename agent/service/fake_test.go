package service

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	t        *testing.T
	limits   datapath.Limits
	services map[datapath.ServiceKey]datapath.Service
	backends map[uint32]datapath.Backend
	tables   map[uint32][]uint32
	// counted are the backend ids that have counters, which flows of tests set.
	counted map[uint32]bool
	writes  []string
	// onWrite, if not nil, is called at each write.
	onWrite func()
	// failAt is the write that fails, counted from 1; 0 is none. failures is how many do.
	failAt, failures int
}

var errWrite = errors.New("write failed")

func newFakeStore(t *testing.T) *fakeStore {
	return &fakeStore{
		t:        t,
		limits:   datapath.Limits{Services: 4, Backends: 16},
		services: make(map[datapath.ServiceKey]datapath.Service),
		backends: make(map[uint32]datapath.Backend),
		tables:   make(map[uint32][]uint32),
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
	for key, s := range f.services {
		table := f.tables[s.Slot]
		for slot := range s.TableSize {
			if slot >= uint32(len(table)) {
				f.t.Errorf("after %q: service %s reads slot %d of a table of %d", f.writes[len(f.writes)-1], key, slot, len(table))
				return
			}
			b, ok := f.backends[table[slot]]
			if !ok {
				f.t.Errorf("after %q: service %s sends to backend %d, which is not there", f.writes[len(f.writes)-1], key, table[slot])
				return
			}
			if b.Protocol != key.Protocol {
				f.t.Errorf("after %q: service %s sends to %v", f.writes[len(f.writes)-1], key, b)
				return
			}
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
	return f.write(func() { f.backends[id] = b }, "backend %d %s", id, b.Address)
}

func (f *fakeStore) DeleteBackend(id uint32) error {
	return f.write(func() { delete(f.backends, id) }, "delete backend %d", id)
}

func (f *fakeStore) Table(slot uint32) ([]uint32, error) { return f.tables[slot], nil }

func (f *fakeStore) PutTable(slot uint32, table []uint32) error {
	return f.write(func() { f.tables[slot] = table }, "table %d of %d", slot, len(table))
}

func (f *fakeStore) DeleteTable(slot uint32) error {
	return f.write(func() { delete(f.tables, slot) }, "delete table %d", slot)
}

// Want makes the store the NextHops too, so that their place among the writes shows.
func (f *fakeStore) Want(_ context.Context, backends []netip.Addr) error {
	if !slices.IsSortedFunc(backends, netip.Addr.Compare) {
		f.t.Errorf("unsorted: %v", backends)
	}
	return f.write(func() {}, "next hops %v", backends)
}

// snapshot is what the maps hold, to compare before with after.
func (f *fakeStore) snapshot() string {
	return fmt.Sprintf("%v\n%v\n%v", f.services, f.backends, f.tables)
}

func open(t *testing.T, store *fakeStore, stateFile string) *Manager {
	t.Helper()
	m, err := tryOpen(t, store, stateFile)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryOpen(t *testing.T, store *fakeStore, stateFile string) (*Manager, error) {
	t.Helper()
	saved, err := ReadState(stateFile)
	if err != nil {
		return nil, err
	}
	return Open(t.Context(), Options{
		Store:    store,
		NextHops: store,
		Saved:    saved,
		Own:      netip.MustParseAddr("20.1.1.1"),
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func stateFile(t *testing.T) string { return filepath.Join(t.TempDir(), "state.json") }

// svc is a TCP service in mode dsr with a small table.
func svc(id uint32, frontend string, backends ...string) api.Service {
	s := api.Service{ID: id, Frontend: netip.MustParseAddrPort(frontend), Protocol: "tcp", Mode: "dsr", TableSize: 251}
	for _, b := range backends {
		s.Backends = append(s.Backends, netip.MustParseAddrPort(b))
	}
	return s
}

func mustPut(t *testing.T, m *Manager, s api.Service) {
	t.Helper()
	if _, err := m.Put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// wantMaps compares the maps with the services: entries, tables, and nothing else.
func wantMaps(t *testing.T, store *fakeStore, services ...api.Service) {
	t.Helper()
	if len(store.services) != len(services) || len(store.tables) != len(services) {
		t.Errorf("%d entries and %d tables, want %d of each", len(store.services), len(store.tables), len(services))
	}
	backends := 0
	for _, s := range services {
		backends += len(s.Backends)
		want, err := wanted(s)
		if err != nil {
			t.Fatal(err)
		}
		entry, ok := store.services[want.key]
		if !ok {
			t.Errorf("no entry for %s", want.key)
			continue
		}
		if entry != withSlot(want.entry, entry.Slot) {
			t.Errorf("%s: entry %+v, want %+v", want.key, entry, want.entry)
		}
		var list []maglev.Backend
		for _, b := range s.Backends {
			for id, stored := range store.backends {
				if stored.Address == b && stored.Protocol == want.key.Protocol && slices.Contains(store.tables[entry.Slot], id) {
					list = append(list, maglev.Backend{ID: id, Address: b, Protocol: uint8(want.key.Protocol), Weight: 1})
				}
			}
		}
		table, err := maglev.Table(list, s.TableSize)
		if err != nil || !slices.Equal(table, store.tables[entry.Slot]) {
			t.Errorf("%s: the table in slot %d is not that of %v (%v)", want.key, entry.Slot, s.Backends, err)
		}
	}
	if len(store.backends) != backends {
		t.Errorf("%d backends in the map, want %d: %v", len(store.backends), backends, store.backends)
	}
}
