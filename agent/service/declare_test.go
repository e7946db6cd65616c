package service

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func openDeclared(t *testing.T, store *fakeStore, file string, mode datapath.Mode, declared ...api.Service) (*Manager, error) {
	t.Helper()
	saved, err := ReadState(file)
	if err != nil {
		t.Fatal(err)
	}
	if declared == nil {
		declared = []api.Service{}
	}
	return Open(t.Context(), Options{Store: store, NextHops: store, Saved: saved, Declared: declared, DefaultMode: mode,
		Own4: store.own, Own6: netip.MustParseAddr("fd00::1"), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

func TestDeclaredServicesTakeThePlaceOfTheSavedOnes(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	m := open(t, store, file)
	one, two, three := svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "40.1.1.2:80", "20.1.1.20:80"), svc(3, "40.1.1.3:80", "20.1.1.30:80")
	mustApply(t, m, one, two)
	m, err := openDeclared(t, store, file, 0, two, three)
	if err != nil {
		t.Fatal(err)
	}
	wantMaps(t, store, two, three)
	if got := mustService(t, m, 2); got.Revision != 1 {
		t.Errorf("a service that is declared as it was has revision %d", got.Revision)
	}
	if got := mustService(t, m, 3); got.Revision != 2 {
		t.Errorf("a new service has revision %d, the highest was 1", got.Revision)
	}
	m, err = openDeclared(t, store, file, 0)
	if err != nil || len(m.Services()) != 0 {
		t.Errorf("declared were none, and there are %v, %v", m.Services(), err)
	}
}

func TestDeclaredServicesAreJudgedBeforeAnythingIsWritten(t *testing.T) {
	store, file := newFakeStore(t), stateFile(t)
	mustApply(t, open(t, store, file), svc(1, "40.1.1.1:80", "20.1.1.10:80"))
	before := store.snapshot()
	_, err := openDeclared(t, store, file, 0, svc(1, "40.1.1.1:80", "20.1.1.10:80"), svc(2, "20.1.1.1:80", "20.1.1.10:80"))
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Field != "services[1].frontend" {
		t.Errorf("got %v", err)
	}
	if store.snapshot() != before {
		t.Error("the maps are not what they were")
	}
}

func TestDeclareSetsServicesAndDefaultModeTogether(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80")
	s.Mode = ""
	if err := m.Declare(t.Context(), datapath.SNAT, []api.Service{s}); err != nil {
		t.Fatal(err)
	}
	if got := mustService(t, m, 1); got.Mode != "snat" {
		t.Errorf("mode %s", got.Mode)
	}
	if err := m.Declare(t.Context(), datapath.DSR, nil); err != nil {
		t.Fatal(err)
	}
	if got := mustService(t, m, 1); got.Mode != "snat" {
		t.Errorf("no services were declared, and this has another mode: %s", got.Mode)
	}
	mustPut(t, m, api.Service{ID: 2, Frontend: netip.MustParseAddrPort("40.1.1.2:80"), Backends: s.Backends})
	if got := mustService(t, m, 2); got.Mode != "dsr" {
		t.Errorf("mode %s of a service that names none", got.Mode)
	}
}

func TestDeclaredBackendThatHasDrainedIsNotPutBack(t *testing.T) {
	store := newFakeStore(t)
	m := open(t, store, "")
	s := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	mustPut(t, m, s)
	s.Backends[1].State = "draining"
	declare := func() {
		t.Helper()
		if err := m.Declare(t.Context(), 0, []api.Service{s}); err != nil {
			t.Fatal(err)
		}
	}
	declare()
	if got := mustService(t, m, 1); len(got.Backends) != 2 || got.Backends[1].State != "draining" {
		t.Fatalf("%+v", got)
	}
	sweep(t, m)
	declare()
	if got := mustService(t, m, 1); len(got.Backends) != 1 {
		t.Errorf("it is back: %+v", got)
	}
	diff, _, err := m.Diff([]api.Service{s})
	if err != nil || len(diff) != 0 {
		t.Errorf("it is a difference: %+v, %v", diff, err)
	}
	s.Backends[1].State = ""
	declare()
	if got := mustService(t, m, 1); len(got.Backends) != 2 {
		t.Errorf("declared active, it stays away: %+v", got)
	}
}

func TestDrainWithoutADeadlineGetsTheDefaultOne(t *testing.T) {
	m := open(t, newFakeStore(t), "")
	m.SetDrainAfter(time.Hour)
	s := drained(svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80"), 1, nil)
	mustPut(t, m, s)
	first := mustService(t, m, 1).Backends[1].DrainUntil
	if first == nil || time.Until(*first) < 59*time.Minute || time.Until(*first) > time.Hour {
		t.Fatalf("deadline %v", first)
	}
	s.MSS = 1000
	mustPut(t, m, s)
	if again := mustService(t, m, 1).Backends[1].DrainUntil; again == nil || !again.Equal(*first) {
		t.Errorf("the deadline moved from %v to %v", first, again)
	}
	m.SetDrainAfter(0)
	mustPut(t, m, svc(2, "40.1.1.2:80", "20.1.1.10:80"))
	mustPut(t, m, drained(svc(2, "40.1.1.2:80", "20.1.1.10:80", "20.1.1.20:80"), 1, nil))
	if until := mustService(t, m, 2).Backends[1].DrainUntil; until != nil {
		t.Errorf("without a default the deadline is %v", until)
	}
}
