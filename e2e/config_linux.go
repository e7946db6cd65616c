package e2e

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/qemu"
	"l4lab/topology"
)

// Config says what a run of the suite is about.
type Config struct {
	// Programs are what is tested; the zero value: they are built.
	Programs Programs
	// Provider is where the labs live: netns, qemu, hyperv-sim or hyperv.
	Provider string
	// Topology is a file with what the provider must be told (its block
	// "providers"); its nodes and services do not matter.
	Topology string
	// Labels is a filter in Ginkgo's language ("dsr && !slow"), Focus regular
	// expressions of which a spec's whole name must match one.
	Labels string
	Focus  []string
	// Seed of all that is random; 0: a new one, which the output says.
	Seed int64
	// Procs is how many processes run specs side by side; 0: as many as suit the provider.
	Procs int
	// JUnit and JSON are files for reports, Artifacts the folder for what is known
	// of a failed spec; "": no report, a folder below the temporary one.
	JUnit, JSON, Artifacts string
	// Chaos is how long the seeded random walk goes on.
	Chaos time.Duration
	// Verbose prints each spec as it runs, also those that pass.
	Verbose bool
	// Failing has a chapter run alone that fails, to try what a failure leaves.
	Failing bool
	// Hanging has a chapter run alone that does not end, to try what an end from
	// outside leaves.
	Hanging bool
	// Self are the arguments with which the running program comes to Become.
	Self []string
}

// Programs are paths of the binaries that the suite tests.
type Programs struct{ Labctl, Agent, AgentWindows, FirstBoot string }

// Flags has command-line flags set the fields of a Config, and sets their defaults.
func (c *Config) Flags(f *flag.FlagSet) {
	f.StringVar(&c.Provider, "provider", netnsName, "where the labs live: "+strings.Join(providers(), ", "))
	f.StringVar(&c.Topology, "topology", "", "`file` whose block \"providers\" tells how to reach the provider's host")
	f.StringVar(&c.Labels, "labels", "", "`filter` of labels: 'dsr && !slow'; there are "+strings.Join(labels(), ", "))
	f.Func("focus", "`regexp` of which a spec's name must match one; may be given several times", func(text string) error {
		c.Focus = append(c.Focus, text)
		return nil
	})
	f.Int64Var(&c.Seed, "seed", 0, "seed of random moments and walks (default: a new one, which is printed)")
	f.IntVar(&c.Procs, "procs", 0, fmt.Sprintf("how many processes run specs side by side (default: %d; 1 with virtual machines)", defaultProcs()))
	f.StringVar(&c.JUnit, "junit", "", "write a JUnit report to this `file`")
	f.StringVar(&c.JSON, "json", "", "write a JSON report to this `file`")
	f.StringVar(&c.Artifacts, "artifacts", "", "`folder` for what is known of each failed spec (default: a new one, which is printed)")
	f.DurationVar(&c.Chaos, "chaos", time.Minute, "how long the seeded random walk goes on")
}

// defaultProcs is half as many again as there are processors: specs wait much of their
// time, for lifetimes, health checks and machines that start.
func defaultProcs() int { return runtime.NumCPU() + (runtime.NumCPU()+1)/2 }

// processes is how many run specs. A lab of virtual machines is enough for a machine.
func (c Config) processes() int {
	switch {
	case c.Procs > 0:
		return c.Procs
	case c.Provider == qemuName:
		return 1
	}
	return defaultProcs()
}

// Names of providers. The client of a lab on a Hyper-V host is the host itself.
const (
	netnsName  = "netns"
	qemuName   = qemu.Name
	hypervName = hyperv.Name
)

func providers() []string { return []string{netnsName, qemuName, hypervSim, hypervName} }

// labels are those that chapters bear.
func labels() []string {
	return []string{"dsr", "snat", "icmp", "mtu", "churn", "faults", "slow", "windows", "qemu", "needs-root"}
}

// Check says what is wrong with a Config.
func (c Config) Check() error {
	var errs []error
	if !slices.Contains(providers(), c.Provider) {
		errs = append(errs, fmt.Errorf("unknown provider %q; there is %s", c.Provider, strings.Join(providers(), ", ")))
	}
	if c.Provider == hypervName && c.Topology == "" {
		errs = append(errs, errors.New("provider hyperv: name a topology file that says where the host is"))
	}
	if c.Topology != "" {
		if _, err := topology.Load(c.Topology); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := types.ParseLabelFilter(c.Labels); c.Labels != "" && err != nil {
		errs = append(errs, fmt.Errorf("label filter %q: %w", c.Labels, err))
	}
	for _, focus := range c.Focus {
		if _, err := regexp.Compile(focus); err != nil {
			errs = append(errs, fmt.Errorf("focus %q: %w", focus, err))
		}
	}
	if c.Chaos < 0 {
		errs = append(errs, fmt.Errorf("a random walk of %s: it goes on for no less than nothing", c.Chaos))
	}
	if c.Procs < 0 {
		errs = append(errs, fmt.Errorf("%d processes: at least 1 runs the specs", c.Procs))
	}
	return errors.Join(errs...)
}

// ginkgo returns how Ginkgo is to run: its own flags hold where a program parses
// them, and those of the suite on top.
func (c Config) ginkgo() (types.SuiteConfig, types.ReporterConfig) {
	suite, reporter := GinkgoConfiguration()
	if c.Labels != "" && suite.LabelFilter != "" {
		suite.LabelFilter = fmt.Sprintf("(%s) && (%s)", suite.LabelFilter, c.Labels)
	} else if c.Labels != "" {
		suite.LabelFilter = c.Labels
	}
	suite.Timeout += c.Chaos
	suite.FocusStrings = append(suite.FocusStrings, c.Focus...)
	if c.Seed != 0 {
		suite.RandomSeed = c.Seed
	}
	reporter.Verbose = reporter.Verbose || c.Verbose
	return suite, reporter
}
