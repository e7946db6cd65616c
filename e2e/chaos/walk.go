package chaos

import (
	"math/rand/v2"
	"slices"
)

const (
	// maxTroubled is how many backends are in trouble at a time.
	maxTroubled = 2
	// minBackends is how many backends the lab has at least.
	minBackends = 3
	// lastEvent is the last event of labctl after which it is killed.
	lastEvent = 12
)

// shares are the weights that a backend is given.
var shares = []int{0, 1, 3, 9}

// Walk chooses actions.
type Walk struct {
	random *rand.Rand
	model  Model
}

// NewWalk returns the walk of a seed from a model on.
func NewWalk(seed uint64, from Model) *Walk {
	return &Walk{random: rand.New(rand.NewPCG(seed, 0x6c346c6162)), model: from}
}

// Model is the lab as it is once the last action holds.
func (w *Walk) Model() Model { return w.model }

// Next chooses an action and goes on to what it makes of the model.
func (w *Walk) Next() Action {
	byKind := map[Kind][]Action{}
	for _, a := range w.model.possible() {
		byKind[a.Kind] = append(byKind[a.Kind], a)
	}
	sum := 0
	for _, c := range chances {
		if len(byKind[c.kind]) > 0 {
			sum += c.chance
		}
	}
	place := w.random.IntN(sum) // a flood, at least, is always possible
	for _, c := range chances {
		of := byKind[c.kind]
		if len(of) == 0 {
			continue
		}
		if place -= c.chance; place < 0 {
			a := w.detail(of[w.random.IntN(len(of))])
			w.model = w.model.Apply(a)
			return a
		}
	}
	panic("chaos: the chances do not add up")
}

// detail draws what does not decide whether an action is possible.
func (w *Walk) detail(a Action) Action {
	if a.Kind == CutUp {
		a.Events = 1 + w.random.IntN(lastEvent)
	}
	if a.Kind == Impair && a.Fault == Loss {
		a.Percent = 10 + w.random.IntN(31)
	}
	return a
}

// possible are the actions whose preconditions hold, in an order that depends on the model alone.
func (m Model) possible() []Action {
	all := append(m.ofBackends(), m.ofServices()...)
	all = append(all, m.ofLab()...)
	return slices.DeleteFunc(all, func(a Action) bool { return !m.Apply(a).bearable() })
}

// bearable says whether there is, in every service, somebody who answers; else
// there would be nothing to judge.
func (m Model) bearable() bool {
	for _, s := range m.Services {
		if s.InLab && len(m.Must(s)) == 0 {
			return false
		}
	}
	return m.Troubled() <= maxTroubled
}

func (m Model) ofBackends() (all []Action) {
	for _, b := range m.Backends {
		switch {
		case !b.InLab, !b.Node:
		case b.Fault != NoFault:
			all = append(all, Action{Kind: Mend, Backend: b.Name, Fault: b.Fault})
		case !b.Web:
			all = append(all, Action{Kind: StartWeb, Backend: b.Name})
		default:
			all = append(all, Action{Kind: KillWeb, Backend: b.Name}, Action{Kind: KillNode, Backend: b.Name})
			for _, f := range Faults() {
				all = append(all, Action{Kind: Impair, Backend: b.Name, Fault: f})
			}
		}
	}
	return all
}

// ofServices are the operator's, who needs an agent.
func (m Model) ofServices() (all []Action) {
	if !m.AgentUp {
		return nil
	}
	modes := map[string]bool{}
	for _, s := range m.Services {
		if !s.InLab {
			continue
		}
		modes[s.Mode] = true
		all = append(all, Action{Kind: SwitchMode, Service: s.ID, Mode: other(s.Mode)}, Action{Kind: Flood, Service: s.ID})
		for _, member := range s.Members {
			all = append(all, ofMember(s.ID, member)...)
		}
	}
	if len(modes) == 1 { // all of one mode
		for _, mode := range []string{"dsr", "snat"} {
			if !modes[mode] {
				all = append(all, Action{Kind: SwitchMode, Mode: mode})
			}
		}
	}
	return all
}

func ofMember(service uint32, member Member) (all []Action) {
	of := func(kind Kind) Action { return Action{Kind: kind, Service: service, Backend: member.Backend} }
	if member.State != Active {
		return []Action{of(Activate)}
	}
	all = []Action{of(Drain), of(DrainDeadline), of(Maintain)}
	for _, share := range shares {
		if share != member.Share {
			a := of(Reweight)
			a.Share = share
			all = append(all, a)
		}
	}
	return all
}

func (m Model) ofLab() (all []Action) {
	if m.AgentUp {
		all = append(all, Action{Kind: StopAgent}, Action{Kind: KillAgent}, Action{Kind: RestartAgent})
	} else {
		all = append(all, Action{Kind: StartAgent})
	}
	if !m.AgentUp || m.Troubled() > 0 {
		all = append(all, Action{Kind: Restore})
	}
	changes := m.changes()
	all = append(all, changes...)
	for _, c := range changes {
		all = append(all, Action{Kind: CutUp, Change: c.Kind, Backend: c.Backend, Service: c.Service})
	}
	return all
}

// changes are those of the topology.
func (m Model) changes() (all []Action) {
	inLab := 0
	for _, b := range m.Backends {
		if b.InLab {
			inLab++
		}
	}
	for _, b := range m.Backends {
		if !b.InLab {
			all = append(all, Action{Kind: AddBackend, Backend: b.Name})
		} else if inLab > minBackends {
			all = append(all, Action{Kind: RemoveBackend, Backend: b.Name})
		}
	}
	for i, s := range m.Services {
		if !s.InLab {
			all = append(all, Action{Kind: AddService, Service: s.ID})
		} else if i >= 2 { // one of each mode stays
			all = append(all, Action{Kind: RemoveService, Service: s.ID})
		}
	}
	return all
}

func other(mode string) string {
	if mode == "dsr" {
		return "snat"
	}
	return "dsr"
}
