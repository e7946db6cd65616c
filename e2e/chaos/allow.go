package chaos

import (
	"maps"
	"slices"
	"strings"
)

// Allowed is what a client may see of a service.
type Allowed struct {
	// New are the backends that may answer new connections, Modes the ways that they may take.
	New, Modes map[string]bool
	// Tables are what the service's Maglev table may be: it says whom a new connection
	// is given to, also one that fails. Nil: any of New.
	Tables []Table
	// Refuse says how new connections that a backend is given may fail.
	Refuse map[string]Refusal
	// RefuseAll says why any may, "" when it is only those.
	RefuseAll string
	// Break says why established connections of a backend may fail, BreakAll those of any.
	Break    map[string]string
	BreakAll string
}

// Refusal is how new connections may fail, and why.
type Refusal struct {
	Why  string
	Ways map[Way]bool
}

// Allowance is what a client may see, by service.
type Allowance map[uint32]Allowed

// Settled is what may be seen once everything that was done holds.
func Settled(m Model) Allowance {
	a := Allowance{}
	for _, s := range m.Services {
		of := Allowed{New: map[string]bool{}, Modes: map[string]bool{}, Refuse: map[string]Refusal{}, Break: map[string]string{}}
		if !s.InLab {
			of.RefuseAll, of.BreakAll = "the service is not there", "the service is not there"
			a[s.ID] = of
			continue
		}
		of.Modes[s.Mode] = true
		for _, name := range s.Table {
			of.New[name] = true
			of.mayFail(m.Backend(name))
		}
		of.Tables = tablesBetween(s.Sure, s.Table, s)
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
		was, is := before.Service(id), after.Service(id)
		if a.IsUp() {
			// The topology's services, until their checks are set again.
			for _, m := range slices.Concat(was.Members, is.Members) {
				of.New[m.Backend] = true
			}
		}
		if a.Kind == Activate && id == a.Service {
			switch m, _ := was.Member(a.Backend); m.State {
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
		of.Tables = of.tablesDuring(a, was, is)
		of.mayFailInAnyWay(a)
		if a.Kind == DrainDeadline && id == a.Service {
			of.Refuse[a.Backend] = Refusal{a.Backend + "'s connections are cut, those that have just begun, too", anyWay()}
			of.Break[a.Backend] = "its deadline"
		}
		sum[id] = of
	}
	return sum
}

// tablesDuring are the tables that the agent may go through: what two changes make of
// it, such as two backends' deaths that a new agent finds one after the other, need not come at once.
func (of Allowed) tablesDuring(a Action, was, is Service) []Table {
	if a.IsUp() {
		return nil // labctl sets services anew, and their checks after that
	}
	var sure []string
	for _, name := range was.Sure {
		if slices.Contains(is.Sure, name) {
			sure = append(sure, name)
		}
	}
	may := slices.Sorted(maps.Keys(of.New))
	return append(tablesBetween(sure, may, was), tablesBetween(sure, may, is)...)
}

// mayFailInAnyWay is for backends to which something happens while a connection
// begins: its server is killed before it has answered what its kernel had taken, or its machine starts.
func (of *Allowed) mayFailInAnyWay(a Action) {
	for name, refusal := range of.Refuse {
		if a.IsUp() || name == a.Backend && (a.Kind == KillWeb || a.Kind == KillNode) {
			of.Refuse[name] = Refusal{refusal.Why, anyWay()}
		}
	}
}

// mayFail has new connections that a backend is given fail, in the way that fits its trouble.
func (of *Allowed) mayFail(b Backend) {
	if b.Condition() == Well {
		return
	}
	r, known := of.Refuse[b.Name]
	if !known {
		r = Refusal{"has " + b.trouble(), map[Way]bool{}}
		of.Refuse[b.Name] = r
	}
	r.Ways[b.refuses()] = true
}

// refuses is how connections to it fail: its kernel resets them where there is nobody
// to take them, and otherwise nobody answers.
func (b Backend) refuses() Way {
	if b.InLab && b.Node && !b.Web {
		return Refused
	}
	return Silent
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
	for name, r := range b.Refuse {
		if have, known := a.Refuse[name]; known {
			maps.Copy(have.Ways, r.Ways)
		} else {
			a.Refuse[name] = r
		}
	}
	a.RefuseAll, a.BreakAll = join(a.RefuseAll, b.RefuseAll), join(a.BreakAll, b.BreakAll)
	return a
}

// names lists a set.
func names(set map[string]bool) string {
	if len(set) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
