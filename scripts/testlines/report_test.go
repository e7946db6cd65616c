package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// said makes the stream of one test: "run", what it wrote, how it ended.
func said(test, action string, output ...string) []event {
	events := []event{{Action: "run", Package: "p", Test: test}}
	for _, o := range output {
		events = append(events, event{Action: "output", Package: "p", Test: test, Output: o + "\n"})
	}
	return append(events, event{Action: action, Package: "p", Test: test})
}

func TestReport(t *testing.T) {
	passed := said("TestGood", "pass", "=== RUN   TestGood", "chatter", "--- PASS: TestGood (0.00s)")
	packageFails := []event{{Action: "output", Package: "p", Output: "FAIL\tp\t0.1s\n"}, {Action: "fail", Package: "p"}}
	cases := []struct {
		name   string
		events [][]event
		root   bool
		notes  []string
		ok     bool
		// want are lines of the output in this order, wantNot are parts of none.
		want    []string
		wantNot string
	}{
		{
			name:   "a passing test is counted and not shown",
			events: [][]event{passed, {{Action: "output", Package: "p", Output: "PASS\n"}, {Action: "output", Package: "p", Output: "ok  \tp\t0.1s\n"}}},
			ok:     true, want: []string{"ok  \tp\t0.1s", "1 passed, 0 failed, 0 skipped"}, wantNot: "chatter",
		},
		{
			name:   "a failing test shows all it wrote",
			events: [][]event{passed, said("TestBad", "fail", "    x_test.go:3: got 1, want 2", "--- FAIL: TestBad (0.00s)"), packageFails},
			want:   []string{"    x_test.go:3: got 1, want 2", "--- FAIL: TestBad (0.00s)", "FAIL\tp\t0.1s", "1 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a test with subtests is counted by them",
			events: [][]event{{{Action: "run", Package: "p", Test: "TestTable"}}, said("TestTable/one", "pass"), said("TestTable/two", "fail"),
				{{Action: "fail", Package: "p", Test: "TestTable"}}, packageFails},
			want: []string{"1 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a test that fails beside its passing subtests is a failure",
			events: [][]event{{{Action: "run", Package: "p", Test: "TestTable"}}, said("TestTable/one", "pass"),
				{{Action: "fail", Package: "p", Test: "TestTable"}}, packageFails},
			want: []string{"1 passed, 1 failed, 0 skipped"},
		},
		{
			name:   "a skipped test is listed with its reason",
			events: [][]event{passed, said("TestRoot", "skip", "=== RUN   TestRoot", "    a_test.go:7: needs root: makes namespaces", "--- SKIP: TestRoot (0.00s)")},
			ok:     true, want: []string{"left out:", "  p: needs root: makes namespaces (1: TestRoot)", "1 passed, 0 failed, 1 skipped"},
		},
		{
			name: "tests that skip for one reason are listed together, subtests under their test",
			events: [][]event{said("TestA", "skip", "    a_test.go:7: no kernel"), said("TestB", "skip", "    a_test.go:9: no disk"),
				{{Action: "run", Package: "p", Test: "TestC"}}, said("TestC/x", "skip", "    a_test.go:7: no kernel"), said("TestC/y", "skip", "    a_test.go:7: no kernel"),
				{{Action: "pass", Package: "p", Test: "TestC"}}},
			ok: true, want: []string{"  p: no kernel (3: TestA, TestC)", "  p: no disk (1: TestB)", "0 passed, 0 failed, 4 skipped"},
		},
		{
			name:   "a test that root skipped for want of root is a failure",
			events: [][]event{passed, said("TestRoot", "skip", "    a_test.go:7: needs root: makes namespaces")},
			root:   true, want: []string{"p skipped TestRoot though this is root: that is a failure", "1 passed, 0 failed, 1 skipped"},
		},
		{
			name:   "a test that root skipped for another reason is listed",
			events: [][]event{passed, said("TestOld", "skip", "    a_test.go:7: kernel 5.4 has no such hook")},
			root:   true, ok: true, want: []string{"  p: kernel 5.4 has no such hook (1: TestOld)", "1 passed, 0 failed, 1 skipped"},
		},
		{
			name: "the specs of a Ginkgo suite are counted each, colours or not",
			events: [][]event{said("TestSuite", "fail",
				"\x1b[1mFAIL!\x1b[0m -- \x1b[38;5;10m11 Passed\x1b[0m | \x1b[38;5;9m2 Failed\x1b[0m | 0 Pending | 1 Skipped"), packageFails},
			want: []string{"  p: 0 pending and 1 skipped specs (1: TestSuite)", "11 passed, 2 failed, 1 skipped"},
		},
		{
			name: "a package that does not build is a failure",
			events: [][]event{passed, {{Action: "build-output", ImportPath: "q", Output: "q/q.go:1: undefined: y\n"}, {Action: "build-fail", ImportPath: "q"},
				{Action: "fail", Package: "q"}}},
			want: []string{"q/q.go:1: undefined: y", "1 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a test that a crash cut off is shown and counted",
			events: [][]event{{{Action: "run", Package: "p", Test: "TestDeep"}, {Action: "output", Package: "p", Test: "TestDeep", Output: "panic: boo\n"}},
				packageFails},
			want: []string{"--- CUT OFF: TestDeep", "panic: boo", "0 passed, 1 failed, 0 skipped"},
		},
		{
			name: "a run without any test is a failure",
			want: []string{"no test ran: that is a failure", "0 passed, 0 failed, 0 skipped"},
		},
		{
			name:   "what the caller left out is listed",
			events: [][]event{passed}, notes: []string{"the race detector: gcc is missing"},
			ok: true, want: []string{"left out:", "  the race detector: gcc is missing", "1 passed, 0 failed, 0 skipped"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var in, out bytes.Buffer
			encoder := json.NewEncoder(&in)
			for _, group := range c.events {
				for _, e := range group {
					if err := encoder.Encode(e); err != nil {
						t.Fatal(err)
					}
				}
			}
			r := newReport(&out, c.root)
			if err := r.read(&in); err != nil {
				t.Fatal(err)
			}
			if ok := r.close(c.notes); ok != c.ok {
				t.Errorf("close() = %v, want %v", ok, c.ok)
			}
			rest := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			if last := rest[len(rest)-1]; last != c.want[len(c.want)-1] {
				t.Errorf("the last line is %q, want %q", last, c.want[len(c.want)-1])
			}
			for _, line := range c.want {
				i := 0
				for i < len(rest) && rest[i] != line {
					i++
				}
				if i == len(rest) {
					t.Fatalf("no line %q in its place in:\n%s", line, &out)
				}
				rest = rest[i+1:]
			}
			if c.wantNot != "" && strings.Contains(out.String(), c.wantNot) {
				t.Errorf("%q stands in:\n%s", c.wantNot, &out)
			}
		})
	}
}

func TestReadPrintsWhatIsNoEvent(t *testing.T) {
	var out bytes.Buffer
	if err := newReport(&out, false).read(strings.NewReader("go: cannot find module\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "go: cannot find module\n" {
		t.Errorf("printed %q", got)
	}
}
