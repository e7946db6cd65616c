package chaos

import (
	"fmt"
	"slices"
)

// Kind is a kind of action.
type Kind string

// The kinds of actions.
const (
	Drain         Kind = "drain"
	DrainDeadline Kind = "drain with a deadline"
	Maintain      Kind = "maintenance"
	Activate      Kind = "activate"
	Reweight      Kind = "reweight"
	KillWeb       Kind = "kill the web server"
	StartWeb      Kind = "start the web server"
	KillNode      Kind = "kill the node"
	Impair        Kind = "impair"
	Mend          Kind = "mend"
	StopAgent     Kind = "stop the agent (SIGTERM)"
	KillAgent     Kind = "kill -9 the agent"
	StartAgent    Kind = "start the agent"
	RestartAgent  Kind = "restart the agent (SIGTERM)"
	SwitchMode    Kind = "switch the mode"
	Flood         Kind = "SYN flood"
	Restore       Kind = "labctl up"
	AddBackend    Kind = "add a backend"
	RemoveBackend Kind = "remove a backend"
	AddService    Kind = "add a service"
	RemoveService Kind = "remove a service"
	// CutUp is a `labctl up` that changes the topology, is killed on the way, and
	// is run again.
	CutUp Kind = "kill -9 labctl"
)

// chances are how often a kind is chosen among those that are possible. What
// brings everything back in order is rare, else there would be little disorder.
var chances = []struct {
	kind   Kind
	chance int
}{
	{Drain, 4}, {DrainDeadline, 4}, {Maintain, 3}, {Activate, 6}, {Reweight, 5},
	{KillWeb, 6}, {StartWeb, 8}, {KillNode, 3}, {Impair, 6}, {Mend, 8},
	{StopAgent, 3}, {KillAgent, 3}, {StartAgent, 40}, {RestartAgent, 6}, {SwitchMode, 7}, {Flood, 2},
	{Restore, 3}, {AddBackend, 3}, {RemoveBackend, 2}, {AddService, 3}, {RemoveService, 2}, {CutUp, 3},
}

// Action is one step of the walk.
type Action struct {
	Kind Kind
	// Backend and Service are what it concerns; a SwitchMode of service 0 concerns all.
	Backend string
	Service uint32
	// Mode is SwitchMode's, Share Reweight's, Fault Impair's and Mend's.
	Mode  string
	Share int
	Fault Fault
	// Percent is how much of a backend's frames Loss takes.
	Percent int
	// Change is what a CutUp changes, Events after how many events of labctl it is killed.
	Change Kind
	Events int
}

func (a Action) String() string {
	text := string(a.Kind)
	add := func(has bool, format string, args ...any) {
		if has {
			text += fmt.Sprintf(format, args...)
		}
	}
	add(a.Change != "", " after %d events, while it is to %s", a.Events, a.Change)
	add(a.Backend != "", " %s", a.Backend)
	add(a.Service != 0, " of service %d", a.Service)
	add(a.Fault != "", ": %s", a.Fault)
	add(a.Percent != 0, ", %d %%", a.Percent)
	add(a.Mode != "", " to %s", a.Mode)
	add(a.Kind == Reweight, " to %d", a.Share)
	return text
}

// ups are the kinds that end with a `labctl up`: it mends all, and sets the
// services anew as the topology has them.
var ups = []Kind{Restore, AddBackend, RemoveBackend, AddService, RemoveService, CutUp}

// IsUp says whether the action ends with a whole `labctl up`.
func (a Action) IsUp() bool { return slices.Contains(ups, a.Kind) }

// Apply returns what an action makes of the model, once it holds.
func (m Model) Apply(a Action) Model {
	m = m.clone()
	switch a.Kind {
	case Drain:
		m.member(a).State = Draining
	case DrainDeadline:
		m.member(a).State = Gone
	case Maintain:
		m.member(a).State = Maintenance
	case Activate:
		m.activate(a)
	case Reweight:
		m.member(a).Share = a.Share
	case KillWeb:
		m.backend(a).Web = false
	case StartWeb:
		m.backend(a).Web = true
	case KillNode:
		m.backend(a).Node, m.backend(a).Web, m.backend(a).Fault = false, false, NoFault
	case Impair:
		m.backend(a).Fault = a.Fault
	case Mend:
		m.backend(a).Fault = NoFault
	case StopAgent, KillAgent:
		m.AgentUp = false
	case StartAgent, RestartAgent:
		m.AgentUp = true
	case SwitchMode:
		for i, s := range m.Services {
			if s.InLab && (a.Service == 0 || a.Service == s.ID) {
				m.Services[i].Mode = a.Mode
			}
		}
	case Flood:
	default:
		m.converge(a)
	}
	m.fill()
	return m
}

// activate gives a member new connections again. One that has left comes with the
// weight that a backend has by itself.
func (m *Model) activate(a Action) {
	if member := m.member(a); member.State == Gone {
		*member = Member{a.Backend, Active, 1}
	} else {
		member.State = Active
	}
}

func (m *Model) converge(a Action) {
	kind := a.Kind
	if kind == CutUp {
		kind = a.Change
	}
	switch kind {
	case AddBackend, RemoveBackend:
		m.backend(a).InLab = kind == AddBackend
	case AddService, RemoveService:
		i := slices.IndexFunc(m.Services, func(s Service) bool { return s.ID == a.Service })
		m.Services[i].InLab = kind == AddService
	}
	m.bringUp()
}

func (m *Model) backend(a Action) *Backend {
	return &m.Backends[slices.IndexFunc(m.Backends, func(b Backend) bool { return b.Name == a.Backend })]
}

func (m *Model) member(a Action) *Member {
	s := m.Services[slices.IndexFunc(m.Services, func(s Service) bool { return s.ID == a.Service })]
	return &s.Members[slices.IndexFunc(s.Members, func(b Member) bool { return b.Backend == a.Backend })]
}
