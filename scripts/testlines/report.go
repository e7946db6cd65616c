package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// report is what is known of a run so far.
type report struct {
	out  io.Writer
	root bool

	passed, failed, skipped int
	left                    []*leftOut
	tests                   map[key]*running
	// blamed are the packages in which a test is known to have failed. One that
	// fails without (it does not build, its TestMain fails) counts as one failure.
	blamed map[string]bool
}

type key struct{ pkg, test string }

// running is a test that has not ended.
type running struct {
	output []string
	// parts says that it is counted by its subtests or specs, partFailed that
	// one of these failed.
	parts, partFailed bool
}

// leftOut are tests of one package that skipped for one reason.
type leftOut struct {
	pkg, reason string
	// tests are their names without those of subtests, each once.
	tests []string
	count int
}

func newReport(out io.Writer, root bool) *report {
	return &report{out: out, root: root, tests: map[key]*running{}, blamed: map[string]bool{}}
}

var (
	color = regexp.MustCompile("\x1b\\[[0-9;]*m")
	// Ginkgo's summary of a suite.
	specs = regexp.MustCompile(`-- (\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped`)
	// What go test says of a test beside its output.
	frame = regexp.MustCompile(`^\s*(=== |--- )`)
	where = regexp.MustCompile(`^[\w.-]+\.go:\d+: `)
)

func (r *report) take(e event) {
	k := key{e.Package, e.Test}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Test == "":
		r.takePackage(e)
	case e.Action == "run":
		r.begin(k)
	case e.Action == "output":
		r.write(k, e.Output)
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		r.end(k, e.Action)
	}
}

func (r *report) takePackage(e event) {
	switch e.Action {
	case "output":
		// A bare PASS says nothing that the package's ok line does not.
		if e.Output != "PASS\n" {
			fmt.Fprint(r.out, e.Output)
		}
	case "fail":
		for k, t := range r.tests { // what a crash or a timeout cut off
			if k.pkg == e.Package && !t.parts {
				fmt.Fprintf(r.out, "--- CUT OFF: %s\n%s", k.test, strings.Join(t.output, ""))
				r.fail(k.pkg, 1)
			}
		}
		if !r.blamed[e.Package] {
			r.fail(e.Package, 1)
		}
	}
}

func (r *report) fail(pkg string, tests int) {
	r.failed += tests
	r.blamed[pkg] = r.blamed[pkg] || tests > 0
}

func (r *report) begin(k key) {
	r.tests[k] = &running{}
	if parent := r.parent(k); parent != nil {
		parent.parts = true
	}
}

func (r *report) parent(k key) *running {
	i := strings.LastIndexByte(k.test, '/')
	return r.tests[key{k.pkg, k.test[:max(i, 0)]}]
}

func (r *report) write(k key, output string) {
	t := r.tests[k]
	if t == nil {
		return
	}
	t.output = append(t.output, output)
	m := specs.FindStringSubmatch(color.ReplaceAllString(output, ""))
	if m == nil {
		return
	}
	t.parts, t.partFailed = true, number(m[2]) > 0
	r.passed += number(m[1])
	r.fail(k.pkg, number(m[2]))
	r.skipped += number(m[3]) + number(m[4])
	if number(m[3])+number(m[4]) > 0 {
		r.leave(k, m[3]+" pending and "+m[4]+" skipped specs")
	}
	fmt.Fprintf(r.out, "%s %s: %s", k.pkg, k.test, output)
}

func (r *report) end(k key, action string) {
	t := r.tests[k]
	if t == nil {
		return
	}
	delete(r.tests, k)
	if action == "fail" {
		fmt.Fprint(r.out, strings.Join(t.output, ""))
		if parent := r.parent(k); parent != nil {
			parent.partFailed = true
		}
	}
	switch {
	case action == "fail" && !t.partFailed:
		r.fail(k.pkg, 1) // with parts: it failed beside them
	case t.parts:
	case action == "pass":
		r.passed++
	case action == "skip":
		r.skipped++
		r.leave(k, reason(t.output))
	}
}

func (r *report) leave(k key, reason string) {
	i := slices.IndexFunc(r.left, func(l *leftOut) bool { return l.pkg == k.pkg && l.reason == reason })
	if i < 0 {
		i = len(r.left)
		r.left = append(r.left, &leftOut{pkg: k.pkg, reason: reason})
	}
	l := r.left[i]
	l.count++
	if test, _, _ := strings.Cut(k.test, "/"); !slices.Contains(l.tests, test) {
		l.tests = append(l.tests, test)
	}
}

// reason is what a skipped test said.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		if frame.MatchString(line) {
			continue
		}
		if line = where.ReplaceAllString(strings.TrimSpace(line), ""); line != "" {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

// close prints the end and says whether all is well.
func (r *report) close(notes []string) bool {
	ok := r.failed == 0
	if len(r.left)+len(notes) > 0 {
		fmt.Fprintln(r.out, "\nleft out:")
		for _, l := range r.left {
			fmt.Fprintf(r.out, "  %s: %s (%d: %s)\n", l.pkg, l.reason, l.count, strings.Join(l.tests, ", "))
		}
		for _, note := range notes {
			fmt.Fprintf(r.out, "  %s\n", note)
		}
		fmt.Fprintln(r.out)
	}
	for _, l := range r.left {
		if r.root && strings.Contains(l.reason, "needs root") {
			fmt.Fprintf(r.out, "%s skipped %s though this is root: that is a failure\n", l.pkg, strings.Join(l.tests, ", "))
			ok = false
		}
	}
	if r.passed+r.failed+r.skipped == 0 {
		fmt.Fprintln(r.out, "no test ran: that is a failure")
		ok = false
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return ok
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // a regular expression matched its digits
	return n
}
