package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/types"

	"l4lab/lab"
	"l4lab/lab/state"
	"l4lab/topology"
)

// commandLimit is longer than any command takes; one that hangs ends with it.
// Machines that boot take longer than namespaces.
func (c Config) commandLimit() time.Duration {
	switch c.Provider {
	case hypervName:
		return 30 * time.Minute
	case qemuName: // emulated, beside others; once the image is there
		return 10 * time.Minute
	case hypervSim:
		return 5 * time.Minute
	}
	return 90 * time.Second
}

// result is how a command ended.
type result struct {
	Args           []string
	Code           int
	Stdout, Stderr string
}

func (r result) String() string {
	return fmt.Sprintf("labctl %s\nexit code %d\nstdout:\n%s\nstderr:\n%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Succeeds matches a result with exit code 0.
func Succeeds() types.GomegaMatcher { return ExitsWith(0) }

// ExitsWith matches a result by its exit code and by texts that its standard
// error must hold.
func ExitsWith(code int, texts ...string) types.GomegaMatcher {
	matchers := []types.GomegaMatcher{WithTransform(func(r result) int { return r.Code }, Equal(code))}
	for _, text := range texts {
		matchers = append(matchers, WithTransform(func(r result) string { return r.Stderr }, ContainSubstring(text)))
	}
	return And(matchers...)
}

// command prepares labctl with this suite's state folder. A lab that it brings up
// is the suite's provider's, where the arguments name no other.
func (s *suite) command(ctx context.Context, args ...string) *exec.Cmd {
	if makes := args[0] == "up" || args[0] == "demo"; makes && s.config.Provider != "" && s.config.Provider != netnsName && !slices.Contains(args, "--provider") {
		args = append(slices.Clone(args), "--provider", s.config.Provider)
	}
	if s.interrupted == nil || s.isInterrupted() {
		cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "labctl"), args...)
		cmd.Env = append(os.Environ(), "LABCTL_STATE_DIR="+s.state)
		return cmd
	}
	// What runs when all is to end holds its lab's lock, and taking the lab down
	// would wait for it: it is interrupted. What begins then is not.
	ctx, end := context.WithCancel(ctx)
	context.AfterFunc(s.interrupted, end)
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "labctl"), args...)
	cmd.WaitDelay = undoPatience
	cmd.Cancel = func() error {
		if s.isInterrupted() {
			return cmd.Process.Signal(os.Interrupt)
		}
		return cmd.Process.Kill()
	}
	cmd.Env = append(os.Environ(), "LABCTL_STATE_DIR="+s.state)
	return cmd
}

// undoPatience is how long an interrupted command may take to undo what it did.
const undoPatience = 10 * time.Second

// isInterrupted says whether the process is to end.
func (s *suite) isInterrupted() bool { return s.interrupted != nil && s.interrupted.Err() != nil }

// labctl runs a command to its end.
func (s *suite) labctl(args ...string) result {
	GinkgoHelper()
	return s.labctlWith("", nil, args...)
}

// proof runs a command that proves paths with captured packets. A machine that
// is too busy loses frames of a capture; labctl says so and proves nothing,
// which is no word against the paths: then it is asked again, twice at most.
func (s *suite) proof(args ...string) result {
	GinkgoHelper()
	r := s.labctl(args...)
	for again := 0; again < 2 && r.Code != 0 && strings.Contains(r.String(), " frames dropped, "); again++ {
		GinkgoWriter.Println("the captures lost frames; once more")
		r = s.labctl(args...)
	}
	return r
}

// labctlWith runs a command with standard input and process attributes.
func (s *suite) labctlWith(stdin string, attributes *syscall.SysProcAttr, args ...string) result {
	GinkgoHelper()
	return s.labctlFor(s.config.commandLimit(), stdin, attributes, args...)
}

// labctlFor does so within a limit.
func (s *suite) labctlFor(limit time.Duration, stdin string, attributes *syscall.SysProcAttr, args ...string) result {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := s.command(ctx, args...)
	cmd.Stdin, cmd.SysProcAttr = strings.NewReader(stdin), attributes
	r := run(cmd)
	r.Args = args
	fmt.Fprintln(GinkgoWriter, r)
	return r
}

func run(cmd *exec.Cmd) result {
	GinkgoHelper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		Fail(fmt.Sprintf("run %s: %v", cmd, err))
	}
	return result{Args: cmd.Args, Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// open returns the library's handle on a lab, as the commands have it.
func (s *suite) open(name string) *lab.Lab {
	return lab.Open(name, lab.Options{
		Store: state.NewStore(s.state), Drivers: s.drivers().Drivers, Programs: s.programs(),
	})
}

// up brings a topology up from a file and has it removed at the end.
func (s *suite) up(t topology.Topology, args ...string) {
	GinkgoHelper()
	s.takenDown(t.Name)
	r := s.labctl(append([]string{"up", s.file(t), "-o", "json"}, args...)...)
	if err := os.WriteFile(s.eventsOf(t.Name), []byte(r.Stdout), 0o600); err != nil {
		Fail(fmt.Sprintf("keep the events of lab %s: %v", t.Name, err))
	}
	Expect(r).To(Succeeds())
}

// eventsOf is where the events of a lab's first up are kept, beside the labs.
func (s *suite) eventsOf(lab string) string { return s.state + "-" + lab + ".jsonl" }

// file writes a topology, with what the provider must be told, and returns its path.
func (s *suite) file(t topology.Topology) string {
	GinkgoHelper()
	if s.config.Topology != "" {
		settings, err := topology.Load(s.config.Topology)
		Expect(err).NotTo(HaveOccurred())
		t.Providers = settings.Providers
	}
	return writeTopology(GinkgoT(), t)
}

// down removes a lab in the middle of a spec.
func (s *suite) down(lab string) {
	GinkgoHelper()
	Expect(s.labctl("down", "--name", lab)).To(Succeeds())
	Expect(s.leftovers(lab)).To(BeEmpty())
}

// status returns a lab's status as JSON says it, healthy or not.
func (s *suite) status(name string) lab.Status {
	GinkgoHelper()
	r := s.labctl("status", "--name", name, "-o", "json")
	var st lab.Status
	Expect(json.Unmarshal([]byte(r.Stdout), &st)).To(Succeed(), r.String())
	want := 0
	if !st.Healthy {
		want = 1
	}
	Expect(r.Code).To(Equal(want), "status exits 0 when healthy, else 1: %s", r)
	return st
}

// expectHealthy fails with the unhealthy nodes' own words.
func (s *suite) expectHealthy(name string) {
	GinkgoHelper()
	r := s.labctl("status", "--name", name)
	Expect(r).To(Succeeds(), r.String())
}

// node returns one machine of a status.
func node(st lab.Status, name string) lab.NodeStatus {
	GinkgoHelper()
	for _, n := range st.Nodes {
		if n.Name == name {
			return n
		}
	}
	Fail("no node " + name + " in the status")
	return lab.NodeStatus{}
}

// exec runs a command in a node and expects it to succeed.
func (s *suite) exec(lab, node string, argv ...string) string {
	GinkgoHelper()
	r := s.labctl(append([]string{"exec", "--name", lab, node, "--"}, argv...)...)
	Expect(r).To(Succeeds(), r.String())
	return r.Stdout
}

// running is a labctl that reports its events and has not ended.
type running struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	// events are closed when labctl has ended.
	events chan lab.Event
}

// start starts a command whose standard output is events, one a line.
func (s *suite) start(args ...string) *running {
	GinkgoHelper()
	cmd := s.command(context.Background(), args...)
	stdout, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	// More than any up has: reading never waits for the spec.
	r := &running{cmd: cmd, stderr: &bytes.Buffer{}, events: make(chan lab.Event, 4096)}
	cmd.Stderr = r.stderr
	Expect(cmd.Start()).To(Succeed())
	go r.read(stdout)
	return r
}

func (r *running) read(stdout io.Reader) {
	defer close(r.events)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var e lab.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			r.events <- e
		}
	}
}

// saw waits for a step's event; false when labctl ended before.
func (r *running) saw(step, phase string) bool {
	for e := range r.events {
		if e.Step == step && e.Phase == phase {
			return true
		}
	}
	return false
}

// after waits for the n-th event; false when labctl ended before.
func (r *running) after(n int) bool {
	for range n {
		if _, ok := <-r.events; !ok {
			return false
		}
	}
	return true
}

func (r *running) signal(sig syscall.Signal) {
	GinkgoHelper()
	// It may have ended by itself meanwhile: what it left is what is judged.
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		Fail(fmt.Sprintf("send %s to labctl: %v", sig, err))
	}
}

// wait returns the exit code, -1 after a signal.
func (r *running) wait() int {
	GinkgoHelper()
	for range r.events { // up to the end of its output
	}
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		Fail(fmt.Sprintf("wait for labctl: %v", err))
	}
	fmt.Fprintf(GinkgoWriter, "%s\nexit code %d\nstderr:\n%s\n", r.cmd, r.cmd.ProcessState.ExitCode(), r.stderr)
	return r.cmd.ProcessState.ExitCode()
}

// ip prepares iproute2's command.
func (s *suite) ip(args ...string) *exec.Cmd { return exec.Command("ip", args...) }

func pid(r *running) string { return fmt.Sprint(r.cmd.Process.Pid) }
