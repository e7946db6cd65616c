package service

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/health"
)

func checked(s api.Service) api.Service {
	s.HealthCheck = &api.HealthCheck{Type: "tcp"}
	return s
}

func mustSetHealth(t testing.TB, m *Manager, backend string, healthy bool) {
	t.Helper()
	if err := m.SetHealth(t.Context(), 1, change(backend, healthy)); err != nil {
		t.Fatal(err)
	}
}

func change(backend string, healthy bool) []health.Change {
	return []health.Change{{Backend: netip.MustParseAddrPort(backend), Healthy: healthy}}
}

// statesOf are the states of a service's backends in the maps, by id.
func statesOf(store *fakeStore) map[uint32]datapath.BackendState {
	states := make(map[uint32]datapath.BackendState)
	for id, b := range store.backends {
		states[id] = b.State
	}
	return states
}

func TestUnhealthyBackendGetsNoNewFlowsUntilItIsHealthyAgain(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	s := checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80"))
	mustPut(t, m, s)
	mustSetHealth(t, m, "20.1.1.10:80", false)
	if states := statesOf(store); states[1] != datapath.Quarantined || states[2] != datapath.Active || slotsOf(store, m, 1)["20.1.1.10:80"] != 0 {
		t.Errorf("states %v, slots %v", states, slotsOf(store, m, 1))
	}
	got := mustService(t, m, 1)
	if got.Backends[0].Health != "quarantined" || got.Backends[1].Health != "healthy" || got.Revision != 1 {
		t.Errorf("the API says %+v", got)
	}
	if saved := savedServices(t, file); saved[1].Backends[0].Health != "" {
		t.Errorf("the file says %+v", saved)
	}
	store.writes = nil
	mustSetHealth(t, m, "20.1.1.10:80", false)
	if len(store.writes) != 0 {
		t.Errorf("the same again wrote %q", store.writes)
	}
	mustSetHealth(t, m, "20.1.1.10:80", true)
	wantMaps(t, store, s)
}

// The policy of the last backend: api.Service says it.
func TestWhenNoBackendIsHealthyAllAreUsed(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80", "20.1.1.40:80"))
	s.Backends[2] = weighted(0, "20.1.1.30:80")
	s.Backends[3].State = "maintenance"
	mustPut(t, m, s)
	mustSetHealth(t, m, "20.1.1.10:80", false)
	mustSetHealth(t, m, "20.1.1.20:80", false)
	wantMaps(t, store, s) // as if nobody had checked; those that nobody is to use stay out
	if got := mustService(t, m, 1); got.Backends[0].Health != "quarantined" || got.Backends[1].Health != "quarantined" {
		t.Errorf("the API says %+v", got)
	}
	mustSetHealth(t, m, "20.1.1.20:80", true)
	if states := statesOf(store); states[1] != datapath.Quarantined || states[2] != datapath.Active {
		t.Errorf("when one came back: %v", states)
	}
}

func TestQuarantineOutlivesTheAgent(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	mustPut(t, m, checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")))
	mustSetHealth(t, m, "20.1.1.10:80", false)
	store.writes = nil
	m = open(t, store, file)
	if len(store.writes) != 1 || mustService(t, m, 1).Backends[0].Health != "quarantined" {
		t.Errorf("wrote %q, says %+v", store.writes, mustService(t, m, 1))
	}
}

func TestHealthIsForgottenWithTheCheck(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, checked(s))
	mustSetHealth(t, m, "20.1.1.10:80", false)
	mustPut(t, m, s)
	wantMaps(t, store, s)
	mustPut(t, m, checked(s))
	wantMaps(t, store, checked(s))
}

func TestHealthOfNobodyChangesNothing(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")))
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.10:80"))
	store.writes = nil
	for name, id := range map[string]uint32{"a service that is not there": 3, "a service without checks": 2} {
		if err := m.SetHealth(t.Context(), id, change("20.1.1.10:80", false)); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := m.SetHealth(t.Context(), 1, change("20.1.1.99:80", false)); err != nil || len(store.writes) != 0 {
		t.Errorf("a backend that is not there: got %v, writes %q", err, store.writes)
	}
	both := append(change("20.1.1.99:80", false), change("20.1.1.10:80", false)...)
	if err := m.SetHealth(t.Context(), 1, both); err != nil || statesOf(store)[1] != datapath.Quarantined {
		t.Errorf("beside one that is: got %v, states %v", err, statesOf(store))
	}
}

// The checker says so of what it had quarantined when a service loses its check; refused, it would say it again
// and again.
func TestHealthyIsWhatBackendsWithoutChecksAre(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, checked(s))
	mustSetHealth(t, m, "20.1.1.10:80", false)
	mustPut(t, m, s)
	store.writes = nil
	if err := m.SetHealth(t.Context(), 1, change("20.1.1.10:80", true)); err != nil || len(store.writes) != 0 {
		t.Errorf("got %v, writes %q", err, store.writes)
	}
}

// Each change of a table costs a write of all of it.
func TestHealthOfManyBackendsIsOneTable(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	mustPut(t, m, checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")))
	store.writes = nil
	if err := m.SetHealth(t.Context(), 1, append(change("20.1.1.10:80", false), change("20.1.1.20:80", false)...)); err != nil {
		t.Fatal(err)
	}
	want := []string{"table 0 of 251", "backend 1 20.1.1.10:80 quarantined", "backend 2 20.1.1.20:80 quarantined"}
	if !slices.Equal(store.writes, want) {
		t.Errorf("writes %q, want %q", store.writes, want)
	}
}

func TestHealthThatCannotBeWrittenIsAsBefore(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := checked(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	mustPut(t, m, s)
	store.writes, store.failAt, store.failures = nil, 1, 1
	b := s.Backends[0].Address
	if err := m.SetHealth(t.Context(), 1, change(b.String(), false)); !errors.Is(err, errWrite) {
		t.Fatalf("got %v", err)
	}
	if got := mustService(t, m, 1); got.Backends[0].Health != "healthy" {
		t.Errorf("the API says %+v", got)
	}
	mustSetHealth(t, m, b.String(), false) // the next check's result
	if states := statesOf(store); states[1] != datapath.Quarantined {
		t.Errorf("states %v", states)
	}
}
