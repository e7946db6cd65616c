package lab_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// keeping is a provider of the world that keeps set-ups: all machines of a lab.
type keeping struct {
	fakeProvider
	kept map[string]machine
	// failing is what keeping fails with, resuming what going on from it does, once
	// half of the machines are there.
	failing, resuming error
}

func (k *keeping) KeepSetUp(_ context.Context, pl provider.Lab) error {
	if k.failing != nil {
		return k.failing
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = map[string]machine{}
	for key, m := range k.Machines {
		if lab, name, _ := strings.Cut(key, "/"); lab == pl.Topology.Name {
			k.kept[name] = *m
		}
	}
	return nil
}

func (k *keeping) HasSetUp(context.Context, provider.Lab) bool { return k.kept != nil }

func (k *keeping) ResumeSetUp(ctx context.Context, pl provider.Lab) error {
	return k.do(ctx, "ResumeSetUp", func() error {
		k.Switches[pl.Topology.Name] = pl.Topology.Switch.MTU
		for i, name := range slices.Sorted(maps.Keys(k.kept)) {
			if k.resuming != nil && i > 2 {
				return k.resuming
			}
			m := k.kept[name]
			k.Machines[pl.Topology.Name+"/"+name] = &m
		}
		return nil
	})
}

// keepingSite is a site whose provider keeps set-ups, and has kept the demo's.
func keepingSite(t *testing.T) (*site, *keeping) {
	t.Helper()
	s := newSite(t)
	d := s.driver("fake")
	k := &keeping{fakeProvider: fakeProvider{s.world}}
	d.Provider = k
	s.options.Drivers = []provider.Driver{d}
	s.up(t)
	if _, err := s.lab().Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.forget()
	return s, k
}

func TestANewLabGoesOnFromTheKeptStateOfOneLikeIt(t *testing.T) {
	plain := newSite(t)
	plain.up(t)
	s, _ := keepingSite(t)
	s.up(t)
	if got := s.called(); slices.ContainsFunc(got, func(call string) bool { return strings.HasPrefix(call, "Ensure") }) {
		t.Errorf("besides going on it did %q", got)
	}
	if s.text() != plain.text() {
		t.Errorf("the lab is\n%s\nwanted is what is made from nothing\n%s", s.text(), plain.text())
	}
	if st, err := s.store.Load("l4lb"); err != nil || st.Phase != state.Up || len(st.Owned) == 0 {
		t.Errorf("remembered is %+v, %v", st, err)
	}
	s.forget()
	s.up(t)
	if slices.Contains(s.called(), "ResumeSetUp") {
		t.Error("a lab that is up went on from a kept state")
	}
}

func TestALabThatDoesNotGoOnIsMadeFromNothing(t *testing.T) {
	plain := newSite(t)
	plain.up(t)
	s, k := keepingSite(t)
	k.resuming = errors.New("the memory does not fit")
	s.up(t)
	if s.text() != plain.text() {
		t.Errorf("the lab is\n%s\nwanted is what is made from nothing\n%s", s.text(), plain.text())
	}
	if !slices.ContainsFunc(s.events, func(e lab.Event) bool {
		return e.Phase == "failed" && strings.Contains(e.Error, "the memory does not fit")
	}) {
		t.Error("nobody was told why")
	}
}

func TestAnInterruptedUpFromAKeptStateLeavesNothing(t *testing.T) {
	s, k := keepingSite(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("interrupted")
	k.resuming = stopped
	s.meddle = func(call string) fault {
		if call == "ResumeSetUp" {
			cancel(stopped)
		}
		return fault{}
	}
	if _, err := s.lab().Up(ctx, topology.Default(), lab.UpOptions{}); !errors.Is(err, stopped) {
		t.Errorf("error %v", err)
	}
	if len(s.Machines) > 0 || len(s.Switches) > 0 {
		t.Errorf("left are %v and %v", slices.Collect(maps.Keys(s.Machines)), s.Switches)
	}
	if _, err := s.store.Load("l4lb"); !errors.Is(err, state.ErrNone) {
		t.Errorf("it is still remembered: %v", err)
	}
}

func TestALabIsUpThoughItsStateCannotBeKept(t *testing.T) {
	s, k := keepingSite(t)
	k.kept, k.failing = nil, errors.New("the disk is full")
	s.up(t)
	if !slices.ContainsFunc(s.events, func(e lab.Event) bool {
		return e.Phase == "warning" && strings.Contains(e.Error, "the disk is full")
	}) {
		t.Error("nobody was told")
	}
}
