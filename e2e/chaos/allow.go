package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Allowed is what a client may see of a service.
type Allowed struct {
	// New are the backends that may answer new connections, Modes the ways that they may take.
	New, Modes map[string]bool
	// Refuse says why a new connection may fail, "" when none may.
	Refuse string
	// Break says why established connections of a backend may fail, BreakAll those of any.
	Break    map[string]string
	BreakAll string
}

// Allowance is what a client may see, by service.
type Allowance map[uint32]Allowed

// Settled is what may be seen once everything that was done holds.
func Settled(m Model) Allowance {
	a := Allowance{}
	for _, s := range m.Services {
		of := Allowed{New: map[string]bool{}, Modes: map[string]bool{}, Break: map[string]string{}}
		if !s.InLab {
			of.Refuse, of.BreakAll = "the service is not there", "the service is not there"
			a[s.ID] = of
			continue
		}
		of.Modes[s.Mode] = true
		for _, name := range s.Table {
			of.New[name] = true
			of.mayFail(m.Backend(name))
		}
		for _, member := range s.Members {
			of.mayBreak(m.Backend(member.Backend))
		}
		a[s.ID] = of
	}
	return a
}

// During is what may be seen from an action's beginning until it holds: all that
// may be seen before or after, and what lies between.
func During(before Model, a Action, after Model) Allowance {
	sum := Settled(before)
	for id, of := range Settled(after) {
		sum[id] = merge(sum[id], of)
	}
	for id, of := range sum {
		if a.IsUp() {
			// The topology's services, until their checks are set again.
			for _, m := range slices.Concat(before.Service(id).Members, after.Service(id).Members) {
				of.New[m.Backend] = true
			}
		}
		if a.Kind == Activate && id == a.Service {
			switch m, _ := before.Service(id).Member(a.Backend); m.State {
			case Gone, Maintenance:
				// Nobody has asked it since; it is well until it has failed.
				of.New[a.Backend] = true
			}
		}
		for name := range of.New {
			for _, b := range []Backend{before.Backend(name), after.Backend(name)} {
				// One that is just added is sent nothing before it answers.
				if b.InLab || before.Backend(name).InLab {
					of.mayFail(b)
					of.mayBreak(b)
				}
			}
		}
		if a.Kind == DrainDeadline && id == a.Service {
			of.Refuse = a.Backend + "'s connections are cut, those that have just begun, too"
			of.Break[a.Backend] = "its deadline"
		}
		sum[id] = of
	}
	return sum
}

// mayFail has new connections fail for a backend that may be chosen.
func (of *Allowed) mayFail(b Backend) {
	if b.Condition() != Well && of.Refuse == "" {
		of.Refuse = fmt.Sprintf("%s may be chosen, which has %s", b.Name, b.trouble())
	}
}

func (of *Allowed) mayBreak(b Backend) {
	if b.Condition() != Well {
		of.Break[b.Name] = b.trouble()
	}
}

func (b Backend) trouble() string {
	switch {
	case !b.InLab:
		return "left the lab"
	case !b.Node:
		return "no machine"
	case !b.Web:
		return "no web server"
	}
	return string(b.Fault)
}

func merge(a, b Allowed) Allowed {
	join := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	maps.Copy(a.New, b.New)
	maps.Copy(a.Modes, b.Modes)
	maps.Copy(a.Break, b.Break)
	a.Refuse, a.BreakAll = join(a.Refuse, b.Refuse), join(a.BreakAll, b.BreakAll)
	return a
}

// names lists a set.
func names(set map[string]bool) string {
	if len(set) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
