package service

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"l4lab/agent/api"
)

func TestRevisionGrowsWithEachChange(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	put := func(s api.Service, want uint64) {
		t.Helper()
		got, err := m.Put(t.Context(), s)
		if err != nil || got.Revision != want {
			t.Errorf("got revision %d, want %d, %v", got.Revision, want, err)
		}
	}
	one := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	put(one, 1)
	put(one, 1) // no change
	put(svc(1, "40.1.1.1:80", "20.1.1.20:80"), 2)
	if err := m.SetMode(t.Context(), "snat", 1); err != nil {
		t.Fatal(err)
	}
	m = open(t, store, file)
	if s := mustService(t, m, 1); s.Revision != 3 {
		t.Errorf("after a change of its mode and a restart: %d", s.Revision)
	}
	if err := m.Delete(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	m = open(t, store, file)
	put(one, 4) // who knows revision 1 to 3 of its predecessor shall not overwrite it
}

func TestChangeOfAnotherRevisionIsAConflict(t *testing.T) {
	for _, c := range []struct {
		name     string
		id       uint32
		revision uint64
		says     string
	}{
		{"an older one", 1, 1, "is 1 of service 1, but it has 2"},
		{"a later one", 1, 3, "is 3 of service 1, but it has 2"},
		{"one of a service that is not there", 2, 2, "it is not there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := newFakeStore(t)
			m := open(t, store, "")
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
			mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.20:80"))
			store.writes = nil
			s := svc(c.id, "40.1.1.9:80", "20.1.1.30:80")
			s.Revision = c.revision
			_, err := m.Put(t.Context(), s)
			if !errors.Is(err, api.ErrConflict) || fieldOf(err) != "revision" || !strings.Contains(err.Error(), c.says) || len(store.writes) != 0 {
				t.Errorf("got %v, writes %q", err, store.writes)
			}
		})
	}
}

// Each writer adds one backend to what it has read, again while somebody else was faster.
// Health and sweeps come in between.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	const writers, each = 4, 5
	store := newFakeStore(t)
	store.limits.Backends = 64
	m := open(t, store, stateFile(t))
	mustPut(t, m, checked(svc(1, "40.1.1.1:80", "20.1.1.200:80")))
	var writing, others sync.WaitGroup
	done := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				for {
					s, err := m.Service(1)
					if err != nil {
						t.Error(err)
						return
					}
					s.Backends = append(s.Backends[:len(s.Backends):len(s.Backends)], at(fmt.Sprintf("20.1.%d.%d:80", w+2, i+1)))
					if _, err = m.Put(t.Context(), s); err == nil {
						break
					}
					if !errors.Is(err, api.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	others.Go(func() {
		for healthy := false; ; healthy = !healthy {
			select {
			case <-done:
				return
			default:
				_ = m.SetHealth(t.Context(), 1, change("20.1.1.200:80", healthy))
				m.Swept(t.Context(), nil)
				_, _ = m.Services(), m.Numbers()
			}
		}
	})
	writing.Wait()
	close(done)
	others.Wait()
	mustSetHealth(t, m, "20.1.1.200:80", true)
	s := mustService(t, m, 1)
	if len(s.Backends) != 1+writers*each || s.Revision != 1+writers*each {
		t.Errorf("%d backends at revision %d, want %d", len(s.Backends), s.Revision, 1+writers*each)
	}
	wantMaps(t, store, s)
}
