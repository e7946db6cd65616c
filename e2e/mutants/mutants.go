// Package mutants holds faults of the product's own source, one a file: each is
// put into a copy of the tree, and the end-to-end suite must then fail in the spec
// that the file names (`make mutants`, scripts/mutants). They say of the suite
// what the seeded faults of e2e/README.md say of `labctl test`: that it can fail.
//
// A file NAME.yaml is one mutant, called NAME; the fields of Mutant say what is in
// it. What the mutants rest on is checked without running them: that each text
// stands in its file exactly once, and that each spec exists.
package mutants

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l4lab/strictyaml"
	"l4lab/topology"
)

//go:embed *.yaml
var files embed.FS

// Mutant is one fault.
type Mutant struct {
	// Name is its file's, without the extension.
	Name string `yaml:"-"`
	// Breaks says in a sentence what it breaks.
	Breaks string `yaml:"breaks"`
	// File is the source file, from the root of the tree. Old stands in it exactly once,
	// and New stands there instead.
	File string `yaml:"file"`
	Old  string `yaml:"old"`
	New  string `yaml:"new"`
	// Spec is the spec that must fail: its texts, without the suite's root.
	Spec string `yaml:"spec"`
	// Check is, of a spec that proves paths, the check of the report that must fail, and
	// Mode the mode in which it does.
	Check string        `yaml:"check"`
	Mode  topology.Mode `yaml:"mode"`
	// Says is, of any other spec, a part of what its failure says. A mutant of which the
	// lab does not come up at all fails a spec, too, and proves nothing.
	Says string `yaml:"says"`
}

// Expected is what the failure of the spec must show, for people.
func (m Mutant) Expected() string {
	if m.Check != "" {
		return fmt.Sprintf("check %q in %s", m.Check, m.Mode)
	}
	return fmt.Sprintf("%q", m.Says)
}

// All returns the mutants in the order of their names.
func All() ([]Mutant, error) {
	paths, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Mutant
	var faults []error
	for _, path := range paths {
		m, err := read(path)
		if err != nil {
			faults = append(faults, err)
		}
		all = append(all, m)
	}
	return all, errors.Join(faults...)
}

func read(path string) (Mutant, error) {
	data, err := files.ReadFile(path)
	if err != nil {
		return Mutant{}, err
	}
	return parse(path, data)
}

func parse(path string, data []byte) (Mutant, error) {
	m := Mutant{Name: strings.TrimSuffix(path, ".yaml")}
	format := strictyaml.Format{Noun: "mutant", Tag: "yaml", MaxSize: 64 << 10, MaxKeys: 100}
	reading := format.Read(path, data, &m)
	reading.Add(m.faults()...)
	return m, reading.Err()
}

func (m Mutant) faults() (faults []strictyaml.Fault) {
	fault := func(path, message string) {
		faults = append(faults, strictyaml.Fault{Path: path, Message: message})
	}
	for path, value := range map[string]string{"breaks": m.Breaks, "file": m.File, "old": m.Old, "spec": m.Spec} {
		if value == "" {
			fault(path, "missing")
		}
	}
	if !filepath.IsLocal(m.File) {
		fault("file", "is no path inside the tree")
	}
	if m.Old == m.New {
		fault("new", "is the same as old: it breaks nothing")
	}
	if (m.Check == "") == (m.Says == "") {
		fault("says", "either check and mode, or says: what must the failure show?")
	}
	if (m.Check == "") != (m.Mode == "") {
		fault("mode", "check and mode go together")
	}
	return faults
}

// Apply puts the fault into a tree and returns how to take it out again.
func (m Mutant) Apply(root string) (undo func() error, err error) {
	mutated, was, err := m.mutated(root)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, m.File)
	if err := os.WriteFile(path, mutated, 0o644); err != nil {
		return nil, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	return func() error { return os.WriteFile(path, was, 0o644) }, nil
}

// Applies says whether the fault can be put into a tree.
func (m Mutant) Applies(root string) error {
	_, _, err := m.mutated(root)
	return err
}

func (m Mutant) mutated(root string) (mutated, was []byte, err error) {
	was, err = os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return nil, nil, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	if n := bytes.Count(was, []byte(m.Old)); n != 1 {
		return nil, nil, fmt.Errorf("mutant %s: %s has the old text %d times, expected once: bring e2e/mutants/%s.yaml up to the source; old is\n%s",
			m.Name, m.File, n, m.Name, m.Old)
	}
	return bytes.Replace(was, []byte(m.Old), []byte(m.New), 1), was, nil
}

// The marks around the list in README.md.
const (
	begin = "<!-- mutants:begin -->\n"
	end   = "<!-- mutants:end -->\n"
)

// List puts the table of the mutants between the marks of a text.
func List(text string, all []Mutant) (string, error) {
	head, rest, ok := strings.Cut(text, begin)
	_, tail, okEnd := strings.Cut(rest, end)
	if !ok || !okEnd {
		return "", fmt.Errorf("the text has no block between %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return head + begin + table(all) + end + tail, nil
}

func table(all []Mutant) string {
	var b strings.Builder
	b.WriteString("| mutant | breaks | spec that catches it | its failure shows |\n| --- | --- | --- | --- |\n")
	for _, m := range all {
		shows := m.Says
		if m.Check != "" {
			shows = fmt.Sprintf("%s: %s", m.Mode, m.Check)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Name, m.Breaks, m.Spec, strings.ReplaceAll(shows, "|", `\|`))
	}
	return b.String()
}
