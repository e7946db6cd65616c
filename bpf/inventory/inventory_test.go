package inventory

import (
	"slices"
	"testing"
)

// TestTheInventoryKnowsWhatIsSurelyThere would fail if a reader found nothing, or took one
// system's numbers for the other's.
func TestTheInventoryKnowsWhatIsSurelyThere(t *testing.T) {
	v, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in      []Row
		name    string
		system  System
		program string
		want    bool
	}{
		{v.Helpers, "tail_call", Linux, "lb", true},
		{v.Helpers, "tail_call", EFW, "lb", true},
		{v.Helpers, "tail_call", XDP, "lb", true},
		{v.Helpers, "xdp_adjust_head", Linux, "decap_xdp", true},
		{v.Helpers, "xdp_adjust_head", EFW, "decap_xdp", true},
		{v.Helpers, "xdp_adjust_head", XDP, "decap_xdp", false},
		{v.Helpers, "skb_adjust_room", Linux, "decap_tc", true},
		{v.Helpers, "fib_lookup", Linux, "lb", false},
		{v.MapTypes, "prog_array", Linux, "lb", true},
		{v.MapTypes, "lru_hash", Linux, "lb_fast", true},
		{v.MapTypes, "lru_hash", EFW, "lb_fast", true},
		{v.MapTypes, "percpu_array", EFW, "decap_xdp", true},
		{v.MapTypes, "lru_hash", EFW, "lb", false},
	} {
		at := slices.IndexFunc(c.in, func(r Row) bool { return r.Name == c.name })
		if at < 0 {
			t.Errorf("there is no row for %s", c.name)
			continue
		}
		if got := slices.Contains(c.in[at].On(c.system), c.program); got != c.want {
			t.Errorf("%s on %s in %s: %v, want %v", c.name, c.system, c.program, got, c.want)
		}
	}
}

func TestWhatOneSystemGoesWithoutNeedsANote(t *testing.T) {
	both := [systems][]string{{"lb"}, {"lb"}, nil}
	for name, c := range map[string]struct {
		row  Row
		want bool
	}{
		"both systems use it":               {Row{Programs: both}, true},
		"Linux alone, with a note":          {Row{Programs: [systems][]string{{"lb"}}, Note: "why"}, true},
		"Linux alone, without one":          {Row{Programs: [systems][]string{{"lb"}}}, false},
		"the demo alone, without one":       {Row{Demo: "needed"}, false},
		"the demo and both, without a note": {Row{Demo: "needed", Programs: both}, true},
	} {
		if err := (Inventory{Helpers: []Row{c.row}}).unexplained(); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSharedLinesAreThose(t *testing.T) {
	s, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	if s.XDP.Linux == 0 || s.XDP.Both > s.XDP.Linux || s.All.Linux <= s.XDP.Linux || s.XDP.Share() < 90 {
		t.Errorf("%+v cannot be", s)
	}
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
