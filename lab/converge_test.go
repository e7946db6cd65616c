package lab_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"l4lab/lab/plan"
	"l4lab/lab/role"
	"l4lab/topology"
)

// converge is a lab that is up, and what is wanted of it next.
type converge struct {
	name string
	// drift is what happens to the lab behind labctl's back, want what the next
	// topology has other than the demo; either may be nil.
	drift func(s *site)
	want  func(t *topology.Topology)
}

// prepare brings the demo up and returns it with the topology that comes next.
func (c converge) prepare(t *testing.T) (*site, topology.Topology) {
	t.Helper()
	s := newSite(t)
	s.up(t)
	if c.drift != nil {
		c.drift(s)
	}
	top := topology.Default()
	if c.want != nil {
		c.want(&top)
	}
	return s, top
}

func setNode(t *topology.Topology, name string, change func(n *topology.Node)) {
	n := t.Nodes[name]
	change(&n)
	t.Nodes[name] = n
}

func removeNode(t *topology.Topology, name string) {
	delete(t.Nodes, name)
	t.Services[0].Backends = slices.DeleteFunc(t.Services[0].Backends, func(b string) bool { return b == name })
}

func addNode(t *topology.Topology, name, address string) {
	t.Nodes[name] = topology.Node{Role: topology.RoleBackend, OS: topology.Linux, Address: netip.MustParseAddr(address)}
	t.Services[0].Backends = append(t.Services[0].Backends, name)
}

func secondService() topology.Service {
	return topology.Service{
		ID: 2, VIP: netip.MustParseAddr("40.1.1.2"), Port: 443, Protocol: topology.TCP, Mode: topology.SNAT,
		TableSize: topology.DefaultTableSize, Backends: []string{"be2", "be3"},
	}
}

var converges = []converge{
	{name: "the mtu changes", want: func(t *topology.Topology) { t.Switch.MTU = 3000 }},
	{name: "a backend comes", want: func(t *topology.Topology) { addNode(t, "be5", "20.1.1.50") }},
	{name: "a backend goes", want: func(t *topology.Topology) { removeNode(t, "be4") }},
	{name: "two backends go", want: func(t *topology.Topology) { removeNode(t, "be1"); removeNode(t, "be4") }},
	{name: "one backend comes and one goes", want: func(t *topology.Topology) {
		removeNode(t, "be2")
		addNode(t, "be7", "20.1.1.70")
	}},
	{name: "a backend leaves the service and stays", want: func(t *topology.Topology) {
		t.Services[0].Backends = []string{"be1", "be2", "be3"}
	}},
	{name: "a backend's address changes", want: func(t *topology.Topology) {
		setNode(t, "be3", func(n *topology.Node) { n.Address = netip.MustParseAddr("20.1.1.33") })
	}},
	{name: "the balancer's address changes", want: func(t *topology.Topology) {
		setNode(t, "lb", func(n *topology.Node) { n.Address = netip.MustParseAddr("20.1.1.2") })
	}},
	{name: "the client's address changes", want: func(t *topology.Topology) { t.Client.Address = netip.MustParseAddr("20.1.1.101") }},
	{name: "the client is named otherwise", want: func(t *topology.Topology) { t.Client.Name = "browser" }},
	{name: "a backend's operating system changes", want: func(t *topology.Topology) {
		setNode(t, "be1", func(n *topology.Node) { n.OS = topology.Linux })
	}},
	{name: "the mode changes", want: func(t *topology.Topology) { t.Services[0].Mode = topology.SNAT }},
	{name: "the table's size changes", want: func(t *topology.Topology) { t.Services[0].TableSize = 251 }},
	{name: "a service comes", want: func(t *topology.Topology) { t.Services = append(t.Services, secondService()) }},
	{name: "one service comes and one goes", want: func(t *topology.Topology) { t.Services = []topology.Service{secondService()} }},
	{name: "a service's id changes", want: func(t *topology.Topology) { t.Services[0].ID = 9 }},
	{name: "the balancer is named otherwise", want: func(t *topology.Topology) {
		t.Nodes["balancer"] = t.Nodes["lb"]
		delete(t.Nodes, "lb")
	}},
	{name: "a machine vanished", drift: func(s *site) {
		s.world.mu.Lock()
		defer s.world.mu.Unlock()
		delete(s.Machines, "l4lb/be2")
	}},
	{name: "a decapsulation program was detached", drift: func(s *site) {
		s.change("l4lb/be3", func(m *machine) { m.Decap = "" })
	}},
	{name: "a web server exited and another mode is wanted", drift: func(s *site) {
		s.change("l4lb/be3", func(m *machine) { m.exited[role.SubjectPage] = true })
	}, want: func(t *topology.Topology) { t.Services[0].Mode = topology.SNAT }},
	{name: "the agent exited", drift: func(s *site) {
		s.change("l4lb/lb", func(m *machine) { m.exited[role.SubjectAgent] = true })
	}},
	{name: "the agent exited and a service comes", drift: func(s *site) {
		s.change("l4lb/lb", func(m *machine) { m.exited[role.SubjectAgent] = true })
	}, want: func(t *topology.Topology) { t.Services = append(t.Services, secondService()) }},
	{name: "the agent exited and a service goes", drift: withoutAgentOfTwo},
	{name: "the agent exited and a service goes whose frontend another one gets", drift: withoutAgentOfTwo, want: func(t *topology.Topology) {
		other := secondService()
		other.ID = 3
		t.Services = append(t.Services, other)
	}},
}

// withoutAgentOfTwo is what a lab of two services is when its agent exits: they are in the data path.
func withoutAgentOfTwo(s *site) {
	top := topology.Default()
	top.Services = append(top.Services, secondService())
	if _, err := s.lab().Up(context.Background(), top, upOptions); err != nil {
		panic(err)
	}
	s.change("l4lb/lb", func(m *machine) { m.exited[role.SubjectAgent] = true })
}

// What is there after a change is what a fresh up of the same topology makes.
func TestUpConverges(t *testing.T) {
	for _, c := range converges {
		t.Run("when "+c.name, func(t *testing.T) {
			s, top := c.prepare(t)
			steps, err := s.lab().Up(t.Context(), top, upOptions)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Changes(steps)) == 0 {
				t.Fatal("nothing was to be done")
			}
			s.like(t, fresh(t, top))
			s.forget()
			if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil || len(s.called()) > 0 {
				t.Errorf("a further up did %v, %v", s.called(), err)
			}
		})
	}
}

// fresh is a lab that was made from a topology at once.
func fresh(t *testing.T, top topology.Topology) *site {
	t.Helper()
	s := newSite(t)
	if _, err := s.lab().Up(t.Context(), top, upOptions); err != nil {
		t.Fatal(err)
	}
	return s
}

// like fails when a lab is not what the other one is.
func (s *site) like(t *testing.T, other *site) {
	t.Helper()
	same(t, "against a fresh lab, the world", s.text(), other.text())
	same(t, "against a fresh lab, the state", s.essence(t), other.essence(t))
}
