// Package chaos is the plan of a random walk over what befalls a load balancer,
// and the measure by which the walk is judged. It touches nothing: it knows a
// Model of the lab, the actions that are possible in it, what each makes of it, and
// what a client may see before, during and after.
//
// A Walk chooses actions from a seed and the model alone, never from what was
// seen or how long it took, so that a seed gives the same walk again. Whoever
// walks carries each action out, writes down in a Timeline when it began and when
// its effect held, and has the Timeline judge every connection.
//
//	w := chaos.NewWalk(seed, model)
//	line := chaos.NewTimeline(chaos.Settled(w.Model()), choose)
//	for … {
//		before := w.Model()
//		action := w.Next()
//		line.Begin(now(), chaos.During(before, action, w.Model()))
//		…                                       // do it, wait until it holds
//		line.Settle(now(), chaos.Settled(w.Model()))
//	}
package chaos

import "slices"

// Fault is something between a backend and the others that is not as it should be.
type Fault string

// The faults. None is a backend's own death: its server runs on.
const (
	NoFault Fault = ""
	// PortDown: its port on the switch is set down.
	PortDown Fault = "port down"
	// ForeignMAC: its interface has another MAC than the others send to.
	ForeignMAC Fault = "foreign MAC"
	// Loss: a share of what it sends is lost.
	Loss Fault = "loss"
	// SmallMTU: its interface takes less than the others'. It announces so in every
	// handshake, and requests are small: nobody is to notice.
	SmallMTU Fault = "small MTU"
	// Forgotten: it has forgotten the client's MAC and asks for it. Nobody is to notice.
	Forgotten Fault = "neighbour forgotten"
)

// Faults are all of them.
func Faults() []Fault { return []Fault{PortDown, ForeignMAC, Loss, SmallMTU, Forgotten} }

// Backend is a machine that serves, or one that could.
type Backend struct {
	Name string
	// InLab says that the topology has it, Node that its machine is there, Web that its server runs.
	InLab, Node, Web bool
	Fault            Fault
}

// Condition is whether a backend answers.
type Condition int

// The conditions. Of an Unclear one nothing is promised: it may answer, a health
// check may find it well or not.
const (
	Dead Condition = iota
	Unclear
	Well
)

// Condition of a backend.
func (b Backend) Condition() Condition {
	switch {
	case !b.InLab, !b.Node, !b.Web, b.Fault == PortDown, b.Fault == ForeignMAC:
		return Dead
	case b.Fault == Loss:
		return Unclear
	}
	return Well
}

// State is what the operator wants of a backend of a service.
type State string

// The states of a member. Gone is one whose draining has ended: it has left the service.
const (
	Active      State = "active"
	Draining    State = "draining"
	Maintenance State = "maintenance"
	Gone        State = "gone"
)

// Member is a backend of a service.
type Member struct {
	Backend string
	State   State
	// Share is its weight.
	Share int
}

// Service is a virtual service.
type Service struct {
	ID    uint32
	InLab bool
	// Mode is "dsr" or "snat".
	Mode    string
	Members []Member
	// Table are the backends that new connections may be given to, Sure those of
	// them that surely are. While no agent runs, both stay as they were.
	Table, Sure []string
}

// Member returns a backend's place in the service.
func (s Service) Member(backend string) (Member, bool) {
	if i := slices.IndexFunc(s.Members, func(m Member) bool { return m.Backend == backend }); i >= 0 {
		return s.Members[i], true
	}
	return Member{}, false
}

// Model is the lab as far as the walk is concerned. It is a value: Apply returns another.
type Model struct {
	Backends []Backend
	Services []Service
	AgentUp  bool
}

// New returns the model of a lab that was just brought up. The backends and
// services named second are not in it yet: they can be added.
func New(backends, spare []string, services, spareServices []Service) Model {
	m := Model{AgentUp: true}
	for _, name := range backends {
		m.Backends = append(m.Backends, Backend{Name: name, InLab: true})
	}
	for _, name := range spare {
		m.Backends = append(m.Backends, Backend{Name: name})
	}
	for _, s := range services {
		s.InLab = true
		m.Services = append(m.Services, s)
	}
	m.Services = append(m.Services, spareServices...)
	m.bringUp()
	return m
}

// Backend returns the backend of a name.
func (m Model) Backend(name string) Backend {
	if i := slices.IndexFunc(m.Backends, func(b Backend) bool { return b.Name == name }); i >= 0 {
		return m.Backends[i]
	}
	return Backend{}
}

// Service returns the service of a number.
func (m Model) Service(id uint32) Service {
	if i := slices.IndexFunc(m.Services, func(s Service) bool { return s.ID == id }); i >= 0 {
		return m.Services[i]
	}
	return Service{}
}

// Must are the backends that answer new connections of a service, each of them.
func (m Model) Must(s Service) []string {
	var must []string
	for _, name := range s.Sure {
		if s.InLab && m.Backend(name).Condition() == Well {
			must = append(must, name)
		}
	}
	return must
}

// Troubled counts the backends that are not as `labctl up` makes them.
func (m Model) Troubled() (n int) {
	for _, b := range m.Backends {
		if b.InLab && (!b.Node || !b.Web || b.Fault != NoFault) {
			n++
		}
	}
	return n
}

func (m Model) clone() Model {
	m.Backends, m.Services = slices.Clone(m.Backends), slices.Clone(m.Services)
	for i, s := range m.Services {
		m.Services[i].Members = slices.Clone(s.Members)
		m.Services[i].Table, m.Services[i].Sure = slices.Clone(s.Table), slices.Clone(s.Sure)
	}
	return m
}

// bringUp is what `labctl up` does: all machines and servers are there and whole, the
// agent runs, and every service has all backends, as the topology says it.
func (m *Model) bringUp() {
	m.AgentUp = true
	for i, b := range m.Backends {
		m.Backends[i] = Backend{Name: b.Name, InLab: b.InLab, Node: b.InLab, Web: b.InLab}
	}
	for i := range m.Services {
		m.Services[i].Members = nil
		for _, b := range m.Backends {
			if b.InLab && m.Services[i].InLab {
				m.Services[i].Members = append(m.Services[i].Members, Member{b.Name, Active, 1})
			}
		}
	}
	m.fill()
}

// fill gives the services their tables, if there is an agent to do it. Its checks
// take out the dead; where that would leave none, they are not heeded.
func (m *Model) fill() {
	if !m.AgentUp {
		return
	}
	for i, s := range m.Services {
		var all, may, sure []string
		for _, member := range s.Members {
			if member.State != Active || member.Share == 0 || !s.InLab {
				continue
			}
			all = append(all, member.Backend)
			switch m.Backend(member.Backend).Condition() {
			case Well:
				may, sure = append(may, member.Backend), append(sure, member.Backend)
			case Unclear:
				may = append(may, member.Backend)
			case Dead:
			}
		}
		if len(sure) == 0 {
			may = all
		}
		m.Services[i].Table, m.Services[i].Sure = may, sure
	}
}
