package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab"
	"l4lab/lab/drivers"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// tree builds all specs, for Ginkgo to list or to run.
func (s *suite) tree() {
	decorators := []any{func() { s.specs() }}
	if s.config.Provider != hypervName { // where labs are made on this machine, all is root's work
		decorators = append(decorators, Label("needs-root"))
	}
	Describe("labctl", decorators...)
}

// specs are the suite's chapters. They are claimed in this order, the longest that
// one process runs as a whole first, and those of single short specs last: so that no
// process has a long one to itself while the others have come to their ends.
func (s *suite) specs() {
	JustAfterEach(s.attachEvidence)
	JustAfterEach(s.keepEvidence)
	if s.config.Failing {
		Describe("a spec that fails on purpose", s.failing)
		return
	}
	if s.config.Hanging {
		Describe("a spec that hangs on purpose", s.hanging)
		return
	}
	Describe("virtual machines", Label("qemu", "dsr", "snat", "slow"), Ordered, ContinueOnFailure, s.virtualMachines)
	Describe("a simulated Hyper-V host of virtual machines", Label("qemu", "windows", "dsr", "snat", "slow"), Ordered, ContinueOnFailure, s.hypervMachines)
	Describe("a simulated Hyper-V host", Label("windows", "slow"), Ordered, ContinueOnFailure, s.hyperv)
	Describe("balancing", Ordered, ContinueOnFailure, s.balancing)
	Describe("a random walk", Label("dsr", "snat", "churn", "faults", "slow"), s.chaos)
	Describe("a seeded fault", Label("dsr", "snat", "faults", "slow"), Ordered, ContinueOnFailure, s.faults)
	Describe("packet paths", Ordered, ContinueOnFailure, s.packetPaths)
	Describe("promises", s.promises)
	Describe("a Hyper-V host that fails", Label("windows", "faults", "slow"), s.hypervFaults)
	Describe("the demo's report", Label("dsr", "snat", "slow"), s.demoReport)
	Describe("the demo", Label("dsr", "snat"), s.walking)
	Describe("interrupting", Label("faults", "slow"), s.interrupting)
	Describe("repairing", Label("churn", "faults"), s.repairing)
	Describe("forwarding", Label("dsr", "snat"), s.forwarding)
	Describe("converging", Label("churn"), s.converging)
	Describe("owning", s.owning)
	Describe("commands", s.commands)
	Describe("mistakes", s.mistakes)
}

// suite is what all specs of one process share: labctl as a user has it, with
// a state folder and a tag that makes lab names its own.
type suite struct {
	config Config
	// bin is the folder of labctl and the programs beside it.
	bin, state, tag string
	// interrupted ends when the process is told to end; nil: it never is.
	interrupted context.Context
	drivers     func() *drivers.Set
	// suspects are flows that a failure of the spec that runs would be about.
	suspects [][2]netip.AddrPort
}

// prepare makes what specs take for granted.
func (s *suite) prepare() {
	s.drivers = sync.OnceValue(func() *drivers.Set {
		return drivers.New(drivers.Options{
			Labctl: filepath.Join(s.bin, "labctl"), Programs: s.programs(), FirstBoot: filepath.Join(s.bin, lab.FirstBootName),
		})
	})
	DeferCleanup(func(ctx context.Context) { _ = s.drivers().Close(ctx) })
}

// programs are what nodes get.
func (s *suite) programs() lab.Programs {
	return lab.Programs{topology.Linux: filepath.Join(s.bin, "lbagent"), topology.Windows: filepath.Join(s.bin, "lbagent.exe")}
}

// driver is the provider of this run.
func (s *suite) driver() provider.Driver {
	GinkgoHelper()
	all := s.drivers().Drivers
	i := slices.IndexFunc(all, func(d provider.Driver) bool { return d.Name == s.config.Provider })
	Expect(i).NotTo(BeNumerically("<", 0), "provider %s", s.config.Provider)
	return all[i]
}

// leavesNothing is the end of every run.
func (s *suite) leavesNothing() {
	By("leaving no namespace, process, mount or folder of any lab behind")
	Expect(s.leftovers("")).To(BeEmpty())
}

// name returns a lab's name: at most 8 characters of the caller's choice.
func (s *suite) name(suffix string) string { return "e2e" + s.tag + suffix }

// attachEvidence adds what is known of every lab that is up to a failed spec.
func (s *suite) attachEvidence() {
	if !CurrentSpecReport().Failed() || s.isInterrupted() {
		return
	}
	for _, lab := range s.labs() {
		AddReportEntry("status of "+lab, s.labctl("status", "--name", lab).String())
		files, _ := filepath.Glob(filepath.Join(s.state, lab, "nodes", "*", "*.log"))
		files = append(files, filepath.Join(s.state, lab, "state.json"))
		for _, f := range files {
			AddReportEntry(f, lastOf(f, 2000))
		}
	}
}

// labs returns the names of the labs in the state folder.
func (s *suite) labs() []string {
	dirs, _ := filepath.Glob(filepath.Join(s.state, "*"))
	for i, d := range dirs {
		dirs[i] = filepath.Base(d)
	}
	return dirs
}

// takenDown has a lab removed when the spec (or, from BeforeAll, the
// container) ends, and nothing of it left.
func (s *suite) takenDown(lab string) {
	DeferCleanup(func() {
		Expect(s.labctl("down", "--name", lab)).To(Succeeds())
		Expect(s.leftovers(lab)).To(BeEmpty(), fmt.Sprintf("what is left of %s after down", lab))
	})
}
