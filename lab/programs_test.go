package lab_test

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/topology"
)

func hashOfText(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestEachNodeGetsTheProgramOfItsSystem(t *testing.T) {
	cases := []struct {
		name       string
		emulates   []topology.OS
		real       func(topology.Topology, topology.OS) bool
		linux, win string
	}{
		{"a provider that has Windows gives it its own", nil, nil, "the agent", "the agent's exe"},
		{"one that emulates Windows gives it Linux's", []topology.OS{topology.Windows}, nil, "the agent", "the agent"},
		{"one that has it where the topology says so gives it its own there", []topology.OS{topology.Windows},
			func(t topology.Topology, os topology.OS) bool { return t.Name == "l4lb" && os == topology.Windows }, "the agent", "the agent's exe"},
		{"and Linux's elsewhere", []topology.OS{topology.Windows},
			func(t topology.Topology, _ topology.OS) bool { return t.Name == "other" }, "the agent", "the agent"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.options.Programs[topology.Windows] = filepath.Join(t.TempDir(), "lbagent.exe")
			writeProgram(t, s.options.Programs[topology.Windows], "the agent's exe")
			d := s.driver("fake")
			d.Emulates, d.Real = c.emulates, c.real
			s.options.Drivers = []provider.Driver{d}
			s.up(t)
			same(t, "be1's page, on Windows", specEnd(s.Machines["l4lb/be1"].Page), hashOfText(c.win)[:12])
			same(t, "be3's page, on Linux", specEnd(s.Machines["l4lb/be3"].Page), hashOfText(c.linux)[:12])
			same(t, "the balancer's agent", specEnd(s.Machines["l4lb/lb"].Agent), hashOfText(c.win)[:12])
			st, err := s.store.Load("l4lb")
			if err != nil {
				t.Fatal(err)
			}
			same(t, "the state's hash for Windows", st.Programs[topology.Windows], hashOfText(c.win))
		})
	}
}

// specEnd returns a spec's last word, the program's hash.
func specEnd(spec string) string { return spec[strings.LastIndexByte(spec, ' ')+1:] }

func TestAMissingProgramIsNamedBeforeAnythingIsMade(t *testing.T) {
	s := newSite(t)
	d := s.driver("fake")
	d.Emulates = nil
	s.options.Drivers = []provider.Driver{d}
	s.options.Programs[topology.Windows] = filepath.Join(t.TempDir(), "lbagent.exe")
	_, err := s.lab().Up(t.Context(), topology.Default(), lab.UpOptions{})
	if err == nil || !strings.Contains(err.Error(), "lbagent.exe") || !strings.Contains(err.Error(), "--agent-windows") {
		t.Errorf("error %v, want one that names lbagent.exe and --agent-windows", err)
	}
	if len(s.called()) != 0 {
		t.Errorf("calls %v, want none", s.called())
	}
}
