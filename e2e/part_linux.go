package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	. "github.com/onsi/gomega"
)

// partEnv, when set in the environment, makes this program run a part of the
// suite, which it describes as JSON.
const partEnv = "E2E_PART"

// part is what one process needs to know to run its part of the specs. Which ones
// these are turns out on the way: all processes go through all specs in the same
// order, and each spec (each chapter, where its specs are Ordered) is the first
// one's to come to it.
type part struct {
	Process int
	Config  Config
	Suite   types.SuiteConfig
	// Bin is the folder of the programs, Claims of the claims, State of the labs.
	Bin, Claims, State string
	// OwnArtifacts says that the run has made the folder for artifacts.
	OwnArtifacts bool
	// Tag makes lab names this process's own.
	Tag string
	// Parent is the run's pid.
	Parent int
}

// message is what a part tells the run, one JSON value each: that a spec begins,
// how one ended, and how all did.
type message struct {
	Begin string            `json:",omitempty"`
	Spec  *types.SpecReport `json:",omitempty"`
	End   *ending           `json:",omitempty"`
}

// ending is what is not about one spec.
type ending struct {
	Beside  []types.SpecReport
	Reasons []string
}

// messagesFD is where a part writes messages.
const messagesFD = 3

// deathError is about a process that ended before its specs did.
type deathError struct {
	process int
	running string // the key of the spec that it ran
	output  string
	err     error
}

func (e *deathError) Error() string {
	what := "ended"
	if e.err != nil {
		what += ": " + e.err.Error()
	}
	return fmt.Sprintf("process %d of the suite %s, and had not come to the end of its specs", e.process, what)
}

// runPart starts a part and hears what it says until it ends.
func (r *session) runPart(ctx context.Context, p part) error {
	// The part is told to stop when this thread ends, as Linux has it (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	description, err := json.Marshal(p)
	if err != nil {
		return err
	}
	in, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	cmd := exec.Command("/proc/self/exe", p.Config.Self...)
	cmd.Env = append(os.Environ(), partEnv+"="+string(description))
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.WaitDelay = 5 * time.Second // for what it started and did not end
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// In a group of its own: the terminal's Ctrl-C comes to it once, from here.
	// Ginkgo takes a second one for the wish to leave labs as they are.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start process %d of the suite: %w", p.Process, err)
	}
	interrupt := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer interrupt()
	running, ended := r.hear(p.Process, in)
	err = cmd.Wait()
	left := p.takeAway()
	if ended && !raced(output.String()) {
		return left
	}
	return &deathError{p.Process, running, tail(output.String(), 20000), errors.Join(err, left)}
}

// raced says whether Go's race detector had something to say.
func raced(output string) bool { return strings.Contains(output, "WARNING: DATA RACE") }

// hear takes a part's messages, and returns which spec it was at when they ended,
// and whether it had come to its end.
func (r *session) hear(process int, in io.Reader) (running string, ended bool) {
	for messages := json.NewDecoder(in); ; {
		var m message
		if messages.Decode(&m) != nil {
			return running, ended
		}
		switch {
		case m.Begin != "":
			running = m.Begin
		case m.Spec != nil:
			running = ""
			r.take(process, *m.Spec)
		case m.End != nil:
			r.takeEnd(process, *m.End)
			return "", true
		}
	}
}

// takeAway removes labs that a part left: it died, or down fails or forgets
// something, as the report says then. What down does not remove is removed all the same.
func (p part) takeAway() error {
	s := &suite{config: p.Config, bin: p.Bin, state: p.State, tag: p.Tag}
	var errDown error
	if labs := s.labs(); len(labs) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), p.Config.commandLimit())
		defer cancel()
		if out, err := s.command(ctx, "down", "--all").CombinedOutput(); err != nil {
			errDown = fmt.Errorf("take down %s, which process %d left: %w: %s", strings.Join(labs, ", "), p.Process, err, tail(string(out), 2000))
		}
	}
	return errors.Join(errDown, s.remove())
}

// clear is for the run where that has died: it removes what is left of the
// part, and the run's folder after the last part.
func (p part) clear() {
	if os.Getppid() == p.Parent {
		_ = os.Remove(p.State) // stays where a lab is left; the last part looks for others' folders
		return
	}
	_ = p.takeAway() // there is nobody left to tell
	dir := filepath.Dir(p.State)
	_ = os.RemoveAll(p.State)
	for n := 1; n <= p.Config.Procs; n++ {
		if _, err := os.Stat(stateOf(dir, n)); err == nil {
			return
		}
	}
	_ = os.RemoveAll(dir)
	if p.OwnArtifacts {
		_ = os.Remove(p.Config.Artifacts) // stays when something is in it
	}
}

// stateOf is the folder of a part's labs.
func stateOf(dir string, process int) string { return filepath.Join(dir, fmt.Sprintf("s%d", process)) }

// run is the part's process: it returns when its specs have ended.
func (p part) run() error {
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return fmt.Errorf("make the folder for labs: %w", err)
	}
	defer p.clear()
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Where the run has died, labs are still to be taken down: with a handler,
	// writing to it fails and ends nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// Daemons that labctl starts outlive this process and must not hold it open.
	syscall.CloseOnExec(messagesFD)
	out := os.NewFile(messagesFD, "messages")
	messages := json.NewEncoder(out)
	tell := func(m message) { _ = messages.Encode(m) } // without a run there is nobody to tell
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(10 * time.Second)
	SetDefaultEventuallyPollingInterval(5 * time.Millisecond)

	s := &suite{config: p.Config, bin: p.Bin, state: p.State, tag: p.Tag, interrupted: interrupted}
	mine := p.claimer()
	BeforeSuite(s.prepare)
	BeforeEach(func() {
		if !mine(CurrentSpecReport()) {
			Skip("another process runs it")
		}
	})
	ReportBeforeEach(func(spec SpecReport) { tell(message{Begin: keyOf(spec)}) })
	ReportAfterEach(func(spec SpecReport) {
		if mine(spec) {
			tell(message{Spec: &spec})
		}
	})
	s.tree()
	AfterSuite(s.leavesNothing)
	ReportAfterSuite("", func(report types.Report) {
		beside := report.SpecReports.WithLeafNodeType(types.NodeTypesForSuiteLevelNodes)
		tell(message{End: &ending{Beside: beside, Reasons: report.SpecialSuiteFailureReasons}})
	})
	reporter := types.NewDefaultReporterConfig()
	reporter.NoColor, reporter.Succinct = true, true
	var failed failure
	RunSpecs(&failed, p.Config.title(), p.Suite, reporter)
	if failed {
		return errors.New("specs failed")
	}
	return nil
}

// failure is Ginkgo's way to say that specs failed.
type failure bool

func (f *failure) Fail() { *f = true }

// claimer returns a function that says whether a spec is this process's to run:
// it is when nobody was there before.
func (p part) claimer() func(types.SpecReport) bool {
	known := map[string]bool{}
	return func(spec types.SpecReport) bool {
		unit := keyOf(spec)
		if spec.IsInOrderedContainer {
			unit = strings.Join(spec.ContainerHierarchyTexts[:min(2, len(spec.ContainerHierarchyTexts))], "\x00")
		}
		if mine, asked := known[unit]; asked {
			return mine
		}
		name := sha256.Sum256([]byte(unit))
		f, err := os.OpenFile(filepath.Join(p.Claims, hex.EncodeToString(name[:16])), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
		}
		known[unit] = err == nil || !errors.Is(err, fs.ErrExist) // rather twice than never
		return known[unit]
	}
}

func tail(text string, limit int) string { return text[max(0, len(text)-limit):] }
