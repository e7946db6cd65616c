package service

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func TestNewServiceIsWrittenFromTheEndsToItsEntry(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	store.writes = nil
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	want := []string{
		"clear slot 0", "clear backend 1", "clear backend 2", "2 backends",
		"next hops [20.1.1.10 20.1.1.20]", "table 0 of 251", "service 40.1.1.1:80/tcp",
	}
	if !slices.Equal(store.writes, want) {
		t.Errorf("writes\n%q, want\n%q", store.writes, want)
	}
}

func TestDeletedServiceLosesItsEntryFirst(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	store.writes = nil
	if err := m.Delete(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	want := []string{"delete service 40.1.1.1:80/tcp", "delete table 0", "delete backend 1", "drop next hop 20.1.1.10"}
	if !slices.Equal(store.writes, want) {
		t.Errorf("writes\n%q, want\n%q", store.writes, want)
	}
}

// The fake store looks after each write whether every packet finds a backend.
func TestUpdatesNeverBreakTheServiceInBetween(t *testing.T) {
	first := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")
	for _, c := range []struct {
		name   string
		change func(*api.Service)
		// writes is how many there may be.
		writes int
	}{
		{"the same again writes nothing", func(*api.Service) {}, 0},
		{"a backend more", func(s *api.Service) { s.Backends = append(s.Backends, at("20.1.1.40:80")) }, 4},
		{"a backend less", func(s *api.Service) { s.Backends = s.Backends[1:] }, 2},
		{"all backends others", func(s *api.Service) { s.Backends = []api.Backend{at("20.1.1.50:80"), at("20.1.1.60:80")} }, 9},
		{"another weight", func(s *api.Service) { s.Backends[1] = weighted(5, "20.1.1.20:80") }, 1},
		{"a weight of 0", func(s *api.Service) { s.Backends[1] = weighted(0, "20.1.1.20:80") }, 2},
		{"no weight at all", func(s *api.Service) {
			for i := range s.Backends {
				s.Backends[i] = weighted(0, s.Backends[i].Address.String())
			}
		}, 5},
		{"a backend in maintenance", func(s *api.Service) { s.Backends[0].State = "maintenance" }, 2},
		{"a backend that drains", func(s *api.Service) { s.Backends[0].State = "draining" }, 2},
		{"another mode", func(s *api.Service) { s.Mode = "snat" }, 1},
		{"another encapsulation", func(s *api.Service) { s.Encap = "l2" }, 3},
		{"an outer source", func(s *api.Service) { s.OuterSource = "172.16.0.0/16" }, 3},
		{"random selection", func(s *api.Service) { s.Selection = "random" }, 1},
		{"affinity", func(s *api.Service) { s.Affinity = api.Duration(time.Minute) }, 1},
		{"a bound of the MSS", func(s *api.Service) { s.MSS = 1400 }, 1},
		{"sources", func(s *api.Service) { s.Sources = []netip.Prefix{netip.MustParsePrefix("20.1.1.0/24")} }, 2},
		{"a larger table", func(s *api.Service) { s.TableSize = 1021 }, 2},
		{"a larger table and another backend", func(s *api.Service) { s.TableSize, s.Backends[0] = 1021, at("20.1.1.50:80") }, 6},
		{"another frontend", func(s *api.Service) { s.Frontend = netip.MustParseAddrPort("40.1.1.2:80") }, 2},
		{"another protocol", func(s *api.Service) { s.Protocol = "udp" }, 3},
		{"everything at once", func(s *api.Service) {
			*s = svc(1, "40.1.1.9:8080", "20.1.1.50:8080")
			s.TableSize, s.Mode, s.Affinity = 509, "snat", api.Duration(time.Hour)
			s.Sources = []netip.Prefix{netip.MustParsePrefix("20.0.0.0/8"), netip.MustParsePrefix("30.0.0.0/8")}
		}, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			mustPut(t, m, first)
			second := first
			second.Backends = slices.Clone(first.Backends)
			c.change(&second)
			store.writes = nil
			mustPut(t, m, second)
			if len(store.writes) > c.writes {
				t.Errorf("%d writes, want at most %d: %q", len(store.writes), c.writes, store.writes)
			}
			wantMaps(t, store, second)
			mustPut(t, m, first) // and back, which shrinks what grew
			wantMaps(t, store, first)
		})
	}
}

func TestBackendsKeepTheirIDsAndServicesTheirSlots(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.10:80", "20.1.1.20:80"))
	mustPut(t, m, svc(3, "40.1.1.3:80", "20.1.1.30:80"))
	before := m.Numbers()
	if err := m.Delete(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80", "20.1.1.40:80"))
	m = open(t, store, file) // a restart
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80", "20.1.1.40:80", "20.1.1.50:80"))
	after := m.Numbers()
	kept := netip.MustParseAddrPort("20.1.1.20:80")
	if before[1].Slot != after[0].Slot || before[1].Backends[kept] != after[0].Backends[kept] {
		t.Errorf("service 2 was %+v and is %+v", before[1], after[0])
	}
	if !reflect.DeepEqual(before[2], after[1]) {
		t.Errorf("service 3 was %+v and is %+v", before[2], after[1])
	}
}

// Flows that outlive their backend go on counting under its id.
func TestFreedNumbersAreGivenOutAgainAsLateAsPossible(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
	m = open(t, store, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80", "20.1.1.30:80"))
	if id := m.Numbers()[0].Backends[netip.MustParseAddrPort("20.1.1.30:80")]; id == 1 {
		t.Errorf("the id of the backend that left is given out at once")
	}
	wantMaps(t, store, svc(1, "40.1.1.1:80", "20.1.1.20:80", "20.1.1.30:80"))
}

func TestRestartWritesNothingWhenNothingChanged(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	services := []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80")}
	for _, s := range services {
		mustPut(t, m, s)
	}
	store.writes = nil
	m = open(t, store, file)
	if want := []string{"next hops [20.1.1.10 20.1.1.20]"}; !slices.Equal(store.writes, want) {
		t.Errorf("writes %q, want %q", store.writes, want)
	}
	if got, want := m.Services(), revised(services...); !reflect.DeepEqual(got, want) {
		t.Errorf("services %+v, want %+v", got, want)
	}
}

func TestRestartMakesTheMapsAsTheFileSays(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*fakeStore)
	}{
		{"after the maps were lost", func(f *fakeStore) { *f = *newFakeStore(f.t) }},
		{"after a table was lost", func(f *fakeStore) { delete(f.tables, 1) }},
		{"after a table was changed", func(f *fakeStore) { f.tables[0] = slices.Repeat([]uint32{1}, 251) }},
		{"after a backend was lost", func(f *fakeStore) { delete(f.backends, 2) }},
		{"after an entry was lost", func(f *fakeStore) {
			maps.DeleteFunc(f.services, func(_ datapath.ServiceKey, s datapath.Service) bool { return s.ID == 2 })
		}},
		{"when another service stands in the maps", func(f *fakeStore) {
			f.backends[9] = datapath.Backend{Address: netip.MustParseAddrPort("20.1.1.90:80"), State: datapath.Active, ServiceID: 9, ServiceSlot: 3}
			f.tables[3] = slices.Repeat([]uint32{9}, 251)
			f.services[datapath.ServiceKey{Frontend: netip.MustParseAddrPort("40.1.1.9:80"), Protocol: datapath.TCP}] =
				datapath.Service{ID: 9, Slot: 3, TableSize: 251, Mode: datapath.DSR}
		}},
		{"when a frontend's move was cut off", func(f *fakeStore) {
			f.services[datapath.ServiceKey{Frontend: netip.MustParseAddrPort("40.1.1.8:80"), Protocol: datapath.TCP}] =
				datapath.Service{ID: 1, Slot: 0, TableSize: 251, Mode: datapath.DSR}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, file := newFakeStore(t), stateFile(t)
			m := open(t, store, file)
			one := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
			two := svc(2, "40.1.1.2:80", "20.1.1.30:80")
			mustPut(t, m, one)
			mustPut(t, m, two)
			store.writes = nil
			c.spoil(store)
			store.t = &testing.T{} // what is broken to begin with is not the manager's fault
			open(t, store, file)
			store.t = t
			store.writes = append(store.writes, "everything")
			store.check()
			wantMaps(t, store, one, two)
		})
	}
}

// wantServices is wantMaps without the backends that nobody refers to and that could not be removed.
func wantServices(t *testing.T, store *fakeStore, services ...api.Service) {
	t.Helper()
	used := make(map[uint32]bool)
	for _, table := range store.tables {
		for _, id := range table {
			used[id] = true
		}
	}
	maps.DeleteFunc(store.backends, func(id uint32, _ datapath.Backend) bool { return !used[id] })
	wantMaps(t, store, services...)
}

func TestPinnedServicesAreAdoptedWhenTheFileIsGone(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	one := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.5:80")
	udp := svc(2, "40.1.1.1:80", "20.1.1.30:53", "20.1.1.31:53")
	udp.Protocol, udp.Mode, udp.TableSize, udp.Selection = "udp", "snat", 509, "random"
	udp.Affinity, udp.OuterSource = api.Duration(time.Minute), "172.16.0.0/16"
	udp.Sources = []netip.Prefix{netip.MustParsePrefix("20.1.1.0/24")}
	udp.Backends[1].State = "maintenance"
	mustPut(t, m, one)
	mustPut(t, m, udp)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	store.writes = nil
	m = open(t, store, file)
	one.Revision, udp.Revision = 1, 1
	if got, want := m.Services(), []api.Service{one, udp}; !reflect.DeepEqual(got, want) {
		t.Errorf("adopted %+v, want %+v", got, want)
	}
	if len(store.writes) != 1 {
		t.Errorf("adopting wrote %q", store.writes)
	}
	if err := m.Save(); err != nil {
		t.Fatal(err)
	}
	if _, found, err := loadState(file); !found || err != nil {
		t.Errorf("the file was not written: %v", err)
	}
}

// Every write of an update fails once; each time everything must be as before.
func TestFailedUpdateLeavesEverythingAsItWas(t *testing.T) {
	before := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	for name, after := range map[string]api.Service{
		"a change of everything": svc(1, "40.1.1.2:8080", "20.1.1.20:8080", "20.1.1.30:8080"),
		"a new service":          svc(2, "40.1.1.2:80", "20.1.1.30:80"),
		"a smaller one": func() api.Service {
			s := svc(1, "40.1.1.2:80", "20.1.1.20:80")
			s.Sources = []netip.Prefix{netip.MustParsePrefix("20.1.1.0/24")}
			s.Backends[0] = weighted(0, "20.1.1.20:80")
			return s
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at++ {
				store, file := newFakeStore(t), stateFile(t)
				m := open(t, store, file)
				mustPut(t, m, before)
				services, saved := m.Services(), savedServices(t, file)
				held := store.services[datapath.ServiceKey{Frontend: before.Frontend, Protocol: datapath.TCP}]
				store.writes, store.failAt, store.failures = nil, at, 1
				_, err := m.Put(t.Context(), after)
				if store.failures == 1 { // every write has had its turn
					if at < 5 {
						t.Fatalf("only %d writes failed", at-1)
					}
					return
				}
				if err == nil { // it was one that nobody waits for
					wantServices(t, store, m.Services()...)
					continue
				}
				if !errors.Is(err, errWrite) {
					t.Fatal(err)
				}
				if got := m.Services(); !reflect.DeepEqual(got, services) {
					t.Errorf("write %d failed: desired is %+v", at, got)
				}
				wantMaps(t, store, before)
				if now := store.services[datapath.ServiceKey{Frontend: before.Frontend, Protocol: datapath.TCP}]; now != held {
					t.Errorf("write %d failed: the entry is %+v, was %+v", at, now, held)
				}
				if now := savedServices(t, file); !reflect.DeepEqual(now, saved) {
					t.Errorf("write %d failed: the file has\n%+v, had\n%+v", at, now, saved)
				}
			}
		})
	}
}

func savedServices(t *testing.T, file string) map[uint32]api.Service {
	t.Helper()
	s, _, err := loadState(file)
	if err != nil {
		t.Fatal(err)
	}
	return s.services
}

// at is a backend of which nothing but its address is said.
func at(address string) api.Backend { return api.Backend{Address: netip.MustParseAddrPort(address)} }

func weighted(weight uint16, address string) api.Backend {
	b := at(address)
	b.Weight = &weight
	return b
}

func TestSetModeChangesOneOrAll(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	one, two := svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.10:80")
	mustPut(t, m, one)
	mustPut(t, m, two)
	if err := m.SetMode(t.Context(), "snat", 2); err != nil {
		t.Fatal(err)
	}
	two.Mode = "snat"
	wantMaps(t, store, one, two)
	if err := m.SetMode(t.Context(), "snat", 0); err != nil {
		t.Fatal(err)
	}
	one.Mode = "snat"
	wantMaps(t, store, one, two)
	three := svc(3, "40.1.1.3:80", "20.1.1.10:8080")
	three.Mode = ""
	mustPut(t, m, three) // the default is snat now, so the ports may differ
	err := m.SetMode(t.Context(), "dsr", 0)
	var refusal *api.Error // what a client gets to see
	if fieldOf(err) != "backends[0]" || !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "service 3") {
		t.Errorf("dsr with another port: got %v", err)
	}
	three.Mode = "snat"
	wantMaps(t, store, one, two, three)
	if err := m.SetMode(t.Context(), "nat", 0); fieldOf(err) != "mode" {
		t.Errorf("unknown mode: got %v", err)
	}
	if err := m.SetMode(t.Context(), "dsr", 9); !errors.Is(err, api.ErrNotFound) || fieldOf(err) != "serviceId" {
		t.Errorf("unknown service: got %v", err)
	}
}

func TestUnknownServiceIsNotFound(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	if err := m.Delete(t.Context(), 7); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("delete: got %v", err)
	}
	if _, err := m.Service(7); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("get: got %v", err)
	}
}

func TestStateFileThatIsDamagedIsRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "it is empty"},
		{"no JSON", "\x7fELF", "damaged"},
		{"cut short", `{"version":1,"mode":"dsr","services":[{`, "damaged"},
		{"of a later version", `{"version":3,"mood":"dsr","services":[]}`, "version 3"},
		{"with a record that is none", `{"version":2,"mode":"dsr","services":[]}` + "\n" + `{"putt":[]}` + "\n", "damaged"},
		{"with a record of a service that cannot be", `{"version":2,"mode":"dsr","services":[]}` + "\n" + `{"put":[{"id":1,"frontend":"40.1.1.1:80","mss":1}]}`, "mss"},
		{"with a field of its own", `{"version":1,"mood":"dsr"}`, "damaged"},
		{"with an unknown mode", `{"version":1,"mode":"x"}`, "damaged"},
		{"with a service that cannot be", `{"version":1,"mode":"dsr","services":[{"id":1,"frontend":"40.1.1.1:80","protocol":"tcp","mode":"dsr","tableSize":5,"backends":["1.2.3.4:80"]}]}`, "tableSize"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, store := stateFile(t), newFakeStore(t)
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := tryOpen(t, store, file)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v, want the file's name and %q", err, c.want)
			}
			if len(store.writes) != 0 {
				t.Errorf("the maps were written: %q", store.writes)
			}
		})
	}
}

func TestStateThatCannotBeSavedChangesNothing(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, filepath.Join(t.TempDir(), "no such directory", "state.json"))
	store.writes = nil
	if _, err := m.Put(t.Context(), svc(1, "40.1.1.1:80", "20.1.1.10:80")); err == nil {
		t.Error("no error")
	}
	if len(store.writes) != 0 || len(m.Services()) != 0 {
		t.Errorf("writes %q, services %v", store.writes, m.Services())
	}
}

func fieldOf(err error) string {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return ""
	}
	return refusal.Field
}
