package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
)

func TestDiffNamesWhatTheMapsDoNotHold(t *testing.T) {
	base := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	with := func(edit func(*api.Service)) api.Service {
		s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
		edit(&s)
		return s
	}
	five := uint16(5)
	for _, c := range []struct {
		name   string
		wanted api.Service
		diff   string
	}{
		{"nothing", base, ""},
		{"a mode", with(func(s *api.Service) { s.Mode = "snat" }), "1 changed: mode snat/dsr"},
		{"a frontend", with(func(s *api.Service) { s.Frontend = netip.MustParseAddrPort("40.1.1.9:80") }), "1 changed: frontend 40.1.1.9:80/40.1.1.1:80"},
		{"a weight", with(func(s *api.Service) { s.Backends[0].Weight = &five }), "1 changed: backends[20.1.1.10:80].weight 5/1"},
		{"a state", with(func(s *api.Service) { s.Backends[0].State = "maintenance" }), "1 changed: backends[20.1.1.10:80].state maintenance/active"},
		{"a backend more", with(func(s *api.Service) {
			s.Backends = append(s.Backends, api.Backend{Address: netip.MustParseAddrPort("20.1.1.30:80")})
		}), "1 changed: backends[20.1.1.30:80] active/not there"},
		{"a backend less", with(func(s *api.Service) { s.Backends = s.Backends[:1] }), "1 changed: backends[20.1.1.20:80] not there/active"},
		{"an outer source", with(func(s *api.Service) { s.OuterSource = "10.0.0.0/8" }),
			"1 changed: backends[20.1.1.10:80].outerSource 10.0.0.0/8/20.1.1.1, backends[20.1.1.20:80].outerSource 10.0.0.0/8/20.1.1.1"},
		{"values of the entry", with(func(s *api.Service) {
			s.Selection, s.Affinity, s.MSS, s.TableSize = "random", api.Duration(time.Minute), 1000, 509
			s.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}), "1 changed: selection random/maglev, affinity 1m0s/0s, sources 10.0.0.0/8/all, mss 1000/0, tableSize 509/251"},
		{"a health check", with(func(s *api.Service) { s.HealthCheck = &api.HealthCheck{Type: "tcp"} }), `1 changed: healthCheck {"type":"tcp"}/none`},
		{"another service", svc(2, "40.1.1.2:80", "20.1.1.10:80"), "1 unwanted; 2 missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t, newFakeStore(t), "")
			mustPut(t, m, base)
			diff, _, err := m.Diff([]api.Service{c.wanted})
			if got := words(diff); err != nil || got != c.diff {
				t.Errorf("got  %s (%v)\nwant %s", got, err, c.diff)
			}
		})
	}
}

func words(diffs []api.ServiceDiff) string {
	var all []string
	for _, d := range diffs {
		text := fmt.Sprintf("%d %s", d.ID, d.Change)
		for i, f := range d.Fields {
			text += fmt.Sprintf("%s %s %s/%s", map[bool]string{true: ":", false: ","}[i == 0], f.Field, f.Desired, f.Actual)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func TestDiffReadsTheMapsAnew(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(*fakeStore)
		diff string
	}{
		{"nothing happened", func(*fakeStore) {}, ""},
		{"an entry was deleted", func(s *fakeStore) { clear(s.services) }, "1 missing"},
		{"a table was written", func(s *fakeStore) { s.tables[0][0] ^= 3 }, "1 changed: table as the weights give it/"},
		{"a table was deleted", func(s *fakeStore) { clear(s.tables) }, "1 changed: table 251 slots/0 slots"},
		{"a backend was deleted", func(s *fakeStore) { delete(s.backends, 1) }, "1 changed: backends[20.1.1.10:80] active/not there"},
		{"somebody added a service", func(s *fakeStore) {
			s.services[datapath.ServiceKey{Frontend: netip.MustParseAddrPort("40.1.1.7:80"), Protocol: datapath.TCP}] = datapath.Service{ID: 7, Slot: 3}
		}, "7 unwanted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
			store.tables[0] = append([]uint32(nil), store.tables[0]...)
			c.harm(store)
			diff, _, err := m.Diff(nil)
			if got := words(diff); err != nil || !strings.HasPrefix(got, c.diff) || c.diff == "" && got != "" {
				t.Errorf("got %s (%v), want %s", got, err, c.diff)
			}
		})
	}
}

func TestHealthAndLeavingBackendsAreNoDifference(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")
	s.HealthCheck = &api.HealthCheck{Type: "tcp"}
	mustPut(t, m, s)
	s.Backends = s.Backends[:2]
	mustPut(t, m, s)
	if err := m.SetHealth(t.Context(), 1, []health.Change{{Backend: s.Backends[0].Address}}); err != nil {
		t.Fatal(err)
	}
	diff, _, err := m.Diff([]api.Service{s})
	if err != nil || len(diff) != 0 {
		t.Errorf("got %s, %v", words(diff), err)
	}
}

func TestTablesThatCannotBeReadAreWrittenAnewAndNotCompared(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	mustPut(t, open(t, store, file), svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	store.unreadable = true
	m := open(t, store, file)
	wantMaps(t, store, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	diff, unread, err := m.Diff(nil)
	if err != nil || len(diff) != 0 || !unread {
		t.Errorf("got %s, unread %t, %v", words(diff), unread, err)
	}
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	s.TableSize = 509
	mustPut(t, m, s)
	m.Swept(t.Context(), nil)
	wantMaps(t, store, s)
}
