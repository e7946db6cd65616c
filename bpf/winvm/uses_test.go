package winvm

import (
	"slices"
	"testing"

	"l4lab/bpf"
)

func TestUsesNamesWhatTheDecapsulationNeeds(t *testing.T) {
	m, err := Load(bpf.WindowsObjects()["efw-0.21/decap_xdp.o"], Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Program("decap_xdp")
	if err != nil {
		t.Fatal(err)
	}
	helpers, maps := p.Uses()
	slices.Sort(helpers)
	if want := []string{"map_lookup_elem", "xdp_adjust_head"}; !slices.Equal(helpers, want) {
		t.Errorf("helpers %q, want %q", helpers, want)
	}
	var names []string
	for _, mp := range maps {
		names = append(names, mp.Name())
	}
	slices.Sort(names)
	if want := []string{"decap_config", "decap_stats"}; !slices.Equal(names, want) {
		t.Errorf("maps %q, want %q", names, want)
	}
}
