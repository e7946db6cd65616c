package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/topology"
)

// world is where a fake provider's machines live: plain data that a test can
// compare, spoil and make fail. It keeps what real providers promise and insists
// on what they need: no node without a switch, no verb on a machine that is not
// there, no agent's answer where none runs.
type world struct {
	mu sync.Mutex
	// Switches has each lab's MTU, Machines what each machine has, by "lab/name".
	Switches map[string]int
	Machines map[string]*machine
	// foreign are names that somebody else has.
	foreign map[string]bool
	// requirements is what Check answers, unseen what Observe fails with.
	requirements []provider.Requirement
	unseen       error
	// calls is what was asked of the world, in order: "EnsurePage be1".
	calls []string
	// meddle is asked before each call's effect; nil: nobody does.
	meddle func(call string) fault
}

// fault is what goes wrong with one call; the zero value is nothing.
type fault struct {
	// err is returned without the call's effect or, when late, after it.
	err  error
	late bool
	// then runs at that moment.
	then func()
}

// machine is what a machine has. Exported fields are compared.
type machine struct {
	Prefix   netip.Prefix
	MTU      int
	VIPs     []netip.Addr
	Routes   []role.Route
	Agent    string                 `json:",omitempty"`
	Decap    string                 `json:",omitempty"`
	Page     string                 `json:",omitempty"`
	Services map[uint32]api.Service `json:",omitempty"`
	// exited are daemons that ended by themselves; what the agent had set
	// stays, as pinned maps do.
	exited map[role.Subject]bool
}

func newWorld() *world {
	return &world{Switches: map[string]int{}, Machines: map[string]*machine{}, foreign: map[string]bool{}}
}

// driver returns a provider by this name that works in the world.
func (w *world) driver(name string) provider.Driver {
	return provider.Driver{
		Name:         name,
		Capabilities: provider.Capabilities{Emulates: []topology.OS{topology.Windows}, Client: topology.Windows, MaxMTU: 3506},
		Provider:     fakeProvider{w},
	}
}

// text is the world in a comparable form.
func (w *world) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, err := json.MarshalIndent(w, "", " ")
	if err != nil {
		panic(err)
	}
	return string(data)
}

// change changes a machine behind the lab's back.
func (w *world) change(key string, fn func(m *machine)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn(w.Machines[key])
}

// forget empties the list of calls.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = nil
}

func (w *world) called() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// do carries out one call: notes it, lets it go wrong, does it.
func (w *world) do(ctx context.Context, call string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", call, err) // as everything that waits does
	}
	var f fault
	if w.meddle != nil {
		f = w.meddle(call)
	}
	if f.then != nil && !f.late {
		f.then()
	}
	if f.err != nil && !f.late {
		return f.err
	}
	if err := effect(); err != nil {
		return err
	}
	if f.then != nil && f.late {
		f.then()
	}
	return f.err
}

type fakeProvider struct{ *world }

func (p fakeProvider) Check(context.Context, provider.Lab) []provider.Requirement {
	return p.requirements
}

func (p fakeProvider) Observe(_ context.Context, lab provider.Lab) (provider.Actual, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	actual := provider.Actual{Machines: map[string]provider.MachineState{}}
	if p.unseen != nil {
		return actual, p.unseen
	}
	t := lab.Topology
	for _, name := range append(t.MachineNames(), "switch") {
		if p.foreign[t.Name+"/"+name] {
			return actual, fmt.Errorf("%s/%s %w", t.Name, name, provider.ErrForeign)
		}
	}
	if mtu, ok := p.Switches[t.Name]; ok {
		actual.Switch = &provider.SwitchState{MTU: mtu}
	}
	for key, m := range p.Machines {
		name, ours := strings.CutPrefix(key, t.Name+"/")
		if !ours {
			continue
		}
		s := provider.MachineState{Prefix: m.Prefix, MTU: m.MTU}
		if address, wanted := t.Address(name); wanted && t.Switch.Subnet.IsValid() {
			s.Facts = m.facts()
			if want := netip.PrefixFrom(address, t.Switch.Subnet.Bits()); m.Prefix != want {
				s.Faults = append(s.Faults, fmt.Sprintf("address %s -> %s", m.Prefix, want))
			}
			if m.MTU != t.Switch.MTU {
				s.Faults = append(s.Faults, fmt.Sprintf("mtu %d -> %d", m.MTU, t.Switch.MTU))
			}
		}
		actual.Machines[name] = s
	}
	return actual, nil
}

func (m *machine) facts() role.Facts {
	daemon := func(spec string, subject role.Subject) role.Present {
		switch {
		case spec == "":
			return role.Present{}
		case m.exited[subject]:
			return role.Present{PID: 1, Fault: "exited"}
		}
		return role.Present{Spec: spec, PID: 1}
	}
	return role.Facts{
		VIPs: slices.Clone(m.VIPs), Routes: slices.Clone(m.Routes), Decap: role.Present{Spec: m.Decap},
		Agent: daemon(m.Agent, role.SubjectAgent), Page: daemon(m.Page, role.SubjectPage),
	}
}

func (p fakeProvider) EnsureSwitch(ctx context.Context, lab provider.Lab) error {
	return p.do(ctx, "EnsureSwitch", func() error {
		p.Switches[lab.Topology.Name] = lab.Topology.Switch.MTU
		return nil
	})
}

func (p fakeProvider) EnsureNode(ctx context.Context, lab provider.Lab, name string) error {
	return p.do(ctx, "EnsureNode "+name, func() error {
		t := lab.Topology
		address, known := t.Address(name)
		if !known {
			return fmt.Errorf("the topology has no %s", name)
		}
		if _, ok := p.Switches[t.Name]; !ok {
			return fmt.Errorf("%s: no switch to plug it into", name)
		}
		prefix := netip.PrefixFrom(address, t.Switch.Subnet.Bits())
		m := p.Machines[t.Name+"/"+name]
		if m == nil {
			m = &machine{exited: map[role.Subject]bool{}}
			p.Machines[t.Name+"/"+name] = m
		}
		if m.Prefix != prefix {
			m.Routes = nil // the kernel removes them with the address
		}
		m.Prefix, m.MTU = prefix, t.Switch.MTU
		return nil
	})
}

func (p fakeProvider) RemoveNode(ctx context.Context, lab provider.Lab, name string) error {
	return p.do(ctx, "RemoveNode "+name, func() error {
		delete(p.Machines, lab.Topology.Name+"/"+name)
		return nil
	})
}

func (p fakeProvider) Destroy(ctx context.Context, lab provider.Lab) error {
	return p.do(ctx, "Destroy", func() error {
		delete(p.Switches, lab.Topology.Name)
		maps.DeleteFunc(p.Machines, func(key string, _ *machine) bool { return strings.HasPrefix(key, lab.Topology.Name+"/") })
		return nil
	})
}

func (p fakeProvider) Machine(lab provider.Lab, name string) (provider.Machine, error) {
	if !slices.Contains(lab.Topology.MachineNames(), name) {
		return provider.Machine{}, fmt.Errorf("no machine %s", name)
	}
	at := fakeMachine{p.world, lab.Topology.Name + "/" + name, name}
	return provider.Machine{Guest: fakeGuest{at}, System: fakeSystem{at}}, nil
}

func (p fakeProvider) Capture(context.Context, provider.Lab, capture.Place) (*capture.Session, error) {
	return nil, errors.New("there is nothing to capture here")
}

// fakeMachine is the way to a machine, which need not be there.
type fakeMachine struct {
	*world
	key, name string
}

// on does a verb on the machine.
func (f fakeMachine) on(ctx context.Context, verb string, effect func(m *machine)) error {
	return f.do(ctx, verb+" "+f.name, func() error {
		m := f.Machines[f.key]
		if m == nil {
			return fmt.Errorf("%s: there is no such machine", f.name)
		}
		effect(m)
		return nil
	})
}

type fakeSystem struct{ fakeMachine }

func (s fakeSystem) Observe(context.Context) (role.Facts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Machines[s.key].facts(), nil
}

func (s fakeSystem) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	return role.LogFiles(ctx, fakeGuest(s))
}

func (s fakeSystem) EnsureVIPs(ctx context.Context, vips []netip.Addr) error {
	return s.on(ctx, "EnsureVIPs", func(m *machine) { m.VIPs = append([]netip.Addr(nil), vips...) })
}

func (s fakeSystem) EnsureRoutes(ctx context.Context, routes []role.Route) error {
	return s.on(ctx, "EnsureRoutes", func(m *machine) { m.Routes = append([]role.Route(nil), routes...) })
}

func (s fakeSystem) EnsureAgent(ctx context.Context, a role.Agent) error {
	return s.on(ctx, "EnsureAgent", func(m *machine) {
		m.Agent = a.Spec()
		delete(m.exited, role.SubjectAgent)
		if m.Services == nil {
			m.Services = map[uint32]api.Service{}
		}
	})
}

func (s fakeSystem) EnsureDecap(ctx context.Context, d role.Decap) error {
	return s.on(ctx, "EnsureDecap", func(m *machine) { m.Decap = d.Spec() })
}

func (s fakeSystem) EnsurePage(ctx context.Context, p role.Page) error {
	return s.on(ctx, "EnsurePage", func(m *machine) {
		m.Page = p.Spec()
		delete(m.exited, role.SubjectPage)
	})
}

func (s fakeSystem) Remove(ctx context.Context, subject role.Subject) error {
	return s.on(ctx, "Remove "+string(subject), func(m *machine) {
		delete(m.exited, subject)
		switch subject {
		case role.SubjectAgent:
			m.Agent, m.Services = "", nil
		case role.SubjectDecap:
			m.Decap = ""
		case role.SubjectPage:
			m.Page = ""
		}
	})
}

func (s fakeSystem) DecapStatus(context.Context) (api.DecapStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.DecapStatus{Attached: s.Machines[s.key].Decap != ""}, nil
}

func (s fakeSystem) EphemeralPorts(context.Context) (low, high uint16, err error) {
	return 32768, 60999, nil
}

type fakeGuest struct{ fakeMachine }

func (g fakeGuest) Run(context.Context, guest.Command) error { return errors.New("nothing runs here") }

func (g fakeGuest) Push(context.Context, guest.File) error { return errors.New("nothing is kept here") }

// Pull opens what the daemons of the machine wrote: "agent.log" where an agent is.
func (g fakeGuest) Pull(_ context.Context, path string) (io.ReadCloser, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.Machines[g.key]
	if m != nil && (path == "agent.log" && m.Agent != "" || path == "web.log" && m.Page != "") {
		return io.NopCloser(strings.NewReader(path + " of " + g.name)), nil
	}
	return nil, fmt.Errorf("%s: %s: %w", g.name, path, os.ErrNotExist)
}

// Dial reaches the agent by its socket and the page by any TCP address.
func (g fakeGuest) Dial(_ context.Context, network, _, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.Machines[g.key]
	var handler http.Handler
	switch {
	case m == nil:
	case network == "unix" && address == "agent.sock" && m.Agent != "" && !m.exited[role.SubjectAgent]:
		handler = api.Handler(fakeAgent{fakeMachine: g.fakeMachine})
	case network == "tcp" && m.Page != "" && !m.exited[role.SubjectPage]:
		handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"name":%q}`, g.name)
		})
	}
	if handler == nil {
		return nil, fmt.Errorf("%s: connect to %s: connection refused", g.name, address)
	}
	near, far := net.Pipe()
	go func() { _ = http.Serve(&oneConnection{conn: far}, handler) }()
	return near, nil
}

// oneConnection is a listener that has one connection to give.
type oneConnection struct{ conn net.Conn }

func (l *oneConnection) Accept() (net.Conn, error) {
	conn := l.conn
	if conn == nil {
		return nil, net.ErrClosed
	}
	l.conn = nil
	return conn, nil
}

func (l *oneConnection) Close() error   { return nil }
func (l *oneConnection) Addr() net.Addr { return &net.UnixAddr{Name: "agent.sock", Net: "unix"} }

// fakeAgent is a balancer's agent that keeps its services in the machine.
type fakeAgent struct {
	api.Agent // the requests that nothing here makes
	fakeMachine
}

func (a fakeAgent) Status(context.Context) (api.Status, error) {
	return api.Status{AttachMode: "native", Interface: api.Interface{Name: "eth0"}}, nil
}

func (a fakeAgent) Counters(context.Context) (api.Counters, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var c api.Counters
	for id, s := range a.Machines[a.key].Services {
		sc := api.ServiceCounters{ID: id}
		for _, b := range s.Backends {
			sc.Backends = append(sc.Backends, api.BackendCounters{Address: b.Address, Traffic: api.Traffic{RxPackets: 7}})
		}
		c.Services = append(c.Services, sc)
	}
	return c, nil
}

func (a fakeAgent) Services(context.Context) ([]api.Service, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.Machines[a.key].Services)), nil
}

func (a fakeAgent) PutService(ctx context.Context, s api.Service) (api.Service, error) {
	err := a.do(ctx, fmt.Sprintf("PutService %d", s.ID), func() error {
		for id, other := range a.Machines[a.key].Services {
			if id != s.ID && other.Frontend == s.Frontend && other.Protocol == s.Protocol {
				return &api.Error{Field: "frontend", Message: fmt.Sprintf("service %d has it", id), Code: http.StatusConflict}
			}
		}
		a.Machines[a.key].Services[s.ID] = s
		return nil
	})
	return s, err
}

func (a fakeAgent) DeleteService(ctx context.Context, id uint32) error {
	return a.do(ctx, fmt.Sprintf("DeleteService %d", id), func() error {
		if _, ok := a.Machines[a.key].Services[id]; !ok {
			return &api.Error{Field: "id", Message: fmt.Sprintf("no service %d", id), Code: http.StatusNotFound}
		}
		delete(a.Machines[a.key].Services, id)
		return nil
	})
}

func (a fakeAgent) SetMode(ctx context.Context, u api.ModeUpdate) error {
	return a.do(ctx, "SetMode "+u.Mode, func() error {
		services := a.Machines[a.key].Services
		for id, s := range services {
			if u.ServiceID == 0 || u.ServiceID == id {
				s.Mode = u.Mode
				services[id] = s
			}
		}
		return nil
	})
}
