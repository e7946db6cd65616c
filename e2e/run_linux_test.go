package e2e

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2/reporters"
	"github.com/onsi/ginkgo/v2/types"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/drivers"
)

// failingEnv has TestLabctl run the chapter that fails on purpose, alone.
const failingEnv = "E2E_FAILING"

// hangingEnv has TestLabctl run the chapter that hangs on purpose, alone.
const hangingEnv = "E2E_HANGING"

func TestARunThatIsEndedFromOutsideLeavesNothing(t *testing.T) {
	needRoot(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			mark := hangingEnv + "=" + rand.Text()
			cmd := exec.Command("/proc/self/exe", "-test.run", "^TestLabctl$", "-procs", "2", "-artifacts", t.TempDir())
			cmd.Env = append(os.Environ(), mark)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			hung := func() bool {
				return slices.ContainsFunc(marked(mark), func(p string) bool { return strings.Contains(p, "sleep\x0080") })
			}
			await(t, 5*time.Minute, "hangs", hung) // its programs are built before
			description := runFolder.FindString(strings.Join(marked(mark), "\n"))
			if description == "" {
				t.Fatalf("no process names the run's folder: %q", marked(mark))
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was ended
			await(t, time.Minute, "is gone", func() bool { return len(marked(mark)) == 0 })
			if left, err := os.ReadDir(description); err == nil {
				t.Errorf("%s is left, with %v", description, left)
			}
		})
	}
}

// runFolder is a run's folder in a command line.
var runFolder = regexp.MustCompile(`/tmp/l4lab-\d+`)

// marked returns the command lines of the processes whose environment has a variable.
func marked(mark string) (lines []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		environment, _ := os.ReadFile(path)
		if slices.Contains(strings.Split(string(environment), "\x00"), mark) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			lines = append(lines, string(line))
		}
	}
	return lines
}

func await(t *testing.T, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s was not enough until it %s", patience, what)
		}
	}
}

func TestAFailedSpecLeavesWhatIsKnownOfIt(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	report := filepath.Join(dir, "report.json")
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestLabctl$", "-procs", "2",
		"-artifacts", filepath.Join(dir, "artifacts"), "-json", report)
	cmd.Env = append(os.Environ(), failingEnv+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the run ended with %v, want exit code 1\n%s", err, out)
	}
	for _, text := range []string{"on purpose", "1 Passed | 1 Failed", filepath.Join(dir, "artifacts")} {
		if !strings.Contains(string(out), text) {
			t.Errorf("the output lacks %q:\n%s", text, out)
		}
	}
	var outcome Outcome
	data, err := os.ReadFile(report)
	if err == nil {
		err = json.Unmarshal(data, &outcome)
	}
	if err != nil {
		t.Fatal(err)
	}
	if outcome.Passed != 1 || outcome.Failed != 1 || outcome.Succeeded || outcome.Seed == 0 {
		t.Errorf("the report counts %+v", outcome)
	}
	for _, spec := range outcome.Specs {
		if spec.State == "failed" {
			checkArtifacts(t, spec.Artifacts)
		}
	}
}

// checkArtifacts looks into the folder of the failed spec.
func checkArtifacts(t *testing.T, dir string) {
	t.Helper()
	labs, _ := filepath.Glob(filepath.Join(dir, "*fail"))
	if len(labs) != 1 {
		t.Fatalf("%s has the labs %v, want one", dir, labs)
	}
	for name, text := range map[string]string{
		"../spec.json": "on purpose", "../output.txt": "labctl up", "topology.yaml": "be3", "state.json": "be1", "events.jsonl": `"phase":"up"`,
		"status.txt": "40.1.1.1:80", "connections.txt": "SOURCE IP", "logs/lb.txt": "eth0", "logs/be1.txt": "listening",
		"agent/counters.json": "rxPackets", "agent/services.json": "40.1.1.1:80", "maps/lb_lb_backends.json": `"Entries": [`,
		"network/client.txt": "40.1.1.1", "probe.txt": "got {",
	} {
		data, err := os.ReadFile(filepath.Join(labs[0], name))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(data), text) {
			t.Errorf("%s lacks %q:\n%.1000s", name, text, data)
		}
	}
	var traces []api.Trace
	if data, err := os.ReadFile(filepath.Join(labs[0], "traces.json")); err != nil || json.Unmarshal(data, &traces) != nil {
		t.Errorf("traces.json: %v", err)
	} else if len(traces) < 2 || traces[0].Flow == nil {
		t.Errorf("the suspected flow is not traced: %+v", traces)
	}
	f, err := os.Open(filepath.Join(labs[0], "probe.pcapng"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r, err := pcapng.Read(f, capture.Place{Machine: "lb"}, make(net.HardwareAddr, 6)); err != nil || len(r.Frames) == 0 {
		t.Errorf("probe.pcapng: %d frames, %v", len(r.Frames), err)
	}
}

func TestEachSpecIsOneProcesssToRun(t *testing.T) {
	claims := t.TempDir()
	first, second := part{Claims: claims}.claimer(), part{Claims: claims}.claimer()
	loose := types.SpecReport{ContainerHierarchyTexts: []string{"labctl", "a"}, LeafNodeText: "one"}
	ordered := types.SpecReport{ContainerHierarchyTexts: []string{"labctl", "b", "c"}, LeafNodeText: "two", IsInOrderedContainer: true}
	next := ordered
	next.LeafNodeText = "three"
	for _, c := range []struct {
		name string
		got  bool
		want bool
	}{
		{"who comes first runs it", first(loose), true},
		{"and is not told otherwise when asked again", first(loose), true},
		{"who comes second does not", second(loose), false},
		{"an ordered chapter is claimed by its first spec", second(ordered), true},
		{"with those that follow", first(next), false},
		{"which the same process runs", second(next), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

// listedSession is a run of three specs, of which the filter excludes the last.
func listedSession(t *testing.T) *session {
	t.Helper()
	s := &session{reporter: reporters.NoopReporter{}, out: io.Discard, place: map[string]int{}, why: map[string]string{}, config: Config{Artifacts: t.TempDir()}}
	for i, name := range []string{"one", "two", "three"} {
		spec := types.SpecReport{ContainerHierarchyTexts: []string{"labctl", "chapter"}, LeafNodeText: name, LeafNodeType: types.NodeTypeIt, State: types.SpecStatePassed}
		if i == 2 {
			spec.State = types.SpecStateSkipped
		}
		s.listed.SpecReports = append(s.listed.SpecReports, spec)
		s.place[keyOf(spec)] = i
	}
	s.got = make([]*types.SpecReport, 3)
	return s
}

func TestARunCountsWhatNobodyRanAsFailed(t *testing.T) {
	s := listedSession(t)
	s.take(1, s.listed.SpecReports[0])
	outcome, err := s.end(t.Context())
	if err != nil || outcome.Passed != 1 || outcome.Failed != 1 || outcome.Skipped != 1 || outcome.Succeeded {
		t.Errorf("counted %+v, %v; want one of each, and no success", outcome, err)
	}
}

func TestADeadProcessFailsTheSpecThatItRan(t *testing.T) {
	s := listedSession(t)
	s.take(1, s.listed.SpecReports[0])
	s.died(part{Process: 2}, &deathError{process: 2, running: keyOf(s.listed.SpecReports[1]), output: "panic: boo"})
	outcome, err := s.end(t.Context())
	if err != nil || outcome.Failed != 1 || !strings.Contains(outcome.Specs[1].Reason, "process 2") {
		t.Errorf("got %+v, %v", outcome, err)
	}
}

func TestWhatIsLeftOutIsCountedByItsReason(t *testing.T) {
	s := listedSession(t)
	skipped := func(i int, message string) types.SpecReport {
		spec := s.listed.SpecReports[i]
		spec.State, spec.Failure.Message = types.SpecStateSkipped, message
		return spec
	}
	s.take(1, skipped(0, "provider x lacks y"))
	s.take(1, skipped(1, skippedByContainer+"BeforeAll"))
	outcome, err := s.end(t.Context())
	if err != nil || len(outcome.LeftOut) != 2 || !outcome.Succeeded {
		t.Fatalf("got %+v, %v", outcome, err)
	}
	if l := outcome.LeftOut[1]; l.Reason != "provider x lacks y" || l.Specs != 2 {
		t.Errorf("got %+v, want two specs that lack y", l)
	}
}

func TestNeedsAreReadFromWhatAProviderCanDo(t *testing.T) {
	has := map[string][]need{}
	for _, d := range drivers.New(drivers.Options{}).Drivers {
		for n, o := range offers() {
			if o.has(d) {
				has[d.Name] = append(has[d.Name], n)
			}
		}
	}
	for provider, want := range map[string]int{netnsName: len(offers()) - 1, qemuName: 3, hypervSim: 1, hypervName: 0} {
		if len(has[provider]) != want {
			t.Errorf("%s has %v, want %d", provider, has[provider], want)
		}
	}
}

func TestConfigsAreRefusedWithTheReason(t *testing.T) {
	right := Config{Provider: netnsName, Procs: 1}
	for _, c := range []struct {
		name, text string
		edit       func(*Config)
	}{
		{"a right one", "", func(*Config) {}},
		{"an unknown provider", `unknown provider "vmware"`, func(c *Config) { c.Provider = "vmware" }},
		{"a Hyper-V host that nobody names", "where the host is", func(c *Config) { c.Provider = hypervName }},
		{"a file that is not there", "no such file", func(c *Config) { c.Topology = "/no/such.yaml" }},
		{"labels that are no filter", "label filter", func(c *Config) { c.Labels = "dsr &&" }},
		{"a focus that is no regular expression", `focus "two ("`, func(c *Config) { c.Focus = []string{"two ("} }},
		{"a random walk that ends before it begins", "a random walk of -1s", func(c *Config) { c.Chaos = -time.Second }},
		{"no process", "at least 1", func(c *Config) { c.Procs = -1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := right
			c.edit(&config)
			err := config.Check()
			if c.text == "" && err != nil || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

func TestARunThatChoosesNoSpecFails(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestLabctl$", "-focus", "no spec is called so", "-artifacts", t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no spec is chosen") {
		t.Errorf("%v:\n%s", err, out)
	}
}
