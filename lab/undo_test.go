package lab_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"l4lab/lab"
	"l4lab/lab/plan"
	"l4lab/lab/role"
	"l4lab/lab/state"
	"l4lab/topology"
)

var upOptions = lab.UpOptions{}

var (
	errBoom      = errors.New("the disk is full")
	errInterrupt = errors.New("interrupted")
)

// mishap is a way in which a call can go wrong.
type mishap struct {
	name string
	want error
	// fault makes the fault; cancel ends the run's context.
	fault func(cancel func()) fault
}

var mishaps = []mishap{
	{"fails", errBoom, func(func()) fault { return fault{err: errBoom} }},
	{"fails half-way", errBoom, func(func()) fault { return fault{err: errBoom, late: true} }},
	{"is interrupted before it began", errInterrupt, func(cancel func()) fault { return fault{err: context.Canceled, then: cancel} }},
	{"is interrupted when it was done", errInterrupt, func(cancel func()) fault { return fault{then: cancel, late: true} }},
}

// callsOf returns the calls that bring a topology about, each once.
func callsOf(t *testing.T, s *site, top topology.Topology) []string {
	t.Helper()
	s.forget()
	if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil {
		t.Fatal(err)
	}
	calls := s.called()
	slices.Sort(calls)
	return slices.Compact(calls)
}

// spoil lets a call go wrong at its first time and returns the run's context.
func (s *site) spoil(t *testing.T, call string, m mishap) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	spent := false
	s.meddle = func(c string) fault {
		if c != call || spent {
			return fault{}
		}
		spent = true
		return m.fault(func() { cancel(errInterrupt) })
	}
	return ctx
}

// tells says whether an error is a wanted one, which may have come as text over
// the agent's socket.
func tells(err, want error) bool {
	return errors.Is(err, want) || err != nil && want == errBoom && strings.Contains(err.Error(), want.Error())
}

// wantOnly fails when an error is not the wanted one, or tells of trouble on the way back.
func wantOnly(t *testing.T, err, want error) {
	t.Helper()
	if !tells(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, trouble := range []string{"undo ", "remove what was left"} {
		if strings.Contains(err.Error(), trouble) {
			t.Errorf("the way back had trouble: %v", err)
		}
	}
}

func TestFailedUpOfAFreshLabLeavesNothing(t *testing.T) {
	calls := callsOf(t, newSite(t), topology.Default())
	if len(calls) != 22 {
		t.Fatalf("a fresh up makes the calls %v", calls)
	}
	for _, call := range calls {
		for _, m := range mishaps {
			t.Run(call+" "+m.name, func(t *testing.T) {
				s := newSite(t)
				ctx := s.spoil(t, call, m)
				_, err := s.lab().Up(ctx, topology.Default(), upOptions)
				wantOnly(t, err, m.want)
				s.nothingLeft(t)
				if last := s.events[len(s.events)-1]; last.Phase != "failed" || last.Error == "" {
					t.Errorf("the last event is %+v", last)
				}
				s.meddle = nil
				s.up(t) // nothing stands in the way of another try
			})
		}
	}
}

func TestFailedConvergeLeavesWhatWas(t *testing.T) {
	for _, c := range converges {
		next, top := c.prepare(t)
		for _, call := range callsOf(t, next, top) {
			for _, m := range mishaps {
				t.Run(c.name+", "+call+" "+m.name, func(t *testing.T) {
					s, top := c.prepare(t)
					world, remembered := s.text(), s.remembered(t)
					ctx := s.spoil(t, call, m)
					_, err := s.lab().Up(ctx, top, upOptions)
					wantOnly(t, err, m.want)
					same(t, "the world", s.text(), world)
					same(t, "the state", s.remembered(t), remembered)
					s.meddle = nil
					if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil {
						t.Fatal(err)
					}
					s.like(t, next)
				})
			}
		}
	}
}

// An upgrade cannot be taken back, since the old program is at hand no more. It
// must leave a lab that works, and the next up must finish it.
func TestFailedUpgradeLeavesALabThatWorks(t *testing.T) {
	upgrade := func(t *testing.T) *site {
		s := newSite(t)
		s.up(t)
		s.options.Programs = newSite(t).options.Programs
		writeProgram(t, s.options.Programs[topology.Linux], "another agent")
		return s
	}
	next := upgrade(t)
	for _, call := range callsOf(t, next, topology.Default()) {
		for _, m := range mishaps {
			t.Run(call+" "+m.name, func(t *testing.T) {
				s := upgrade(t)
				before := s.Machines["l4lb/lb"].Services[1].Frontend
				ctx := s.spoil(t, call, m)
				_, err := s.lab().Up(ctx, topology.Default(), upOptions)
				wantOnly(t, err, m.want)
				for key, mach := range s.Machines {
					name := strings.TrimPrefix(key, "l4lb/")
					be := strings.HasPrefix(name, "be")
					if name == "lb" != (mach.Agent != "") || be != (mach.Page != "") || be != (mach.Decap != "") {
						t.Errorf("%s: %+v", name, mach)
					}
				}
				if got := s.Machines["l4lb/lb"].Services[1].Frontend; got != before {
					t.Errorf("the service is at %v, was at %v", got, before)
				}
				s.meddle = nil
				if _, err := s.lab().Up(t.Context(), topology.Default(), upOptions); err != nil {
					t.Fatal(err)
				}
				s.like(t, next)
			})
		}
	}
}

func TestTroubleOnTheWayBack(t *testing.T) {
	cases := []struct {
		name string
		// broken says which calls fail once the first one has.
		broken func(call string) bool
		left   bool
	}{
		{"steps that cannot be undone one by one are removed at the end", func(call string) bool { return call != "Destroy" }, false},
		{"what cannot be removed at all is remembered for down", func(string) bool { return true }, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			failed := false
			s.meddle = func(call string) fault {
				if call == "PutService 1" {
					failed = true
					return fault{err: errBoom}
				}
				if failed && c.broken(call) {
					return fault{err: errors.New("stuck: " + call)}
				}
				return fault{}
			}
			_, err := s.lab().Up(t.Context(), topology.Default(), upOptions)
			if !tells(err, errBoom) {
				t.Fatalf("error %v, want the first one in it", err)
			}
			for _, part := range []string{"undo page/be1: stuck: Remove page be1", "undo node/be1: stuck: RemoveNode be1"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if !c.left {
				s.nothingLeft(t)
				return
			}
			if !strings.Contains(err.Error(), "labctl down --name l4lb") {
				t.Errorf("error %q does not say what to do", err)
			}
			if got := s.phase(t); got != state.Creating {
				t.Errorf("remembered as %q", got)
			}
			s.meddle = nil
			if removed, err := s.lab().Down(t.Context()); err != nil || !removed {
				t.Errorf("Down() = %v, %v", removed, err)
			}
			s.nothingLeft(t)
		})
	}
}

func TestKeepOnFailure(t *testing.T) {
	s := newSite(t)
	ctx := s.spoil(t, "EnsurePage be3", mishaps[0])
	_, err := s.lab().Up(ctx, topology.Default(), lab.UpOptions{KeepOnFailure: true})
	if !errors.Is(err, errBoom) || !strings.Contains(err.Error(), "labctl down --name l4lb") {
		t.Errorf("error %v, want one that says how to remove what is kept", err)
	}
	if s.Machines["l4lb/be3"] == nil || s.Switches["l4lb"] == 0 {
		t.Errorf("not kept: %s", s.text())
	}
	if got := s.phase(t); got != state.Creating {
		t.Errorf("remembered as %q", got)
	}
	if undone := s.eventsOf("undone"); len(undone) > 0 {
		t.Errorf("undone: %v", undone)
	}
}

// kill leaves what a kill -9 during a call leaves: the state as it was written
// before the first step, and what was made until then.
func (s *site) kill(t *testing.T, top topology.Topology, call string, m mishap) {
	t.Helper()
	ctx := s.spoil(t, call, m)
	_, err := s.lab().Up(ctx, top, lab.UpOptions{KeepOnFailure: true})
	if !tells(err, m.want) {
		t.Fatal(err)
	}
	s.meddle = nil
	if got := s.phase(t); got != state.Creating {
		t.Fatalf("remembered as %q", got)
	}
}

func TestKilledUpOfAFreshLab(t *testing.T) {
	full := newSite(t)
	for _, call := range callsOf(t, full, topology.Default()) {
		for _, m := range mishaps[:2] {
			t.Run("up converges after a kill when "+call+" "+m.name, func(t *testing.T) {
				s := newSite(t)
				s.kill(t, topology.Default(), call, m)
				s.up(t)
				s.like(t, full)
			})
			t.Run("down removes all after a kill when "+call+" "+m.name, func(t *testing.T) {
				s := newSite(t)
				s.kill(t, topology.Default(), call, m)
				if removed, err := s.lab().Down(t.Context()); err != nil || !removed {
					t.Errorf("Down() = %v, %v", removed, err)
				}
				s.nothingLeft(t)
			})
		}
	}
}

func TestKilledConverge(t *testing.T) {
	old := fresh(t, topology.Default())
	for _, c := range converges {
		s, top := c.prepare(t)
		for _, call := range callsOf(t, s, top) {
			kill := func(t *testing.T) (*site, topology.Topology) {
				s, top := c.prepare(t)
				s.kill(t, top, call, mishaps[1])
				return s, top
			}
			t.Run("another up finishes when "+c.name+", killed at "+call, func(t *testing.T) {
				s, top := kill(t)
				if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil {
					t.Fatal(err)
				}
				if got := s.phase(t); got != state.Up {
					t.Errorf("remembered as %q", got)
				}
				s.forget()
				if steps, err := s.lab().Up(t.Context(), top, upOptions); err != nil || len(plan.Changes(steps)) > 0 {
					t.Errorf("a further up did %v, %v", s.called(), err)
				}
			})
			t.Run("an up of the old topology goes back when "+c.name+", killed at "+call, func(t *testing.T) {
				s, _ := kill(t)
				s.up(t)
				s.like(t, old)
			})
			t.Run("down removes all when "+c.name+", killed at "+call, func(t *testing.T) {
				s, _ := kill(t)
				if _, err := s.lab().Down(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.nothingLeft(t)
			})
		}
	}
}

// A kill between taking the lock and writing the state leaves a folder with a lock.
func TestKilledBeforeTheStateWasWritten(t *testing.T) {
	folder := func(t *testing.T) *site {
		s := newSite(t)
		lock, err := s.store.Lock(t.Context(), "l4lb")
		if err != nil {
			t.Fatal(err)
		}
		if err := lock.Release(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("up works", func(t *testing.T) { folder(t).up(t) })
	t.Run("up that is refused cleans", func(t *testing.T) {
		s := folder(t)
		s.unseen = errBoom
		if _, err := s.lab().Up(t.Context(), topology.Default(), upOptions); !errors.Is(err, errBoom) {
			t.Error(err)
		}
		s.nothingLeft(t)
	})
	t.Run("down cleans", func(t *testing.T) {
		s := folder(t)
		if _, err := s.lab().Down(t.Context()); err != nil {
			t.Error(err)
		}
		s.nothingLeft(t)
	})
}

// Taking back the making of a switch must not take the machines with it.
func TestFailedMendOfASwitchKeepsTheMachines(t *testing.T) {
	s := newSite(t)
	s.up(t)
	world, remembered := s.text(), s.remembered(t)
	delete(s.Switches, "l4lb")
	top := topology.Default()
	top.Services[0].Mode = topology.SNAT
	ctx := s.spoil(t, "PutService 1", mishaps[0])
	_, err := s.lab().Up(ctx, top, upOptions)
	wantOnly(t, err, errBoom)
	same(t, "the world", s.text(), world)
	same(t, "the state", s.remembered(t), remembered)
}

// A lab that was never up is gone after a failed try to finish it.
func TestFailedMendOfAKilledUp(t *testing.T) {
	for _, m := range mishaps {
		t.Run("PutService 1 "+m.name, func(t *testing.T) {
			s := newSite(t)
			s.kill(t, topology.Default(), "EnsureDecap be3", mishaps[0])
			s.change("l4lb/lb", func(m *machine) { delete(m.exited, role.SubjectAgent) })
			ctx := s.spoil(t, "PutService 1", m)
			_, err := s.lab().Up(ctx, topology.Default(), upOptions)
			wantOnly(t, err, m.want)
			s.nothingLeft(t)
		})
	}
}
