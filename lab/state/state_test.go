package state_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/lab/state"
	"l4lab/topology"
)

func saved(t *testing.T, store state.Store, name string) state.State {
	t.Helper()
	st := state.State{Name: name, Provider: "netns", Phase: state.Creating, Topology: topology.Default(), Owned: []string{"switch", "node/lb"}}
	st.Topology.Name = name
	folder(t, store, name)
	if err := store.Save(st); err != nil {
		t.Fatal(err)
	}
	return st
}

// folder makes a lab's folder, as every command does that takes the lab's lock.
func folder(t *testing.T, store state.Store, name string) {
	t.Helper()
	lock, err := store.Lock(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	store := state.NewStore(t.TempDir())
	before := time.Now().Add(-time.Second)
	want := saved(t, store, "l4lb")
	got, err := store.Load("l4lb")
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != state.Version || got.Changed.Before(before) || got.Changed.After(time.Now()) {
		t.Errorf("version %d changed %v; want %d and now", got.Version, got.Changed, state.Version)
	}
	want.Version, want.Changed, want.Owned = got.Version, got.Changed, []string{"node/lb", "switch"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("loaded\n%+v\nwant\n%+v", got, want)
	}
	if got.Topology.Nodes["be3"].Address != netip.MustParseAddr("20.1.1.30") || got.Topology.Services[0].Mode != topology.DSR {
		t.Errorf("the topology changed on its way: %+v", got.Topology)
	}
}

func TestSaveListsEachOwnedThingOnce(t *testing.T) {
	store := state.NewStore(t.TempDir())
	st := saved(t, store, "l4lb")
	st.Owned = []string{"switch", "page/be1", "switch", "node/be1", "page/be1"}
	if err := store.Save(st); err != nil {
		t.Fatal(err)
	}
	got, err := store.Load("l4lb")
	if want := []string{"node/be1", "page/be1", "switch"}; err != nil || !slices.Equal(got.Owned, want) {
		t.Errorf("owned %v, %v; want %v", got.Owned, err, want)
	}
}

// A reader that opened the old file goes on reading the old file, since saving
// replaces it and does not write into it.
func TestSaveReplacesTheFileInOneStep(t *testing.T) {
	store := state.NewStore(t.TempDir())
	st := saved(t, store, "l4lb")
	path := filepath.Join(store.Dir("l4lb"), "state.json")
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	st.Phase = state.Up
	if err := store.Save(st); err != nil {
		t.Fatal(err)
	}
	a, errA := old.Stat()
	b, errB := os.Stat(path)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if os.SameFile(a, b) {
		t.Error("the same file was written again: who reads meanwhile sees half of it")
	}
	if b.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", b.Mode().Perm())
	}
	if entries, err := os.ReadDir(store.Dir("l4lb")); err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v, %v; want marker, lock and state alone", entries, err)
	}
}

func TestSaveThatFailsLeavesTheOldState(t *testing.T) {
	store := state.NewStore(t.TempDir())
	st := saved(t, store, "l4lb")
	st.Name = "other" // its folder does not exist
	if err := store.Save(st); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "lab other") {
		t.Errorf("error %v, want one that names the lab", err)
	}
	if got, err := store.Load("l4lb"); err != nil || got.Phase != state.Creating {
		t.Errorf("loaded phase %q, %v", got.Phase, err)
	}
}

func TestWriteFileThatFailsLeavesNoDraft(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.MkdirAll(filepath.Join(target, "full"), 0o700); err != nil { // a folder cannot be replaced by a file
		t.Fatal(err)
	}
	if err := state.WriteFile(target, []byte("x"), 0o600); err == nil {
		t.Fatal("a folder was replaced by a file")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v; want the target alone", entries, err)
	}
}

func TestLoadOfALabThatIsNotThere(t *testing.T) {
	store := state.NewStore(filepath.Join(t.TempDir(), "never", "made"))
	_, err := store.Load("l4lb")
	if !errors.Is(err, state.ErrNone) || errors.Is(err, state.ErrDamaged) {
		t.Errorf("error %v, want ErrNone alone", err)
	}
}

func TestLoadOfADamagedFile(t *testing.T) {
	cases := []struct {
		name    string
		content func(good string) string
	}{
		{"an empty file", func(string) string { return "" }},
		{"binary bytes", func(string) string { return "\x7fELF\x02\x01\x01\x00\x00\xff\xfe" }},
		{"a file that ends half-way", func(good string) string { return good[:len(good)/2] }},
		{"something after the end", func(good string) string { return good + "{}" }},
		{"JSON of another shape", func(string) string { return `["version", 1]` }},
		{"JSON null", func(string) string { return "null" }},
		{"a later version", func(good string) string { return strings.Replace(good, `"version": 1`, `"version": 2`, 1) }},
		{"no version", func(good string) string { return strings.Replace(good, `"version": 1,`, "", 1) }},
		{"another lab's file", func(good string) string {
			return strings.Replace(good, `"name": "l4lb"`, `"name": "other"`, 1)
		}},
		{"an address that is none", func(good string) string { return strings.Replace(good, "20.1.1.30", "20.1.1.300", 1) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			store := state.NewStore(t.TempDir())
			saved(t, store, "l4lb")
			path := filepath.Join(store.Dir("l4lb"), "state.json")
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			bad := c.content(string(good))
			if bad == string(good) {
				t.Fatal("the case damages nothing")
			}
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = store.Load("l4lb")
			if !errors.Is(err, state.ErrDamaged) || errors.Is(err, state.ErrNone) {
				t.Fatalf("error %v, want ErrDamaged", err)
			}
			for _, part := range []string{path, "labctl down --name l4lb"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

func TestLabs(t *testing.T) {
	root := t.TempDir()
	store := state.NewStore(root)
	for _, name := range []string{"zeta", "alpha"} {
		saved(t, store, name)
	}
	// A killed up may leave a folder without a state: that is a lab too, for down.
	folder(t, store, "beta")
	for _, dir := range []string{"precious", "My Docs", ".hidden"} {
		if err := os.MkdirAll(filepath.Join(root, dir, "letters"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := store.Labs()
	if want := []string{"alpha", "beta", "zeta"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Labs() = %v, %v; want %v", got, err, want)
	}
}

func TestAFolderThatIsNoLabsIsRefused(t *testing.T) {
	root := t.TempDir()
	store := state.NewStore(root)
	if err := os.MkdirAll(filepath.Join(root, "precious", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Lock(t.Context(), "precious"); !errors.Is(err, state.ErrNotALab) {
		t.Errorf("Lock: %v, want ErrNotALab", err)
	}
	if _, err := os.Stat(filepath.Join(root, "precious", "deep")); err != nil {
		t.Error(err)
	}
}

func TestRootThatIsASymbolicLinkIsResolved(t *testing.T) {
	real, links := t.TempDir(), t.TempDir()
	link := filepath.Join(links, "to")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(real)
	if err != nil {
		t.Fatal(err)
	}
	if got := state.NewStore(filepath.Join(link, "not", "yet")).Root(); got != filepath.Join(want, "not", "yet") {
		t.Errorf("root %s, want it under %s", got, want)
	}
}

func TestLabsOfAStoreThatIsNotThere(t *testing.T) {
	got, err := state.NewStore(filepath.Join(t.TempDir(), "never")).Labs()
	if err != nil || len(got) != 0 {
		t.Errorf("Labs() = %v, %v; want none", got, err)
	}
}

func TestDefaultRoot(t *testing.T) {
	cases := []struct {
		name          string
		override, xdg string
		root, user    string // want for root and for everyone else
	}{
		{"its own variable wins", "/srv/labs", "/home/u/state", "/srv/labs", "/srv/labs"},
		{"root's is the system's, others' their own", "", "/home/u/state", "/var/lib/labctl", "/home/u/state/labctl"},
		{"a relative XDG folder is no folder (XDG base directory specification)", "", "state", "/var/lib/labctl", "/home/u/.local/state/labctl"},
		{"without any it lies in the home folder", "", "", "/var/lib/labctl", "/home/u/.local/state/labctl"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("LABCTL_STATE_DIR", c.override)
			t.Setenv("XDG_STATE_HOME", c.xdg)
			t.Setenv("HOME", "/home/u")
			want := c.user
			if os.Geteuid() == 0 {
				want = c.root
			}
			if got, err := state.DefaultRoot(); err != nil || got != want {
				t.Errorf("DefaultRoot() = %q, %v; want %q", got, err, want)
			}
		})
	}
}
