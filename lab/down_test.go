package lab_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

func writeProgram(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestDown(t *testing.T) {
	cases := []struct {
		name    string
		arrange func(t *testing.T, s *site)
		removed bool
	}{
		{name: "removes what up made", arrange: func(t *testing.T, s *site) { s.up(t) }, removed: true},
		{name: "is content when nothing is there", arrange: func(*testing.T, *site) {}},
		{
			name: "goes by the ownership marks when the state's folder is gone",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				if err := os.RemoveAll(s.store.Dir("l4lb")); err != nil {
					t.Fatal(err)
				}
			},
			removed: true,
		},
		{
			name: "goes by the ownership marks when the state is damaged",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				writeState(t, s, "\x00\xff not json")
			},
			removed: true,
		},
		{
			name: "goes by the ownership marks when the state file is empty",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				writeState(t, s, "")
			},
			removed: true,
		},
		{
			name: "removes a lab of which only machines are left",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				delete(s.Switches, "l4lb")
				if err := os.RemoveAll(s.store.Dir("l4lb")); err != nil {
					t.Fatal(err)
				}
			},
			removed: true,
		},
		{
			name: "needs no program of the agent's",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				if err := os.Remove(s.options.Programs[topology.Linux]); err != nil {
					t.Fatal(err)
				}
			},
			removed: true,
		},
		{
			name: "sweeps drafts of a state that was being written",
			arrange: func(t *testing.T, s *site) {
				s.up(t)
				if err := os.WriteFile(filepath.Join(s.store.Dir("l4lb"), ".new-123"), []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			removed: true,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.arrange(t, s)
			removed, err := s.lab().Down(t.Context())
			if err != nil || removed != c.removed {
				t.Errorf("Down() = %v, %v; want %v", removed, err, c.removed)
			}
			s.nothingLeft(t)
			if removed, err := s.lab().Down(t.Context()); err != nil || removed {
				t.Errorf("a second Down() = %v, %v", removed, err)
			}
		})
	}
}

func writeState(t *testing.T, s *site, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.store.Dir("l4lb"), "state.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUpOfALabWhoseStateIsDamaged(t *testing.T) {
	s := newSite(t)
	s.up(t)
	writeState(t, s, `{"version": 1, "name": "l4`)
	world := s.text()
	s.forget()
	_, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{})
	if !errors.Is(err, state.ErrDamaged) || !strings.Contains(err.Error(), "labctl down --name l4lb") {
		t.Errorf("error %v, want ErrDamaged with what to do", err)
	}
	if len(s.called()) > 0 {
		t.Errorf("did %v", s.called())
	}
	same(t, "the world", s.text(), world)
	if _, err := os.Stat(filepath.Join(s.store.Dir("l4lb"), "state.json")); err != nil {
		t.Errorf("the damaged file is gone: %v", err)
	}
	s.events = nil
	if removed, err := s.lab().Down(t.Context()); err != nil || !removed {
		t.Errorf("Down() = %v, %v", removed, err)
	}
	if len(s.events) != 2 || s.events[0].Phase != "warning" || !strings.Contains(s.events[0].Error, state.ErrDamaged.Error()) {
		t.Errorf("down told %+v, want a warning first", s.events)
	}
	s.nothingLeft(t)
}

func TestDownThatFailsMayBeTriedAgain(t *testing.T) {
	for _, m := range mishaps {
		t.Run("when it "+m.name, func(t *testing.T) {
			s := newSite(t)
			s.up(t)
			ctx := s.spoil(t, "Destroy", m)
			_, err := s.lab().Down(ctx)
			if m.name == "is interrupted when it was done" {
				if err != nil { // all was removed: there is nothing to tell
					t.Error(err)
				}
				s.nothingLeft(t)
				return
			}
			if err == nil || !strings.Contains(err.Error(), "labctl down --name l4lb") {
				t.Fatalf("error %v, want one that says to try again", err)
			}
			if got := s.phase(t); got != state.Removing {
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

func TestUpOfALabThatWasBeingRemoved(t *testing.T) {
	s := newSite(t)
	s.up(t)
	ctx := s.spoil(t, "Destroy", mishaps[0])
	if _, err := s.lab().Down(ctx); err == nil {
		t.Fatal("down did not fail")
	}
	s.meddle = nil
	delete(s.Machines, "l4lb/be1")
	s.up(t)
	s.like(t, fresh(t, topology.Default()))
}

func TestDownLeavesWhatIsNotTheLabs(t *testing.T) {
	s := newSite(t)
	s.foreign["l4lb/be2"] = true
	if removed, err := s.lab().Down(t.Context()); err != nil || removed {
		t.Errorf("Down() = %v, %v; want nothing to remove", removed, err)
	}
	if calls := s.called(); len(calls) > 0 {
		t.Errorf("did %v", calls)
	}
}

func TestDownOnAMachineThatLacksSomething(t *testing.T) {
	s := newSite(t)
	s.up(t)
	world := s.text()
	s.requirements = []provider.Requirement{{Name: "root", Fatal: true, Found: "user 1000"}}
	_, err := s.lab().Down(t.Context())
	var missing *provider.MissingError
	if !errors.As(err, &missing) {
		t.Errorf("error %v, want a *MissingError", err)
	}
	same(t, "the world", s.text(), world)
	s.requirements = nil
	if _, err := s.lab().Down(t.Context()); err != nil {
		t.Error(err)
	}
	s.nothingLeft(t)
}
