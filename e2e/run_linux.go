package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/reporters"
	"github.com/onsi/ginkgo/v2/types"
)

// Run runs the suite, prints on out what comes of it, and writes the reports
// that the configuration names. It returns an error when the specs could not be
// run at all; whether they passed stands in the report. When ctx ends, the specs
// that run are interrupted, and their labs taken down.
//
// The specs are run by other processes of the running program, which claim one
// after another (part_linux.go); this one lists the specs beforehand, hears how
// each ended, and counts as failed what nobody ran to its end. So a process that
// dies costs its own specs only, and a program that was built beforehand needs
// neither Go nor Ginkgo's command. The caller must have called Become.
func Run(ctx context.Context, c Config, out io.Writer) (Outcome, error) {
	if err := c.Check(); err != nil {
		return Outcome{}, err
	}
	c.Procs = c.processes()
	dir, err := os.MkdirTemp("/tmp", "l4lab-") // short enough for unix sockets and marks below it
	if err != nil {
		return Outcome{}, fmt.Errorf("make a folder for the suite: %w", err)
	}
	defer os.RemoveAll(dir)
	var own bool
	if c.Artifacts, own, err = artifactsFolder(c.Artifacts); err != nil {
		return Outcome{}, err
	}
	if own {
		defer func() { _ = os.Remove(c.Artifacts) }() // stays when something is in it
	}
	r := newRun(c, dir, out)
	r.ownArtifacts = own
	if r.suite.DryRun {
		return r.end(ctx)
	}
	if !slices.ContainsFunc(r.listed.SpecReports, func(s types.SpecReport) bool { return s.State != types.SpecStateSkipped }) {
		return Outcome{}, fmt.Errorf("no spec is chosen by the labels %q and the focus %q: a run of none proves nothing", r.suite.LabelFilter, r.suite.FocusStrings)
	}
	if err := install(c.Programs, r.bin()); err != nil {
		return Outcome{}, err
	}
	if err := os.Mkdir(r.claims(), 0o700); err != nil {
		return Outcome{}, fmt.Errorf("make a folder for the suite: %w", err)
	}
	r.runParts(ctx)
	return r.end(ctx)
}

// artifactsFolder returns a folder that is there, as an absolute path, and whether it
// was not before: such a one is removed when nothing has come into it.
func artifactsFolder(dir string) (path string, own bool, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "l4lab-artifacts-")
		own = true
	} else if path, err = filepath.Abs(dir); err == nil {
		_, statErr := os.Stat(path)
		own = errors.Is(statErr, fs.ErrNotExist)
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return "", false, fmt.Errorf("make the folder for artifacts: %w", err)
	}
	return path, own, nil
}

// title is the suite's name in reports.
func (c Config) title() string { return "l4lab on " + c.Provider }

// session is one run of the suite.
type session struct {
	config Config
	dir    string
	out    io.Writer
	suite  types.SuiteConfig
	// ownArtifacts says that the run has made the folder for artifacts.
	ownArtifacts bool
	// ginkgoJSON is a file for Ginkgo's own report, "" for none.
	ginkgoJSON string

	mu       sync.Mutex
	reporter reporters.Reporter
	// listed are all specs, as far as they are known before any ran, got their
	// reports, at the same places.
	listed types.Report
	place  map[string]int
	got    []*types.SpecReport
	// beside are reports of what belongs to no spec: failed set-up, ends of processes.
	beside  []types.SpecReport
	reasons []string
	// why remembers, for a container, why its first spec was skipped.
	why map[string]string
	// stop ends all processes.
	stop context.CancelFunc
}

func newRun(c Config, dir string, out io.Writer) *session {
	ginkgo, reporter := c.ginkgo()
	reporter.NoColor = reporter.NoColor || !isTerminal(out)
	r := &session{config: c, dir: dir, out: out, suite: ginkgo, ginkgoJSON: reporter.JSONReport, place: map[string]int{}, why: map[string]string{}}
	(&suite{config: c}).tree()
	r.listed = PreviewSpecs(c.title(), ginkgo, reporter)
	r.listed.SuiteConfig.DryRun, r.listed.SuiteConfig.ParallelTotal = ginkgo.DryRun, c.Procs
	r.got = make([]*types.SpecReport, len(r.listed.SpecReports))
	for i, spec := range r.listed.SpecReports {
		r.place[keyOf(spec)] = i
	}
	r.reporter = reporters.NewDefaultReporter(reporter, out)
	r.reporter.SuiteWillBegin(r.listed)
	return r
}

func (r *session) bin() string    { return filepath.Join(r.dir, "bin") }
func (r *session) claims() string { return filepath.Join(r.dir, "claims") }

// keyOf tells specs apart. Entries of a table share their place in the source.
func keyOf(spec types.SpecReport) string {
	return fmt.Sprintf("%s\x00%s\x00%s", strings.Join(spec.ContainerHierarchyTexts, "\x00"), spec.LeafNodeText, spec.LeafNodeLocation)
}

// runParts runs the processes to their ends.
func (r *session) runParts(ctx context.Context) {
	ctx, r.stop = context.WithCancel(ctx)
	defer r.stop()
	var wait sync.WaitGroup
	for n := 1; n <= r.config.Procs; n++ {
		p := part{
			Process: n, Config: r.config, Suite: r.suite, Bin: r.bin(), Claims: r.claims(),
			State: stateOf(r.dir, n), OwnArtifacts: r.ownArtifacts, Tag: strings.ToLower(rand.Text()[:4]), Parent: os.Getpid(),
		}
		wait.Go(func() {
			if err := r.runPart(ctx, p); err != nil {
				r.died(p, err)
			}
		})
	}
	wait.Wait()
}

// take hears of one spec.
func (r *session) take(process int, spec types.SpecReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, known := r.place[keyOf(spec)]
	if !known || r.got[i] != nil || r.listed.SpecReports[i].State == types.SpecStateSkipped {
		return
	}
	spec.RunningInParallel, spec.ParallelProcess = true, process
	r.explain(&spec)
	r.got[i] = &spec
	r.reporter.DidRun(spec)
	if r.suite.FailFast && spec.Failed() {
		r.stop()
	}
}

// skippedByContainer begins what Ginkgo says of the specs that follow one that
// was skipped in a BeforeAll.
const skippedByContainer = "Spec skipped because Skip() was called in "

// explain replaces Ginkgo's words by the reason itself.
func (r *session) explain(spec *types.SpecReport) {
	if spec.State != types.SpecStateSkipped {
		return
	}
	container := strings.Join(spec.ContainerHierarchyTexts, "\x00")
	if !strings.HasPrefix(spec.Failure.Message, skippedByContainer) {
		for c := container; c != ""; c = c[:max(0, strings.LastIndexByte(c, 0))] {
			if r.why[c] == "" {
				r.why[c] = spec.Failure.Message
			}
		}
		return
	}
	for c := container; c != ""; c = c[:max(0, strings.LastIndexByte(c, 0))] {
		if reason := r.why[c]; reason != "" {
			spec.Failure.Message = reason
			return
		}
	}
}

// takeEnd hears of what a process did beside its specs.
func (r *session) takeEnd(process int, e ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, spec := range e.Beside {
		if spec.Failed() {
			spec.RunningInParallel, spec.ParallelProcess = true, process
			r.beside = append(r.beside, spec)
			r.reporter.DidRun(spec)
		}
	}
	r.reasons = append(r.reasons, e.Reasons...)
}

// died notes a process that ended without having said so.
func (r *session) died(p part, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	spec := types.SpecReport{
		LeafNodeType: types.NodeTypeIt, LeafNodeText: fmt.Sprintf("process %d of the suite runs to its end", p.Process),
		State: types.SpecStateFailed, StartTime: now, EndTime: now, RunningInParallel: true, ParallelProcess: p.Process,
		Failure: types.Failure{Message: err.Error()},
	}
	var d *deathError
	if errors.As(err, &d) {
		spec.CapturedStdOutErr = d.output
		if i, known := r.place[d.running]; known && r.got[i] == nil {
			died := r.listed.SpecReports[i]
			died.State, died.Failure, died.CapturedStdOutErr = types.SpecStateFailed, spec.Failure, d.output
			died.RunningInParallel, died.ParallelProcess = true, p.Process
			died.Failure.Location = died.LeafNodeLocation
			r.got[i] = &died
			r.reporter.DidRun(died)
			return
		}
	}
	r.beside = append(r.beside, spec)
	r.reporter.DidRun(spec)
}

// end completes the report, prints its end and writes the files.
func (r *session) end(ctx context.Context) (Outcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	full := r.listed
	full.SpecReports = nil
	for i, listed := range r.listed.SpecReports {
		spec := r.got[i]
		switch {
		case spec != nil && spec.State == types.SpecStateSkipped && spec.Failure.Message == "":
			spec.Failure.Message = interrupted
		case spec != nil:
		case r.suite.DryRun:
			spec = &listed
		case listed.State == types.SpecStateSkipped:
			spec = &listed
			spec.Failure.Message = notChosen
		case ctx.Err() != nil:
			spec = &listed
			spec.State, spec.Failure = types.SpecStateSkipped, types.Failure{Message: interrupted}
		default:
			spec = &listed
			spec.State, spec.Failure = types.SpecStateFailed, types.Failure{Message: "no process ran it to its end", Location: listed.LeafNodeLocation}
			r.reporter.DidRun(*spec)
		}
		full.SpecReports = append(full.SpecReports, *spec)
	}
	full.SpecReports = append(full.SpecReports, r.beside...)
	if ctx.Err() != nil && len(r.reasons) == 0 {
		r.reasons = append(r.reasons, "Interrupted by User")
	}
	full.SpecialSuiteFailureReasons = compact(r.reasons)
	full.EndTime = time.Now()
	full.RunTime = full.EndTime.Sub(full.StartTime)
	full.SuiteSucceeded = full.SpecReports.CountWithState(types.SpecStateFailureStates) == 0 && len(full.SpecialSuiteFailureReasons) == 0
	r.reporter.SuiteDidEnd(full)
	report := r.reportOf(full)
	report.writeLeftOut(r.out)
	if report.Failed > 0 {
		fmt.Fprintf(r.out, "\nwhat is known of each failed spec: %s\n", r.config.Artifacts)
	}
	return report, r.write(report, full)
}
