package service

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/health"
)

// world is a manager under random changes, with flows that come between any two writes.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	store *fakeStore
	file  string
	m     *Manager
	flows []randomFlow
}

// randomFlow has the id that it was given, and where that was when it began.
type randomFlow struct {
	id            uint32
	service       uint32
	backend, from string
}

// Whatever is done, in whatever order, and though writes fail: the maps are as is desired, no
// packet meets half an update, and no flow goes to a backend that it did not begin at.
func TestRandomChangesKeepEveryPromise(t *testing.T) {
	sequences := 100
	if testing.Short() {
		sequences = 15
	}
	for seed := range sequences {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			store := newFakeStore(t)
			store.limits.Backends = 24
			w := &world{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), 3)), store: store, file: stateFile(t)}
			w.m = open(t, store, w.file)
			store.onWrite = w.between
			for range 40 {
				w.change()
				if t.Failed() {
					return
				}
			}
		})
	}
}

// between begins flows, and looks whether those that there are still go where they began.
func (w *world) between() {
	for key, s := range w.store.services {
		if s.TableSize == 0 || w.rnd.IntN(3) > 0 {
			continue
		}
		id := w.store.tables[s.Slot][w.rnd.IntN(int(s.TableSize))]
		b := w.store.backends[id]
		w.flows = append(w.flows, randomFlow{id: id, service: b.ServiceID, backend: b.Address.String(), from: key.String()})
	}
	for _, f := range w.flows {
		if b, there := w.store.backends[f.id]; there && (b.ServiceID != f.service || b.Address.String() != f.backend) {
			w.t.Errorf("after %q a flow of %s that began at %s goes to %s of service %d",
				w.store.writes[len(w.store.writes)-1], f.from, f.backend, b.Address, b.ServiceID)
		}
	}
}

func (w *world) change() {
	before := w.m.Services()
	w.store.writes, w.store.failures = nil, 0
	if w.rnd.IntN(4) == 0 { // one write fails
		w.store.failAt, w.store.failures = 1+w.rnd.IntN(12), 1
	}
	err := w.do()
	w.store.failures = 0
	var refusal *api.Error
	switch {
	case err == nil:
	case errors.As(err, &refusal), errors.Is(err, errWrite):
		if after := w.m.Services(); !reflect.DeepEqual(after, before) {
			w.t.Errorf("%v, and the services were\n%+v and are\n%+v", err, before, after)
		}
	default:
		w.t.Error(err)
	}
	w.store.unhealthy, w.store.undeleted = w.m.unhealthy, w.m.undeleted
	wantMaps(w.t, w.store, w.m.Services()...)
	for address, users := range w.m.hopUsers {
		if users > 0 && !w.store.hops[address] {
			w.t.Errorf("nobody follows the next hop to %s", address)
		}
	}
}

func (w *world) do() error {
	ctx := w.t.Context()
	switch w.rnd.IntN(10) {
	case 0:
		return w.m.Delete(ctx, uint32(1+w.rnd.IntN(4)))
	case 1:
		return w.m.SetMode(ctx, []string{"dsr", "snat"}[w.rnd.IntN(2)], uint32(w.rnd.IntN(4)))
	case 2, 3:
		w.sweep()
		return nil
	case 4:
		s := w.service()
		return w.m.SetHealth(ctx, s.ID, []health.Change{{Backend: s.Backends[0].Address, Healthy: w.rnd.IntN(2) == 0}})
	case 5:
		w.store.failures = 0
		w.cut() // what the server's sweep does before it
		w.m = open(w.t, w.store, w.file)
		return nil
	case 6:
		var all []api.Service
		for range w.rnd.IntN(4) {
			if s := w.service(); !slices.ContainsFunc(all, func(o api.Service) bool { return o.ID == s.ID }) {
				all = append(all, s)
			}
		}
		_, err := w.m.Apply(ctx, all)
		return err
	}
	_, err := w.m.Put(ctx, w.service())
	return err
}

// sweep is what the sweeper finds and cuts; some flows have ended.
func (w *world) sweep() {
	w.cut()
	w.flows = slices.DeleteFunc(w.flows, func(randomFlow) bool { return w.rnd.IntN(3) == 0 })
	found := make(map[uint32]int)
	for _, f := range w.flows {
		found[f.id]++
	}
	w.m.Swept(w.t.Context(), found)
	_, _ = w.m.endDrains(w.t.Context(), time.Now())
}

// cut removes the flows whose backend is not there.
func (w *world) cut() {
	w.flows = slices.DeleteFunc(w.flows, func(f randomFlow) bool {
		_, there := w.store.backends[f.id]
		return !there
	})
}

// service is one of four, on one of five frontends, with some of eight backends.
func (w *world) service() api.Service {
	s := svc(uint32(1+w.rnd.IntN(4)), fmt.Sprintf("40.1.1.%d:80", 1+w.rnd.IntN(5)))
	s.TableSize = []uint32{251, 509}[w.rnd.IntN(2)]
	s.Encap = []string{"ipip", "l2"}[w.rnd.IntN(2)]
	if w.rnd.IntN(2) == 0 {
		s.HealthCheck = &api.HealthCheck{Type: "tcp"}
	}
	if w.rnd.IntN(3) == 0 {
		s.Sources = prefixes("20.0.0.0/8", fmt.Sprintf("%d.0.0.0/8", 50+w.rnd.IntN(3)))
	}
	for _, i := range w.rnd.Perm(8)[:1+w.rnd.IntN(4)] {
		b := weighted(uint16(w.rnd.IntN(3)), fmt.Sprintf("20.1.1.%d:80", 10+i))
		switch w.rnd.IntN(6) {
		case 0:
			b.State = "draining"
		case 1:
			b.State = "maintenance"
		case 2:
			past := time.Now().Add(-time.Minute)
			b.State, b.DrainUntil = "draining", &past
		}
		s.Backends = append(s.Backends, b)
	}
	return s
}
