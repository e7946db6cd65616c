package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"l4lab/e2e/mutants"
)

// verdict is what became of a mutant.
type verdict struct {
	mutant mutants.Mutant
	caught bool
	// why says what the spec did instead of failing as it should, todo what is to be done.
	why, todo string
	took      time.Duration
}

// not returns the verdict on a mutant that is not caught.
func (v verdict) not(todo, why string, args ...any) verdict {
	v.caught, v.todo, v.why = false, todo, fmt.Sprintf(why, args...)
	return v
}

func (v verdict) String() string {
	if v.caught {
		return fmt.Sprintf("caught      %-28s %3.0f s  %s", v.mutant.Name, v.took.Seconds(), v.mutant.Spec)
	}
	return fmt.Sprintf("NOT CAUGHT  %-28s %3.0f s  %s\n            %s: %s\n            %s", v.mutant.Name, v.took.Seconds(), v.mutant.Spec,
		v.mutant.File, v.mutant.Breaks, strings.ReplaceAll(v.why, "\n", "\n            "))
}

// What is to be done about mutants that are not caught.
const (
	correct    = "bring the mutant up to the source"
	look       = "run it alone, with -keep, and see what the suite prints"
	hole       = "write a spec that fails on this fault, or name the one that does"
	milder     = "have the mutant break less, so that the lab comes up, or name the spec that finds it"
	otherwords = "name the text that the failure shows, if it is about this fault; else another spec"
)

// judge says whether the mutant's spec failed by itself, with what it is to show.
func (r result) judge(v verdict) verdict {
	s, found := r.find(v.mutant.Spec)
	switch {
	case !found:
		return v.not(hole, "the suite has no such spec")
	case s.State == types.SpecStatePassed:
		return v.not(hole, "the spec passes")
	case s.State != types.SpecStateFailed:
		return v.not(look, "the spec is %s: %s", s.State, s.Failure.Message)
	case s.Failure.FailureNodeType != types.NodeTypeIt:
		return v.not(milder, "it is not the spec that failed but a %s: %s", s.Failure.FailureNodeType, tail([]byte(s.Failure.Message)))
	}
	if !shows(v.mutant, s) {
		return v.not(otherwords, "the spec fails, and does not show %s:\n%s", v.mutant.Expected(), tail([]byte(s.Failure.Message)))
	}
	v.caught = true
	return v
}

// shows looks for a mutant's check in the tables that the spec wrote, and for its text in
// the failure.
func shows(m mutants.Mutant, s types.SpecReport) bool {
	if m.Says != "" {
		return strings.Contains(s.Failure.Message, m.Says)
	}
	row := regexp.MustCompile(fmt.Sprintf(`(?m)^fail +%s +\d+ +%s( |$)`, m.Mode, regexp.QuoteMeta(m.Check)))
	return row.MatchString(s.CapturedGinkgoWriterOutput)
}

// report prints the table, what is not caught last; an error when there is any of that.
func report(out io.Writer, verdicts []verdict) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "\nMUTANT\tCAUGHT BY\tSECONDS")
	var survivors []verdict
	for _, v := range verdicts {
		if !v.caught {
			survivors = append(survivors, v)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%.0f\n", v.mutant.Name, v.mutant.Spec, v.took.Seconds())
	}
	if len(survivors) > 0 {
		fmt.Fprintln(table, "\nNOT CAUGHT\tWHAT TO DO\tSECONDS")
	}
	for _, v := range survivors {
		why, _, _ := strings.Cut(v.why, "\n")
		fmt.Fprintf(table, "%s\t%s; %s (e2e/mutants/%s.yaml)\t%.0f\n", v.mutant.Name, why, v.todo, v.mutant.Name, v.took.Seconds())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d mutants, %d caught, %d not\n", len(verdicts), len(verdicts)-len(survivors), len(survivors))
	if len(survivors) > 0 {
		return fmt.Errorf("%d not caught", len(survivors))
	}
	return nil
}

// stopped prints the table of a run that was interrupted, and how to go on.
func stopped(out io.Writer, verdicts []verdict, left []mutants.Mutant) error {
	if len(verdicts) > 0 {
		_ = report(out, verdicts) // that the run did not end is the error
	}
	var names []string
	for _, m := range left {
		names = append(names, m.Name)
	}
	return fmt.Errorf("interrupted; the rest: make mutants MUTANTS=%s", strings.Join(names, ","))
}
