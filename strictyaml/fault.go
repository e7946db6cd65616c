package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a file.
type Fault struct {
	// File is the name under which it was read, "" for a value without a file.
	File string
	// Line and Column count from 1; both are 0 when the fault has no place in
	// a file. Column counts characters, not bytes.
	Line, Column int
	// Path leads to the field: nodes.be7.address, services[0].backends[2];
	// "" when the fault is the file's as a whole.
	Path string
	// Message says what is wrong and what would be right.
	Message string
}

// String is FILE:LINE:COLUMN: PATH: MESSAGE, without the parts that are empty.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
		b.WriteString(": ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	return b.String() + f.Message
}

// Error makes a single fault an error.
func (f Fault) Error() string { return f.String() }

// Faults is everything that is wrong with a file, in the order of the
// file. A function that returns Faults returns nil when nothing is wrong.
type Faults []Fault

// shownFaults is how many faults Error prints: a file of another kind can
// have thousands.
const shownFaults = 50

// Error is one fault a line.
func (f Faults) Error() string {
	lines := make([]string, 0, min(len(f), shownFaults)+1)
	for i, fault := range f {
		if i == shownFaults {
			lines = append(lines, fmt.Sprintf("and %d more faults", len(f)-shownFaults))
			break
		}
		lines = append(lines, fault.String())
	}
	return strings.Join(lines, "\n")
}

// ExitCode is 2: the input is wrong, not the machine.
func (f Faults) ExitCode() int { return 2 }

// Unwrap lets errors.As find a Fault.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, fault := range f {
		errs[i] = fault
	}
	return errs
}

// OrNil keeps an empty Faults from becoming an error that is not nil.
func (f Faults) OrNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// sortByPlace orders faults as a reader of the file meets them.
func (f Faults) sortByPlace() {
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// FileError says that a file could not be read; it wraps the cause, so that
// errors.Is(err, fs.ErrNotExist) holds for a missing one.
type FileError struct {
	// Noun is the Format's.
	Noun, File string
	Err        error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s file %s: %v", e.Noun, e.File, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// ExitCode is 2: the caller named a file that is of no use.
func (e *FileError) ExitCode() int { return 2 }
