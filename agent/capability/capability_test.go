package capability

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"l4lab/agent/api"
	"l4lab/bpf"
	"l4lab/bpf/winvm"
)

func TestEveryFeatureSaysHowItIsOnEveryProfile(t *testing.T) {
	keys := make(map[string]bool)
	groups := make(map[string]bool)
	last := ""
	for _, f := range Table() {
		if f.Key == "" || f.Name == "" || keys[f.Key] {
			t.Errorf("%+v: a key and a name of its own are wanted", f)
		}
		keys[f.Key] = true
		if f.Group != last && groups[f.Group] {
			t.Errorf("%s: the group %s is torn apart", f.Key, f.Group)
		}
		groups[f.Group], last = true, f.Group
		if len(f.Support) != len(Profiles()) {
			t.Errorf("%s: %d profiles", f.Key, len(f.Support))
		}
		for _, p := range Profiles() {
			switch on := f.On(p); {
			case on.Level != Yes && on.Level != Partly && on.Level != No:
				t.Errorf("%s on %s: level %q", f.Key, p, on.Level)
			case on.Level != Yes && on.Note == "":
				t.Errorf("%s on %s: %s, and no reason", f.Key, p, on.Level)
			}
		}
	}
}

func TestReportIsTheTablesColumn(t *testing.T) {
	for _, p := range Profiles() {
		r := Report(p)
		if r.Profile != string(p) || r.System == "unknown" || len(r.Features) != len(Table()) {
			t.Errorf("%+v", r)
		}
		if parsed, err := ParseProfile(string(p)); err != nil || parsed != p {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// What the table says of sizes is what the objects have.
func TestSizesOfTheTableAreTheMaps(t *testing.T) {
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	wantSizes(t, Linux, func(name string) uint32 { return spec.Maps[name].MaxEntries })
	if inner := spec.Maps[bpf.LBMapMaglev].InnerMap; inner == nil || inner.MaxEntries != (MaglevSlots+1)/2 {
		t.Errorf("a Maglev table is %+v", inner)
	}
	for _, p := range []Profile{EFW021, XDP} {
		machine, err := winvm.Load(bpf.WindowsObjects()[string(p)+"/lb.o"], winvm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		its := make(map[string]winvm.MapSpec)
		for _, m := range machine.Maps() {
			its[m.Name()] = m.MapSpec
		}
		wantSizes(t, p, func(name string) uint32 { return its[name].MaxEntries })
		if inner := its[bpf.LBMapMaglev].Inner; inner == nil || inner.MaxEntries != (MaglevSlots+1)/2 {
			t.Errorf("%s: a Maglev table is %+v", p, inner)
		}
	}
}

func wantSizes(t *testing.T, of Profile, size func(string) uint32) {
	t.Helper()
	for name, want := range map[string]uint32{
		bpf.LBMapServices: 2 * Services, bpf.LBMapMaglev: Services, bpf.LBMapBackends: Backends + 1, bpf.LBMapSources: Sources,
		bpf.LBMapFlows4: Connections4, bpf.LBMapFlows6: Connections6, bpf.LBMapNewFlows4: NewFlows4, bpf.LBMapNewFlows6: NewFlows6,
		bpf.LBMapAffinities: Affinities, bpf.LBMapFragments: Fragments, bpf.LBMapEvents: EventBytes,
	} {
		if got := size(name); got != want {
			t.Errorf("%s: the map %s holds %d, the table says %d", of, name, got, want)
		}
	}
}

func TestServicesThatAProfileCannotDoAreRefusedWithTheReason(t *testing.T) {
	four, six := netip.MustParseAddrPort("40.1.1.1:80"), netip.MustParseAddrPort("[fd00::1]:80")
	for _, c := range []struct {
		name    string
		profile Profile
		service api.Service
		field   string // "": admitted
		says    string
	}{
		{"4in4 on xdp", XDP, api.Service{Frontend: four, Mode: "dsr", Encap: "ipip"}, "encap", "adjust_head"},
		{"6in6 on xdp", XDP, api.Service{Frontend: six, Mode: "dsr", Encap: "ipip"}, "encap", "6in6"},
		{"layer 2 on xdp", XDP, api.Service{Frontend: four, Mode: "dsr", Encap: "l2", TableSize: 16381}, "", ""},
		{"SNAT on xdp", XDP, api.Service{Frontend: four, Mode: "snat", Encap: "ipip"}, "", ""},
		{"4in4 on efw-0.21", EFW021, api.Service{Frontend: four, Mode: "dsr", Encap: "ipip"}, "", ""},
		{"a small table on efw-0.21", EFW021, api.Service{Frontend: four, Mode: "snat", TableSize: 251}, "tableSize", "16381"},
		{"a small table on Linux", Linux, api.Service{Frontend: four, Mode: "dsr", Encap: "ipip", TableSize: 251}, "", ""},
		{"checks through the VIP on Windows", EFW021, api.Service{Frontend: four, Mode: "dsr", Encap: "ipip", HealthCheck: &api.HealthCheck{Via: "vip"}}, "healthCheck.via", "direct"},
		{"checks through the VIP on Linux", Linux, api.Service{Frontend: four, Mode: "dsr", Encap: "ipip", HealthCheck: &api.HealthCheck{Via: "vip"}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.profile.Refuse(c.service)
			if c.field == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var refusal *api.Error
			if !errors.As(err, &refusal) || refusal.Field != c.field || !strings.Contains(refusal.Message, c.says) ||
				!strings.Contains(refusal.Message, string(c.profile)) {
				t.Errorf("got %v", err)
			}
		})
	}
}
