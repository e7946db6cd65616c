package service

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWhatAKilledAgentLeftBesideTheStateFileIsRemoved(t *testing.T) {
	file := stateFile(t)
	left := filepath.Join(filepath.Dir(file), ".state.json.123456")
	others := []string{".state.json.bak", ".state.json.", "other.json", ".other.json.123"}
	for _, name := range append(others, filepath.Base(left)) {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadState(file); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), name)); err != nil {
			t.Errorf("somebody else's file has gone: %v", err)
		}
	}
}

// The first save has the services; that the second one, with the numbers, fails
// does not make an update fail that is in place.
func TestUpdateThatIsInPlaceAndSavedIsNoFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	store := newFakeStore(t)
	m := open(t, store, filepath.Join(dir, "state.json"))
	store.onWrite = func() { _ = os.Rename(dir, dir+".moved") }
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	if _, err := m.Put(t.Context(), s); err != nil {
		t.Errorf("got %v", err)
	}
	wantMaps(t, store, s)
	if state, found, err := loadState(filepath.Join(dir+".moved", "state.json")); err != nil || !found || len(state.services) != 1 {
		t.Errorf("the file has %+v, %v", state, err)
	}
}

func TestStateThatDoesNotFitTheBalancersAddressChangesNothing(t *testing.T) {
	file, store := stateFile(t), newFakeStore(t)
	m := open(t, store, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	saved, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	store.writes = nil
	_, err = Open(t.Context(), Options{Store: store, NextHops: store, Saved: saved, Own4: netip.MustParseAddr("40.1.1.1"), Log: m.log})
	if err == nil || !strings.Contains(err.Error(), file) || len(store.writes) != 0 {
		t.Errorf("when it is a service's frontend: got %v, writes %q", err, store.writes)
	}
}

// Of two machines that swap their addresses, one starts with the services of before.
func TestBalancerWithABackendsFormerAddressStartsAndCanBeCorrected(t *testing.T) {
	file, store := stateFile(t), newFakeStore(t)
	m := open(t, store, file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"))
	saved, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	store.own = netip.MustParseAddr("20.1.1.10")
	m, err = Open(t.Context(), Options{Store: store, NextHops: store, Saved: saved, Own4: store.own, Log: m.log})
	if err != nil {
		t.Fatal(err)
	}
	swapped := svc(1, "40.1.1.1:80", "20.1.1.1:80", "20.1.1.20:80")
	mustPut(t, m, swapped)
	wantMaps(t, store, swapped)
}

// A next hop that is silent is waited for; one call is for all of them.
func TestStartAsksForAllNextHopsAtOnce(t *testing.T) {
	file := stateFile(t)
	m := open(t, newFakeStore(t), file)
	mustPut(t, m, svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.20:80"))
	store := newFakeStore(t)
	open(t, store, file)
	hops := slices.DeleteFunc(slices.Clone(store.writes), func(w string) bool { return !strings.HasPrefix(w, "next hops") })
	if want := []string{"next hops [20.1.1.10 20.1.1.20]"}; !slices.Equal(hops, want) {
		t.Errorf("asked for %q, want %q", hops, want)
	}
}
