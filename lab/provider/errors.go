package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrForeign is matched by errors about a thing that bears a name of the lab's
// and was not made by it. Such a thing is never changed or removed.
var ErrForeign = errors.New("exists already and does not belong to this lab")

// MissingError says which fatal requirements this machine does not meet.
type MissingError struct {
	Provider string
	Missing  []Requirement
}

func (e *MissingError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "provider %s cannot run here:", e.Provider)
	for _, r := range e.Missing {
		fmt.Fprintf(&b, "\n  %s: %s", r.Name, r.Found)
		if r.Remedy != "" {
			fmt.Fprintf(&b, "; %s", r.Remedy)
		}
	}
	return b.String()
}

// CheckRemoval returns a *MissingError when a fatal requirement is not met that
// also the removal of a lab needs.
func CheckRemoval(provider string, requirements []Requirement) error {
	needed := slices.DeleteFunc(slices.Clone(requirements), func(r Requirement) bool { return r.ForUp })
	return CheckFatal(provider, needed)
}

// CheckFatal returns a *MissingError when a fatal requirement is not met.
func CheckFatal(provider string, requirements []Requirement) error {
	e := &MissingError{Provider: provider}
	for _, r := range requirements {
		if r.Fatal && !r.OK {
			e.Missing = append(e.Missing, r)
		}
	}
	if len(e.Missing) == 0 {
		return nil
	}
	return e
}
