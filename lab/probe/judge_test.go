package probe

import (
	"slices"
	"testing"

	"l4lab/topology"
)

func judged(t *testing.T, e Evidence) []Check {
	t.Helper()
	checks, err := Judge(e)
	if err != nil {
		t.Fatal(err)
	}
	return checks
}

func TestAGoodRunPassesEveryCheck(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     topology.Mode
		protocol topology.Protocol
		checks   int
	}{
		{"dsr over tcp", topology.DSR, topology.TCP, 23},
		{"snat over tcp", topology.SNAT, topology.TCP, 24},
		{"dsr over udp", topology.DSR, topology.UDP, 23},
		{"snat over udp", topology.SNAT, topology.UDP, 24},
	} {
		t.Run(c.name, func(t *testing.T) {
			checks := judged(t, newSim(t, c.mode, c.protocol).goodRun())
			names := map[string]bool{}
			for _, check := range checks {
				names[check.Name] = true
				skipped := c.protocol == topology.UDP && (check.Name == downloadWhole || check.Name == uploadWhole)
				if check.Status != Pass && !(skipped && check.Status == Skipped) {
					t.Errorf("%s: %s\n%s", check.Status, check.Name, check.Details())
				}
				if check.Expected == "" || check.Seen == "" {
					t.Errorf("%s: lacks what was expected or seen: %+v", check.Name, check)
				}
			}
			if len(names) != len(checks) {
				t.Errorf("%d checks have %d names", len(checks), len(names))
			}
			if len(checks) != c.checks {
				t.Errorf("%d checks, want %d", len(checks), c.checks)
			}
		})
	}
}

// failing returns the names of checks that failed, sorted.
func failing(checks []Check) []string {
	var names []string
	for _, c := range checks {
		if c.Status == Fail {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}
