package probe

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"l4lab/topology"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	// Unverifiable: nothing was seen that speaks for or against, for instance
	// because a capture lost frames.
	Unverifiable Status = "unverifiable"
	// Skipped: the check does not apply, Seen says why.
	Skipped Status = "skipped"
)

// Report is what a run found.
type Report struct {
	Lab      string        `json:"lab"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"durationNanoseconds"`
	Checks   []Check       `json:"checks"`
}

// Check is one fact about a service in a mode.
type Check struct {
	Mode    topology.Mode `json:"mode"`
	Service uint32        `json:"service"`
	// Name is the promise, as a sentence.
	Name     string `json:"name"`
	Status   Status `json:"status"`
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
	// Faults say, one each, what is not as expected.
	Faults []string `json:"faults,omitempty"`
	// Packets are the offending ones, one a line, with place and headers.
	Packets  []string      `json:"packets,omitempty"`
	Duration time.Duration `json:"durationNanoseconds"`
}

// Failed says that at least one check failed.
func (r Report) Failed() bool { return r.Count(Fail) > 0 }

// Count returns how many checks ended so.
func (r Report) Count(s Status) int {
	n := 0
	for _, c := range r.Checks {
		if c.Status == s {
			n++
		}
	}
	return n
}

// Summary is one line, such as "41 passed, 1 failed, 2 unverifiable, 3 skipped".
func (r Report) Summary() string {
	return fmt.Sprintf("%d passed, %d failed, %d unverifiable, %d skipped",
		r.Count(Pass), r.Count(Fail), r.Count(Unverifiable), r.Count(Skipped))
}

// WriteText writes a table of all checks; below it, for each that failed or
// could not be verified, what was expected, seen, and the packets.
func (r Report) WriteText(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	lines := []string{"RESULT\tMODE\tSERVICE\tCHECK\tSEEN"}
	for _, c := range r.Checks {
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d\t%s\t%s", c.Status, c.Mode, c.Service, c.Name, c.Seen))
	}
	if _, err := fmt.Fprintln(table, strings.Join(lines, "\n")); err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, c := range r.Checks {
		if c.Status != Fail && c.Status != Unverifiable {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s: %s (%s, service %d)\n%s", strings.ToUpper(string(c.Status)), c.Name, c.Mode, c.Service, c.Details()); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s in %s\n", r.Summary(), r.Duration.Round(time.Millisecond))
	return err
}

// Details is what a reader needs to understand the outcome, in lines.
func (c Check) Details() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  expected: %s\n  seen:     %s\n", c.Expected, c.Seen)
	for _, f := range c.Faults {
		fmt.Fprintf(&b, "  fault:    %s\n", f)
	}
	for _, p := range c.Packets {
		fmt.Fprintf(&b, "  packet:   %s\n", p)
	}
	return b.String()
}

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}
