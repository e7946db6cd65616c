package main

import (
	"os"
	"slices"
	"testing"
)

func TestTheHelpersPageIsCurrent(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/helpers.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/helpers.md is not what the objects give: run make docs and commit it")
	}
}

// TestTheInventoryKnowsWhatIsSurelyThere would fail if a reader found nothing, or took one
// system's numbers for the other's.
func TestTheInventoryKnowsWhatIsSurelyThere(t *testing.T) {
	v, err := takeInventory()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in      map[string]*users
		name    string
		system  int
		program string
		want    bool
	}{
		{v.helpers, "tail_call", onLinux, "lb", true},
		{v.helpers, "tail_call", onEFW, "lb", true},
		{v.helpers, "tail_call", onXDP, "lb", true},
		{v.helpers, "xdp_adjust_head", onLinux, "decap_xdp", true},
		{v.helpers, "xdp_adjust_head", onEFW, "decap_xdp", true},
		{v.helpers, "xdp_adjust_head", onXDP, "decap_xdp", false},
		{v.helpers, "skb_adjust_room", onLinux, "decap_tc", true},
		{v.mapTypes, "prog_array", onLinux, "lb", true},
		{v.mapTypes, "lru_hash", onLinux, "lb_fast", true},
		{v.mapTypes, "lru_hash", onEFW, "lb_fast", true},
		{v.mapTypes, "percpu_array", onEFW, "decap_xdp", true},
		{v.mapTypes, "lru_hash", onEFW, "lb", false},
	} {
		u := v.entryOf(c.in, c.name)
		if got := slices.Contains(u[c.system], c.program); got != c.want {
			t.Errorf("%s on %s in %s: %v, want %v", c.name, systemNames[c.system], c.program, got, c.want)
		}
	}
}

func (v *inventory) entryOf(in map[string]*users, name string) users {
	if u := in[name]; u != nil {
		return *u
	}
	return users{}
}

func TestHelpersHaveTheNamesOfTheHeaders(t *testing.T) {
	for fn, want := range map[string]string{
		"FnMapLookupElem": "map_lookup_elem", "FnGetPrandomU32": "get_prandom_u32", "FnXdpAdjustHead": "xdp_adjust_head",
	} {
		if got := helperName(fn); got != want {
			t.Errorf("%s is %s, want %s", fn, got, want)
		}
	}
}
