package datapath

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// fakeKeeper has pins and tables as efW would: a table without a pin is dead.
type fakeKeeper struct {
	tableKeeper
	pins  map[string]bool
	slots map[uint32]ebpf.MapID
}

func newFakeKeeper() *fakeKeeper {
	f := &fakeKeeper{pins: map[string]bool{}, slots: map[uint32]ebpf.MapID{}}
	f.current = func(slot uint32) (ebpf.MapID, error) { return f.slots[slot], nil }
	f.pin = func(_ *ebpf.Map, name string) error { f.pins[name] = true; return nil }
	f.unpin = func(name string) error {
		if !f.pins[name] {
			return errors.New("no pin " + name)
		}
		delete(f.pins, name)
		return nil
	}
	return f
}

// check says which slots have a table that nothing keeps.
func (f *fakeKeeper) check(t *testing.T) {
	t.Helper()
	for slot, id := range f.slots {
		if !f.pins[tablePin(slot, id)] {
			t.Errorf("the table %d of slot %d is not kept", id, slot)
		}
	}
}

func (f *fakeKeeper) write(t *testing.T, slot uint32, id ebpf.MapID) func() error {
	return func() error {
		f.slots[slot] = id
		f.check(t)
		return nil
	}
}

func TestATableIsKeptAsLongAsItIsInItsSlot(t *testing.T) {
	f := newFakeKeeper()
	for id := ebpf.MapID(1); id <= 3; id++ {
		if err := f.put(7, nil, id, f.write(t, 7, id)); err != nil {
			t.Fatal(err)
		}
		f.check(t)
		if got := slices.Collect(maps.Keys(f.pins)); !slices.Equal(got, []string{tablePin(7, id)}) {
			t.Errorf("pins %q after table %d", got, id)
		}
	}
	if err := f.remove(7, func() error { f.check(t); delete(f.slots, 7); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(f.pins) > 0 {
		t.Errorf("pins %v are left", f.pins)
	}
}

func TestATableThatCannotBeEnteredIsNotKept(t *testing.T) {
	f := newFakeKeeper()
	if err := f.put(7, nil, 1, f.write(t, 7, 1)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("full")
	if err := f.put(7, nil, 2, func() error { return full }); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
	f.check(t)
	if len(f.pins) != 1 {
		t.Errorf("pins %v, want that of table 1 alone", f.pins)
	}
	if err := f.remove(7, func() error { return full }); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
	f.check(t)
}

func TestRemovingFromAnEmptySlotIsFine(t *testing.T) {
	f := newFakeKeeper()
	if err := f.remove(7, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
