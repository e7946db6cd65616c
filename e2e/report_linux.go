package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/reporters"
	"github.com/onsi/ginkgo/v2/types"
	"golang.org/x/term"
)

// Outcome is what came of a run.
type Outcome struct {
	Provider string `json:"provider"`
	// Seed repeats the run's random moments and walks.
	Seed      int64     `json:"seed"`
	Processes int       `json:"processes"`
	Labels    string    `json:"labels,omitempty"`
	Focus     []string  `json:"focus,omitempty"`
	Begin     time.Time `json:"begin"`
	Seconds   float64   `json:"seconds"`
	Succeeded bool      `json:"succeeded"`
	Passed    int       `json:"passed"`
	Failed    int       `json:"failed"`
	Skipped   int       `json:"skipped"`
	// LeftOut counts the skipped specs by reason.
	LeftOut []LeftOut `json:"leftOut"`
	Specs   []Spec    `json:"specs"`
}

// LeftOut are the specs that were skipped for one reason.
type LeftOut struct {
	Reason string `json:"reason"`
	Specs  int    `json:"specs"`
	// Chapters are those that they stand in.
	Chapters []string `json:"chapters"`
}

// Spec is how one spec ended.
type Spec struct {
	// Name is the whole sentence, Chapter its first part.
	Name    string   `json:"name"`
	Chapter string   `json:"chapter,omitempty"`
	Labels  []string `json:"labels"`
	// State is passed, failed, skipped, pending, or another of Ginkgo's words.
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	Process int     `json:"process,omitempty"`
	// Reason is why it was skipped or how it failed.
	Reason   string `json:"reason,omitempty"`
	Location string `json:"location,omitempty"`
	// Artifacts is the folder with what is known of a failed one.
	Artifacts string `json:"artifacts,omitempty"`
	// Figures are what it measured or did, in the order in which it said so.
	Figures []SpecFigure `json:"figures,omitempty"`
}

// SpecFigure is something that a spec measured, whether it passed or not.
type SpecFigure struct {
	// Name says of what: "while the modes were switched four times".
	Name string `json:"name"`
	// Value is a text, or an object of numbers, as the spec has it.
	Value any `json:"value"`
}

// Reasons of specs that did not begin: a filter excludes them, or the run was over.
const (
	notChosen   = "not chosen by labels or focus"
	interrupted = "the run was interrupted"
)

// reportOf makes the suite's own report of Ginkgo's.
func (r *session) reportOf(full types.Report) Outcome {
	report := Outcome{
		Provider: r.config.Provider, Seed: full.SuiteConfig.RandomSeed, Processes: r.config.Procs,
		Labels: r.suite.LabelFilter, Focus: r.suite.FocusStrings,
		Begin: full.StartTime, Seconds: full.RunTime.Seconds(), Succeeded: full.SuiteSucceeded,
	}
	left := map[string]*LeftOut{}
	for _, spec := range full.SpecReports {
		s := specOf(spec)
		switch {
		case spec.Failed():
			report.Failed++
			s.Artifacts = existing(filepath.Join(r.config.Artifacts, folderOf(spec)))
		case spec.State == types.SpecStatePassed:
			report.Passed++
		default:
			report.Skipped++
			l := left[s.Reason]
			if l == nil {
				l = &LeftOut{Reason: s.Reason}
				left[s.Reason] = l
			}
			l.Specs++
			if s.Chapter != "" && !slices.Contains(l.Chapters, s.Chapter) {
				l.Chapters = append(l.Chapters, s.Chapter)
			}
		}
		report.Specs = append(report.Specs, s)
	}
	for _, reason := range slices.Sorted(maps.Keys(left)) {
		report.LeftOut = append(report.LeftOut, *left[reason])
	}
	return report
}

func specOf(spec types.SpecReport) Spec {
	s := Spec{
		Name: spec.FullText(), Labels: spec.Labels(), State: spec.State.String(), Seconds: spec.RunTime.Seconds(),
		Process: spec.ParallelProcess, Reason: spec.Failure.Message,
	}
	if len(spec.ContainerHierarchyTexts) > 1 {
		s.Chapter = spec.ContainerHierarchyTexts[1]
	}
	if at := spec.LeafNodeLocation; at.FileName != "" {
		s.Location = fmt.Sprintf("%s:%d", filepath.Base(at.FileName), at.LineNumber)
	}
	if spec.State == types.SpecStatePending {
		s.Reason = "pending"
	}
	// The entries of other visibilities are the evidence of a failure, and in its folder.
	for _, e := range spec.ReportEntries.WithVisibility(types.ReportEntryVisibilityFailureOrVerbose) {
		s.Figures = append(s.Figures, SpecFigure{Name: e.Name, Value: e.GetRawValue()})
	}
	return s
}

// writeLeftOut prints what was skipped and why; nothing when nothing was.
func (r Outcome) writeLeftOut(out io.Writer) {
	if len(r.LeftOut) == 0 {
		return
	}
	fmt.Fprintln(out, "\nleft out:")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, l := range r.LeftOut {
		fmt.Fprintf(w, "  %d\t%s\t%s\n", l.Specs, l.Reason, strings.Join(l.Chapters, ", "))
	}
	_ = w.Flush() // as the reporter's own output
}

// write writes the reports that are asked for.
func (r *session) write(report Outcome, full types.Report) error {
	if path := r.config.JUnit; path != "" {
		// What passed has nothing to say.
		o := reporters.JunitReportConfig{OmitTimelinesForSpecState: types.SpecStatePassed | types.SpecStateSkipped | types.SpecStatePending}
		if err := reporters.GenerateJUnitReportWithConfig(full, path, o); err != nil {
			return fmt.Errorf("write the JUnit report: %w", err)
		}
	}
	if path := r.ginkgoJSON; path != "" {
		if err := reporters.GenerateJSONReport(full, path); err != nil {
			return fmt.Errorf("write Ginkgo's report: %w", err)
		}
	}
	if path := r.config.JSON; path != "" {
		data, err := json.MarshalIndent(report, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(data, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write the JSON report: %w", err)
		}
	}
	return nil
}

// compact returns each of some texts once.
func compact(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
