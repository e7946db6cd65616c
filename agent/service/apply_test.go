package service

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func mustApply(t testing.TB, m *Manager, services ...api.Service) []api.Service {
	t.Helper()
	stored, err := m.Apply(t.Context(), services)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestApplyMakesTheServicesWhatIsGiven(t *testing.T) {
	one, two, three := svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(3, "40.1.1.3:80", "20.1.1.30:80")
	other := svc(2, "40.1.1.2:8080", "20.1.1.20:8080", "20.1.1.21:8080")
	swapped1, swapped2 := svc(1, "40.1.1.2:80", "20.1.1.10:80"), svc(2, "40.1.1.1:80", "20.1.1.20:80")
	small := swapped2
	small.TableSize = 509
	for _, c := range []struct {
		name          string
		before, after []api.Service
	}{
		{"from nothing", nil, []api.Service{one, two, three}},
		{"to nothing", []api.Service{one, two}, nil},
		{"one changes, one goes, one comes", []api.Service{one, two}, []api.Service{other, three}},
		{"two swap their frontends", []api.Service{one, two}, []api.Service{swapped1, swapped2}},
		{"two swap their frontends, and the table of one grows", []api.Service{one, two}, []api.Service{swapped1, small}},
		{"two swap their frontends, and the table of one shrinks", []api.Service{swapped1, small}, []api.Service{one, two}},
		{"a frontend goes to another service", []api.Service{one, two}, []api.Service{two, svc(3, "40.1.1.1:80", "20.1.1.30:80")}},
		{"all others, with no room for both", []api.Service{one, two, three, svc(4, "40.1.1.4:80", "20.1.1.40:80")}, []api.Service{
			svc(5, "40.1.1.1:80", "20.1.1.50:80"), svc(6, "40.1.1.6:80", "20.1.1.60:80"), svc(7, "40.1.1.7:80", "20.1.1.70:80"), svc(8, "40.1.1.8:80", "20.1.1.80:80"),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, file := newFakeStore(t), stateFile(t)
			m := open(t, store, file)
			mustApply(t, m, c.before...)
			wantMaps(t, store, c.before...)
			stored := mustApply(t, m, c.after...)
			wantMaps(t, store, c.after...)
			if got := m.Services(); !reflect.DeepEqual(got, stored) || len(got) != len(c.after) {
				t.Errorf("services %+v, stored %+v", got, stored)
			}
			m = open(t, store, file)
			wantMaps(t, store, c.after...)
			if got := m.Services(); !reflect.DeepEqual(got, stored) {
				t.Errorf("after a restart %+v, stored were %+v", got, stored)
			}
		})
	}
}

// The fake store notices a frontend that nobody has, only it is not asked to: here it is.
func TestFrontendThatGoesToAnotherServiceIsNeverWithoutOne(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustApply(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80"))
	store.onWrite = func() {
		if len(store.services) < 2 {
			t.Errorf("before %q the frontends are %v", store.writes[len(store.writes)-1], store.services)
		}
	}
	mustApply(t, m, svc(1, "40.1.1.2:80", "20.1.1.10:80"), svc(2, "40.1.1.1:80", "20.1.1.20:80"))
	mustApply(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(3, "40.1.1.1:80", "20.1.1.30:80"))
}

func TestApplyWritesManyTablesTogether(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustApply(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(3, "40.1.1.3:80", "20.1.1.30:80"))
	hops, tables := 0, 0
	for _, w := range store.writes {
		switch {
		case w == "3 tables":
			tables++
		case w == "next hops [20.1.1.10 20.1.1.20 20.1.1.30]":
			hops++
		}
	}
	if hops != 1 || tables != 1 {
		t.Errorf("writes %q", store.writes)
	}
}

func TestApplyOfTheSameWritesNothing(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	services := []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80")}
	before := mustApply(t, m, services...)
	store.writes = nil
	if after := mustApply(t, m, services...); len(store.writes) != 0 || !reflect.DeepEqual(after, before) {
		t.Errorf("writes %q, services %+v, were %+v", store.writes, after, before)
	}
}

// A config file says the same whatever was there before.
func TestWhatApplyLeavesOpenIsTheDefault(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	s.Mode, s.Selection, s.TableSize = "snat", "random", 509
	mustPut(t, m, s)
	s.Protocol, s.Mode, s.Encap, s.Selection, s.TableSize = "", "", "", "", 0
	got := mustApply(t, m, s)[0]
	if got.Protocol != "tcp" || got.Mode != "dsr" || got.Encap != "ipip" || got.Selection != "maglev" || got.TableSize != 16381 {
		t.Errorf("got %+v", got)
	}
}

func TestApplyRefusesAllForOne(t *testing.T) {
	fine := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.11:80")
	for _, c := range []struct {
		name   string
		others []api.Service
		field  string
	}{
		{"one that is wrong", []api.Service{svc(2, "40.1.1.2:80", "20.1.1.20:80", "20.1.1.20:80")}, "services[1].backends[1]"},
		{"one without backends", []api.Service{svc(2, "40.1.1.2:80")}, "services[1].backends"},
		{"one id twice", []api.Service{svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(1, "40.1.1.3:80", "20.1.1.20:80")}, "services[2].id"},
		{"one frontend twice", []api.Service{svc(2, "40.1.1.1:80", "20.1.1.20:80")}, "services[0].frontend"},
		{"one's frontend as another's backend", []api.Service{svc(2, "40.1.1.2:80", "40.1.1.1:80")}, "services[0].frontend"},
		{"another revision", []api.Service{func() api.Service {
			s := svc(9, "40.1.1.9:80", "20.1.1.90:80")
			s.Revision = 7
			return s
		}()}, "services[1].revision"},
		{"more services than there is room for", []api.Service{svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(3, "40.1.1.3:80", "20.1.1.20:80"),
			svc(4, "40.1.1.4:80", "20.1.1.20:80"), svc(5, "40.1.1.5:80", "20.1.1.20:80")}, "id"},
		{"more backends than there is room for", []api.Service{func() api.Service {
			s := svc(2, "40.1.1.2:80")
			s.Backends = many(14)
			return s
		}()}, "backends"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			mustPut(t, m, svc(9, "40.1.1.9:80", "20.1.1.90:80"))
			before, services := store.snapshot(), m.Services()
			store.writes = nil
			_, err := m.Apply(t.Context(), append([]api.Service{fine}, c.others...))
			if fieldOf(err) != c.field {
				t.Errorf("got %v, want a refusal of %q", err, c.field)
			}
			if len(store.writes) != 0 || store.snapshot() != before || !reflect.DeepEqual(m.Services(), services) {
				t.Errorf("something was changed: %q, %+v", store.writes, m.Services())
			}
			// What was judged and refused has left no trace either.
			mustPut(t, m, svc(9, "40.1.1.1:80", "20.1.1.90:80"))
			mustPut(t, m, svc(8, "40.1.1.9:80", "40.1.1.20:80"))
		})
	}
}

func TestFailedApplyLeavesEverythingAsItWas(t *testing.T) {
	before := []api.Service{svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80")}
	after := []api.Service{svc(1, "40.1.1.2:80", "20.1.1.11:80"), svc(3, "40.1.1.1:80", "20.1.1.30:80")}
	for at := 1; ; at++ {
		store, file := newFakeStore(t), stateFile(t)
		m := open(t, store, file)
		mustApply(t, m, before...)
		services := m.Services()
		store.writes, store.failAt, store.failures = nil, at, 1
		_, err := m.Apply(t.Context(), after)
		if store.failures == 1 { // every write has had its turn
			if at < 12 {
				t.Fatalf("only %d writes failed", at-1)
			}
			return
		}
		if err == nil { // it was one that nobody waits for
			continue
		}
		if !errors.Is(err, errWrite) {
			t.Fatal(err)
		}
		if got := m.Services(); !reflect.DeepEqual(got, services) {
			t.Errorf("write %d failed: desired is %+v", at, got)
		}
		wantMaps(t, store, before...)
		if got := savedServices(t, file); len(got) != 2 || !equal(got[1], before[0]) || !equal(got[2], before[1]) {
			t.Errorf("write %d failed: the file has %+v", at, got)
		}
	}
}

func TestChangedTellsOfEachChange(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	told := func(do func()) bool {
		t.Helper()
		changed := m.Changed()
		do()
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	for _, c := range []struct {
		name string
		do   func()
		want bool
	}{
		{"a new service", func() { mustPut(t, m, s) }, true},
		{"the same again", func() { mustPut(t, m, s) }, false},
		{"a refusal", func() { _, _ = m.Put(t.Context(), svc(2, "40.1.1.1:80", "20.1.1.10:80")) }, false},
		{"another mode", func() { _ = m.SetMode(t.Context(), "snat", 0) }, true},
		{"a deletion", func() { _ = m.Delete(t.Context(), 1) }, true},
	} {
		if told(c.do) != c.want {
			t.Errorf("%s: want told %t", c.name, c.want)
		}
	}
}

// Counters are read by these numbers.
func TestNumbersNameTheBackendsThatTheServiceHas(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
	numbers := m.Numbers()
	if len(numbers) != 1 || len(numbers[0].Backends) != 1 || len(store.backends) != 2 {
		t.Errorf("got %+v; the maps have %v", numbers, store.backends)
	}
	ids := make([]string, 0, 2)
	for id, b := range store.backends {
		ids = append(ids, fmt.Sprint(id, b.State == datapath.Active))
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"1 false", "2 true"}) {
		t.Errorf("got %q", ids)
	}
}
