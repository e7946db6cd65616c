// Command testlines reads what `go test -json` writes and prints what a person
// wants of it: go test's own line for each package, all that a failing test
// wrote, and at the end each skipped test with its reason, before the closing
// line "N passed, N failed, N skipped". A test that has subtests is counted by
// them alone; the specs of a Ginkgo suite are counted each.
//
// The exit code is 1 when anything failed, when nothing was tested, or when
// root skipped a test because it "needs root".
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	var notes []string
	flag.Func("note", "something else that was left out; may be given several times", func(s string) error {
		notes = append(notes, s)
		return nil
	})
	flag.Parse()
	r := newReport(os.Stdout, os.Geteuid() == 0)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testlines:", err)
		os.Exit(1)
	}
	if !r.close(notes) {
		os.Exit(1)
	}
}

// event is one line of `go test -json` (`go doc test2json`; FailedBuild and
// ImportPath: `go help buildjson`).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
}

// read takes the stream to its end. A line that is no event is printed as it is.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.take(e)
			} else {
				fmt.Fprintf(r.out, "%s\n", bytes.TrimSuffix(line, []byte("\n")))
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}
