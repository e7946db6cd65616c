package service

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func drained(s api.Service, i int, until *time.Time) api.Service {
	s.Backends = slices.Clone(s.Backends)
	s.Backends[i].State, s.Backends[i].DrainUntil = "draining", until
	return s
}

func mustService(t testing.TB, m *Manager, id uint32) api.Service {
	t.Helper()
	s, err := m.Service(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBackendThatLeftKeepsItsIDWhileItMayHaveFlows(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(map[bool]string{false: "in one run", true: "across a restart"}[restarts], func(t *testing.T) {
			store, file := newFakeStore(t), stateFile(t)
			m := open(t, store, file)
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
			if restarts {
				m = open(t, store, file)
			}
			m.Swept(t.Context(), nil) // it may have begun before the backend left
			for range 3 {
				m.Swept(t.Context(), map[uint32]int{1: 7})
			}
			m.Swept(t.Context(), nil)
			if b := store.backends[1]; b.State != datapath.Draining || !store.hops[b.Address.Addr()] {
				t.Fatalf("it is %+v, next hops %v", b, store.hops)
			}
			m.Swept(t.Context(), nil)
			if b, there := store.backends[1]; there || len(store.hops) != 1 {
				t.Errorf("two sweeps found nothing, and it is %+v, next hops %v", b, store.hops)
			}
			if s := mustService(t, m, 1); s.Revision != 2 {
				t.Errorf("that is no change of the service: %+v", s)
			}
		})
	}
}

func TestBackendThatComesBackWhileItHasFlowsIsTheSame(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	both := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, both)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
	mustPut(t, m, both)
	wantMaps(t, store, both)
	sweep(t, m)
	wantMaps(t, store, both)
	if id := m.Numbers()[0].Backends[both.Backends[0].Address]; id != 1 || len(store.backends) != 2 {
		t.Errorf("it has id %d; the maps have %v", id, store.backends)
	}
}

func TestDrainingBackendLeavesWithItsLastConnection(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, s)
	mustPut(t, m, drained(s, 0, nil))
	sweep(t, m, 1)
	m.Swept(t.Context(), nil)
	if got := mustService(t, m, 1); len(got.Backends) != 2 || got.Revision != 2 {
		t.Fatalf("after one sweep: %+v", got)
	}
	changed := m.Changed()
	m.Swept(t.Context(), nil)
	want := svc(1, "40.1.1.1:80", "20.1.1.20:80")
	if got := mustService(t, m, 1); !equal(got, want) || got.Revision != 3 {
		t.Errorf("after two: %+v", got)
	}
	if len(store.backends) != 1 {
		t.Errorf("the maps have %v", store.backends)
	}
	wantMaps(t, store, want)
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	if saved := savedServices(t, file); !equal(saved[1], want) {
		t.Errorf("the file has %+v", saved)
	}
}

func TestLastBackendMayDrainToo(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	mustPut(t, m, s)
	mustPut(t, m, drained(s, 0, nil))
	sweep(t, m)
	for range 2 {
		if got := mustService(t, m, 1); len(got.Backends) != 0 {
			t.Errorf("the service is %+v", got)
		}
		if len(store.backends)+len(store.tables) != 0 || len(store.services) != 1 {
			t.Errorf("the maps have %v %v %v", store.services, store.backends, store.tables)
		}
		m = open(t, store, file)
	}
	mustPut(t, m, s)
	wantMaps(t, store, s)
}

func TestDeadlineCutsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore(t)
		m := open(t, store, "")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { _ = m.Run(ctx); close(ended) }()
		s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")
		mustPut(t, m, s)
		soon, later := time.Now().Add(30*time.Second), time.Now().Add(time.Minute)
		mustPut(t, m, drained(drained(s, 0, &later), 1, &soon))
		for _, step := range []struct {
			wait time.Duration
			left int
		}{{29 * time.Second, 3}, {2 * time.Second, 2}, {28 * time.Second, 2}, {2 * time.Second, 1}} {
			time.Sleep(step.wait)
			synctest.Wait()
			m.Swept(ctx, map[uint32]int{1: 5, 2: 5, 3: 5}) // their flows go on
			m.mu.Lock()
			if got := m.desired.services[1]; len(got.Backends) != step.left || len(store.backends) != step.left {
				t.Errorf("it has %v, the maps %v; want %d", got.Backends, store.backends, step.left)
			}
			m.mu.Unlock()
		}
		wantMaps(t, store, svc(1, "40.1.1.1:80", "20.1.1.30:80"))
		cancel()
		<-ended
	})
}

func TestDeadlineThatIsPastCutsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore(t)
		m := open(t, store, "")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { _ = m.Run(ctx); close(ended) }()
		s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
		past := time.Now().Add(-time.Hour)
		mustPut(t, m, drained(s, 0, &past))
		synctest.Wait()
		wantMaps(t, store, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
		cancel()
		<-ended
	})
}

func TestDeadlineThatCannotBeKeptIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore(t)
		m := open(t, store, "")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
		mustPut(t, m, s)
		until := time.Now().Add(time.Second)
		mustPut(t, m, drained(s, 0, &until))
		m.journal.path = "/proc/no/state.json"
		go func() { _ = m.Run(ctx); close(ended) }()
		time.Sleep(3 * time.Second)
		if got := mustService(t, m, 1); len(got.Backends) != 2 {
			t.Errorf("it left, though that could not be saved: %+v", got)
		}
		m.mu.Lock()
		m.journal.path = ""
		m.mu.Unlock()
		time.Sleep(2 * retryAfter)
		synctest.Wait()
		if got := mustService(t, m, 1); len(got.Backends) != 1 {
			t.Errorf("it is there still: %+v", got)
		}
		cancel()
		<-ended
	})
}

// A flow that has the id of a backend that was cut would go to whoever got that id.
func TestIDsThatFlowsMayHaveAreGivenToNobodyElse(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(map[bool]string{false: "in one run", true: "across a restart"}[restarts], func(t *testing.T) {
			store, file := newFakeStore(t), stateFile(t)
			store.limits.Backends = 4 // ids 1 to 3
			m := open(t, store, file)
			three := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80", "20.1.1.30:80")
			mustPut(t, m, three)
			if err := m.Delete(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if restarts {
				m = open(t, store, file)
			}
			_, err := m.Put(t.Context(), svc(2, "40.1.1.2:80", "20.1.1.40:80"))
			if fieldOf(err) != "backends" {
				t.Errorf("another service got an id: %v", err)
			}
			mustPut(t, m, three) // its own it gets
			if err := m.Delete(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			m.Swept(t.Context(), map[uint32]int{2: 1})
			m.Swept(t.Context(), map[uint32]int{2: 1})
			mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.40:80", "20.1.1.50:80"))
			if _, there := store.backends[2]; there {
				t.Errorf("the id that flows have was given away: %v", store.backends)
			}
			sweep(t, m)
			mustPut(t, m, svc(3, "40.1.1.3:80", "20.1.1.60:80"))
		})
	}
}

func TestClockThatIsSetHoldsNoDeadlineUpForLong(t *testing.T) {
	now := time.Date(1970, 1, 1, 0, 0, 10, 0, time.UTC) // of a machine that has not asked for the time yet
	for _, c := range []struct {
		name   string
		next   time.Time
		failed bool
		want   time.Duration
	}{
		{"no deadline", time.Time{}, false, -1},
		{"one that is near", now.Add(3 * time.Second), false, 3 * time.Second},
		{"one that is past", now.Add(-time.Hour), false, 0},
		{"one in another year", now.AddDate(56, 0, 0), false, lookAgain},
		{"one that could not be kept", now.Add(time.Hour), true, retryAfter},
	} {
		if got := pauseUntil(c.next, c.failed, now); got != c.want {
			t.Errorf("%s: waits %s, want %s", c.name, got, c.want)
		}
	}
}
