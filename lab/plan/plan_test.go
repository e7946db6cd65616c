package plan_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/topology"
)

// program is the hash of the agent's binary; specs show its first 12 digits.
const program = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// asWanted is what is found of a lab that is wholly up.
func asWanted(t topology.Topology) plan.Found {
	f := plan.Found{Actual: provider.Actual{Switch: &provider.SwitchState{MTU: t.Switch.MTU}, Machines: map[string]provider.MachineState{}}}
	for _, name := range t.MachineNames() {
		address, _ := t.Address(name)
		m := provider.MachineState{Prefix: netip.PrefixFrom(address, t.Switch.Subnet.Bits()), MTU: t.Switch.MTU}
		switch t.Nodes[name].Role {
		case topology.RoleLoadBalancer:
			m.Facts.Agent = role.Present{Spec: role.Agent{Address: address, Hash: program}.Spec(), PID: 100}
		case topology.RoleBackend:
			page := role.PageOf(t, name)
			page.Hash = program
			decap := role.Decap{Hook: role.HookOf(t.Nodes[name].OS), Address: address, Balancer: t.Nodes[t.LoadBalancer()].Address, Hash: program}
			m.Facts.VIPs = role.VIPsOf(t, name)
			m.Facts.Page = role.Present{Spec: page.Spec(), PID: 200}
			m.Facts.Decap = role.Present{Spec: decap.Spec()}
		default:
			m.Facts.Routes = role.RoutesOf(t)
		}
		f.Machines[name] = m
	}
	for _, s := range t.Services {
		f.Services = append(f.Services, plan.ServiceOf(t, s))
	}
	return f
}

// short is a step as one line: "create page/be1: why".
func short(steps []plan.Step) []string {
	var lines []string
	for _, s := range steps {
		lines = append(lines, fmt.Sprintf("%s %s: %s", s.Action, s.ID, s.Reason))
	}
	return lines
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("planned:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// sound checks what must hold of every plan: the needs exist and come first,
// so that there is no circle and the steps could run one by one; IDs are unique;
// machines are removed after everything else.
func sound(t *testing.T, steps []plan.Step) {
	t.Helper()
	seen := map[string]bool{}
	removing := false
	for _, s := range steps {
		for _, need := range s.Needs {
			if !seen[need] {
				t.Errorf("%s needs %s, which does not stand before it", s.ID, need)
			}
		}
		if seen[s.ID] {
			t.Errorf("%s stands twice", s.ID)
		}
		seen[s.ID] = true
		if s.Reason == "" || s.Kind == "" || s.Machine == "" && s.Kind != plan.Switch {
			t.Errorf("%+v lacks a reason, kind or machine", s)
		}
		gone := s.Kind == plan.Node && s.Action == plan.Remove && !strings.HasPrefix(s.Reason, "its address goes to")
		if removing && !gone {
			t.Errorf("%s %s comes after the removal of a machine", s.Action, s.ID)
		}
		removing = removing || gone
	}
}

func TestPlanOfAFreshLab(t *testing.T) {
	var got []string
	steps := plan.Build(plan.Wanted{Topology: topology.Default(), Programs: both(program)}, plan.Found{})
	for _, s := range steps {
		got = append(got, fmt.Sprintf("%s %s %s on %q service %d: %s; needs %s", s.Action, s.Kind, s.ID, s.Machine, s.Service, s.Reason, strings.Join(s.Needs, " ")))
	}
	sound(t, steps)
	equal(t, got, []string{
		`create switch switch on "" service 0: internal switch, subnet 20.1.1.0/24, mtu 1500; needs `,
		`create node node/lb on "lb" service 0: address 20.1.1.1/24, mtu 1500; needs switch`,
		`create node node/be1 on "be1" service 0: address 20.1.1.10/24, mtu 1500; needs switch`,
		`create node node/be2 on "be2" service 0: address 20.1.1.20/24, mtu 1500; needs switch`,
		`create node node/be3 on "be3" service 0: address 20.1.1.30/24, mtu 1500; needs switch`,
		`create node node/be4 on "be4" service 0: address 20.1.1.40/24, mtu 1500; needs switch`,
		`create node node/client on "client" service 0: address 20.1.1.100/24, mtu 1500; needs switch`,
		`create agent agent/lb on "lb" service 0: address 20.1.1.1 program 0123456789ab; needs node/lb`,
		`create vip vip/be1 on "be1" service 0: 40.1.1.1; needs node/be1`,
		`create decap decap/be1 on "be1" service 0: xdp address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab; needs node/be1`,
		`create page page/be1 on "be1" service 0: be1 windows 20.1.1.10 tcp 80 udp - program 0123456789ab; needs node/be1`,
		`create vip vip/be2 on "be2" service 0: 40.1.1.1; needs node/be2`,
		`create decap decap/be2 on "be2" service 0: xdp address 20.1.1.20 balancer 20.1.1.1 program 0123456789ab; needs node/be2`,
		`create page page/be2 on "be2" service 0: be2 windows 20.1.1.20 tcp 80 udp - program 0123456789ab; needs node/be2`,
		`create vip vip/be3 on "be3" service 0: 40.1.1.1; needs node/be3`,
		`create decap decap/be3 on "be3" service 0: tc address 20.1.1.30 balancer 20.1.1.1 program 0123456789ab; needs node/be3`,
		`create page page/be3 on "be3" service 0: be3 linux 20.1.1.30 tcp 80 udp - program 0123456789ab; needs node/be3`,
		`create vip vip/be4 on "be4" service 0: 40.1.1.1; needs node/be4`,
		`create decap decap/be4 on "be4" service 0: tc address 20.1.1.40 balancer 20.1.1.1 program 0123456789ab; needs node/be4`,
		`create page page/be4 on "be4" service 0: be4 linux 20.1.1.40 tcp 80 udp - program 0123456789ab; needs node/be4`,
		`create route route/client on "client" service 0: 40.1.1.1 via 20.1.1.1 mtu 1480; needs node/client`,
		`create service service/1 on "lb" service 1: 40.1.1.1:80/tcp dsr, backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80; ` +
			`needs agent/lb vip/be1 decap/be1 page/be1 vip/be2 decap/be2 page/be2 vip/be3 decap/be3 page/be3 vip/be4 decap/be4 page/be4`,
	})
}

func TestPlanOfALabThatIsAsWanted(t *testing.T) {
	top := topology.Default()
	steps := plan.Build(plan.Wanted{Topology: top, Programs: both(program)}, asWanted(top))
	sound(t, steps)
	if changes := plan.Changes(steps); len(changes) > 0 {
		t.Errorf("there is something to do: %q", short(changes))
	}
	if len(steps) != 22 {
		t.Errorf("%d steps are listed, want all 22", len(steps))
	}
	for _, s := range steps {
		if s.Action != plan.Keep || s.Reason != "as wanted" {
			t.Errorf("%s: %s %q", s.ID, s.Action, s.Reason)
		}
	}
}

// edit changes a machine of what was found.
func edit(f *plan.Found, machine string, change func(m *provider.MachineState)) {
	m := f.Machines[machine]
	change(&m)
	f.Machines[machine] = m
}

func TestPlanOfAChange(t *testing.T) {
	addBackend := func(top *topology.Topology) {
		top.Nodes["be10"] = topology.Node{Role: topology.RoleBackend, OS: topology.Linux, Address: addr("20.1.1.50")}
		top.Services[0].Backends = append(top.Services[0].Backends, "be10")
	}
	cases := []struct {
		name string
		// want changes the topology that is wanted, found what is there of the
		// demo as it was; program is another hash than the one that runs.
		want    func(t *topology.Topology)
		found   func(f *plan.Found)
		program string
		changes []string
	}{
		{
			name: "another mtu changes the switch, and routes keep room for the outer header",
			want: func(t *topology.Topology) { t.Switch.MTU = 3000 },
			found: func(f *plan.Found) {
				edit(f, "client", func(m *provider.MachineState) { m.Faults = []string{"mtu 1500 -> 3000", "port mtu 1500 -> 3000"} })
			},
			changes: []string{
				"change switch: mtu 1500 -> 3000",
				"change node/client: mtu 1500 -> 3000; port mtu 1500 -> 3000",
				"change route/client: 40.1.1.1 via 20.1.1.1 mtu 1480 -> 40.1.1.1 via 20.1.1.1 mtu 2980",
			},
		},
		{
			name: "another address of a backend reaches all that names it",
			want: func(t *topology.Topology) {
				n := t.Nodes["be3"]
				n.Address = addr("20.1.1.33")
				t.Nodes["be3"] = n
			},
			found: func(f *plan.Found) {
				edit(f, "be3", func(m *provider.MachineState) { m.Faults = []string{"address 20.1.1.30/24 -> 20.1.1.33/24"} })
			},
			changes: []string{
				"change node/be3: address 20.1.1.30/24 -> 20.1.1.33/24",
				"change vip/be3: its machine changes",
				"change decap/be3: tc address 20.1.1.30 balancer 20.1.1.1 program 0123456789ab -> tc address 20.1.1.33 balancer 20.1.1.1 program 0123456789ab",
				"change page/be3: be3 linux 20.1.1.30 tcp 80 udp - program 0123456789ab -> be3 linux 20.1.1.33 tcp 80 udp - program 0123456789ab",
				"change service/1: backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80, 20.1.1.20:80, 20.1.1.33:80, 20.1.1.40:80",
			},
		},
		{
			name: "another address of the balancer reaches every backend and the client",
			want: func(t *topology.Topology) {
				n := t.Nodes["lb"]
				n.Address = addr("20.1.1.2")
				t.Nodes["lb"] = n
				delete(t.Nodes, "be2")
				delete(t.Nodes, "be3")
				delete(t.Nodes, "be4")
				t.Services[0].Backends = []string{"be1"}
			},
			found: func(f *plan.Found) {
				edit(f, "lb", func(m *provider.MachineState) { m.Faults = []string{"address 20.1.1.1/24 -> 20.1.1.2/24"} })
				for _, name := range []string{"be2", "be3", "be4"} {
					delete(f.Machines, name)
				}
				f.Services[0].Backends = f.Services[0].Backends[:1]
			},
			changes: []string{
				"change node/lb: address 20.1.1.1/24 -> 20.1.1.2/24",
				"change agent/lb: address 20.1.1.1 program 0123456789ab -> address 20.1.1.2 program 0123456789ab",
				"change decap/be1: xdp address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab -> xdp address 20.1.1.10 balancer 20.1.1.2 program 0123456789ab",
				"change route/client: 40.1.1.1 via 20.1.1.1 mtu 1480 -> 40.1.1.1 via 20.1.1.2 mtu 1480",
				"change service/1: its machine changes",
			},
		},
		{
			name: "a new backend is made before the service sends to it", want: addBackend,
			changes: []string{
				"create node/be10: address 20.1.1.50/24, mtu 1500",
				"create vip/be10: 40.1.1.1",
				"create decap/be10: tc address 20.1.1.50 balancer 20.1.1.1 program 0123456789ab",
				"create page/be10: be10 linux 20.1.1.50 tcp 80 udp - program 0123456789ab",
				"change service/1: backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80, 20.1.1.50:80",
			},
		},
		{
			name: "a backend that is gone leaves the service first and goes last",
			want: func(t *topology.Topology) {
				delete(t.Nodes, "be2")
				t.Services[0].Backends = []string{"be1", "be3", "be4"}
			},
			changes: []string{
				"change service/1: backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80, 20.1.1.30:80, 20.1.1.40:80",
				"remove node/be2: not in the topology",
			},
		},
		{
			name: "several that are gone go in order of their numbers",
			found: func(f *plan.Found) {
				f.Machines["x10"], f.Machines["x9"] = provider.MachineState{}, provider.MachineState{}
			},
			changes: []string{"remove node/x9: not in the topology", "remove node/x10: not in the topology"},
		},
		{
			name: "a backend that leaves the service and stays gives the VIP back",
			want: func(t *topology.Topology) { t.Services[0].Backends = []string{"be1", "be2", "be3"} },
			changes: []string{
				"change service/1: backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80",
				"remove vip/be4: 40.1.1.1",
			},
		},
		{
			name: "a machine that is renamed goes before its heir comes",
			want: func(t *topology.Topology) {
				t.Nodes["web"] = t.Nodes["be4"]
				delete(t.Nodes, "be4")
				t.Services[0].Backends = []string{"be1", "be2", "be3", "web"}
			},
			changes: []string{
				"remove node/be4: its address goes to web",
				"create node/web: address 20.1.1.40/24, mtu 1500",
				"create vip/web: 40.1.1.1",
				"create decap/web: tc address 20.1.1.40 balancer 20.1.1.1 program 0123456789ab",
				"create page/web: web linux 20.1.1.40 tcp 80 udp - program 0123456789ab",
			},
		},
		{
			name: "services that swap their frontends give them up first",
			found: func(f *plan.Found) {
				other := f.Services[0]
				other.ID, other.Frontend = 2, netip.MustParseAddrPort("40.1.1.1:81")
				f.Services = append(f.Services, other)
				for _, name := range []string{"be1", "be2", "be3", "be4"} {
					edit(f, name, func(m *provider.MachineState) {
						m.Facts.Page.Spec = strings.Replace(m.Facts.Page.Spec, "tcp 80", "tcp 80,81", 1)
					})
				}
			},
			want: func(t *topology.Topology) {
				t.Services = append(t.Services, t.Services[0])
				t.Services[0].Port, t.Services[1].ID = 81, 2
			},
			changes: []string{
				"remove service/1/release: its frontend goes to service 2",
				"remove service/2/release: its frontend goes to service 1",
				"create service/1: 40.1.1.1:81/tcp dsr, backends 20.1.1.10:81, 20.1.1.20:81, 20.1.1.30:81, 20.1.1.40:81",
				"create service/2: 40.1.1.1:80/tcp dsr, backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80",
			},
		},
		{
			name: "machines that swap their roles lose what the former one put on them",
			want: func(t *topology.Topology) {
				lb, be := t.Nodes["lb"], t.Nodes["be1"]
				lb.Role, be.Role = be.Role, lb.Role
				t.Nodes["lb"], t.Nodes["be1"] = lb, be
				t.Services[0].Backends = []string{"be2"}
				delete(t.Nodes, "be3")
				delete(t.Nodes, "be4")
			},
			changes: []string{
				"remove decap/be1: it is no backend any more",
				"remove page/be1: it is no backend any more",
				"remove vip/be1: it is no backend any more",
				"remove agent/lb: it is no load balancer any more",
				"create agent/be1: address 20.1.1.10 program 0123456789ab",
				"change decap/be2: xdp address 20.1.1.20 balancer 20.1.1.1 program 0123456789ab -> xdp address 20.1.1.20 balancer 20.1.1.10 program 0123456789ab",
				"create decap/lb: xdp address 20.1.1.1 balancer 20.1.1.10 program 0123456789ab",
				"create page/lb: lb windows 20.1.1.1 tcp 80 udp - program 0123456789ab",
				"change route/client: 40.1.1.1 via 20.1.1.1 mtu 1480 -> 40.1.1.1 via 20.1.1.10 mtu 1480",
				"change service/1: backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.20:80",
				"remove node/be3: not in the topology",
				"remove node/be4: not in the topology",
			},
		},
		{
			name: "another operating system brings its hook and its page",
			want: func(t *topology.Topology) {
				n := t.Nodes["be1"]
				n.OS = topology.Linux
				t.Nodes["be1"] = n
			},
			changes: []string{
				"change decap/be1: xdp address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab -> tc address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab",
				"change page/be1: be1 windows 20.1.1.10 tcp 80 udp - program 0123456789ab -> be1 linux 20.1.1.10 tcp 80 udp - program 0123456789ab",
			},
		},
		{
			name:    "another mode changes the service alone",
			want:    func(t *topology.Topology) { t.Services[0].Mode = topology.SNAT },
			changes: []string{"change service/1: mode dsr -> snat"},
		},
		{
			name:    "another table size changes the service alone",
			want:    func(t *topology.Topology) { t.Services[0].TableSize = 251 },
			changes: []string{"change service/1: table size 16381 -> 251"},
		},
		{
			name:    "a table size that is left out is the default",
			want:    func(t *topology.Topology) { t.Services[0].TableSize = 0 },
			changes: nil,
		},
		{
			name:    "the order of backends means nothing",
			want:    func(t *topology.Topology) { slices.Reverse(t.Services[0].Backends) },
			changes: nil,
		},
		{
			name: "another port changes the pages and the service",
			want: func(t *topology.Topology) {
				t.Services[0].Port = 8080
				t.Services[0].Backends = []string{"be1"}
			},
			found: func(f *plan.Found) {
				f.Services[0].Backends = f.Services[0].Backends[:1]
				for _, name := range []string{"be2", "be3", "be4"} {
					edit(f, name, func(m *provider.MachineState) { m.Facts.VIPs = nil })
				}
			},
			changes: []string{
				"change page/be1: be1 windows 20.1.1.10 tcp 80 udp - program 0123456789ab -> be1 windows 20.1.1.10 tcp 8080 udp - program 0123456789ab",
				"change service/1: frontend 40.1.1.1:80 -> 40.1.1.1:8080; backends 20.1.1.10:80 -> 20.1.1.10:8080",
			},
		},
		{
			name: "a new service brings its VIP to its backends and its route to the client",
			want: func(t *topology.Topology) {
				t.Services = append(t.Services, topology.Service{ID: 7, VIP: addr("40.1.1.2"), Port: 53, Protocol: topology.UDP, Mode: topology.SNAT, TableSize: 251, Backends: []string{"be3"}})
			},
			changes: []string{
				"change vip/be3: 40.1.1.1 -> 40.1.1.1, 40.1.1.2",
				"change page/be3: be3 linux 20.1.1.30 tcp 80 udp - program 0123456789ab -> be3 linux 20.1.1.30 tcp 80 udp 53 program 0123456789ab",
				"change route/client: 40.1.1.1 via 20.1.1.1 mtu 1480 -> 40.1.1.1 via 20.1.1.1 mtu 1480, 40.1.1.2 via 20.1.1.1 mtu 1480",
				"create service/7: 40.1.1.2:53/udp snat, backends 20.1.1.30:53",
			},
		},
		{
			name: "services that are gone are removed, in order of their numbers",
			found: func(f *plan.Found) {
				f.Services = append([]api.Service{{ID: 10}, {ID: 9}}, f.Services...)
			},
			changes: []string{"remove service/9: not in the topology", "remove service/10: not in the topology"},
		},
		{
			name: "a service that takes the frontend of one that is gone comes after it",
			want: func(t *topology.Topology) { t.Services[0].ID = 9 },
			changes: []string{
				"remove service/1: not in the topology",
				"create service/9: 40.1.1.1:80/tcp dsr, backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80",
			},
		},
		{
			name: "another program restarts everything that was made from the old one", program: strings.Repeat("f", 64),
			want: func(t *topology.Topology) {
				for _, name := range []string{"be2", "be3", "be4"} {
					delete(t.Nodes, name)
				}
				t.Services[0].Backends = []string{"be1"}
			},
			found: func(f *plan.Found) {
				for _, name := range []string{"be2", "be3", "be4"} {
					delete(f.Machines, name)
				}
				f.Services[0].Backends = f.Services[0].Backends[:1]
			},
			changes: []string{
				"change agent/lb: address 20.1.1.1 program 0123456789ab -> address 20.1.1.1 program ffffffffffff",
				"change decap/be1: xdp address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab -> xdp address 20.1.1.10 balancer 20.1.1.1 program ffffffffffff",
				"change page/be1: be1 windows 20.1.1.10 tcp 80 udp - program 0123456789ab -> be1 windows 20.1.1.10 tcp 80 udp - program ffffffffffff",
			},
		},
		{
			name: "a web server that exited is started again",
			found: func(f *plan.Found) {
				edit(f, "be2", func(m *provider.MachineState) { m.Facts.Page = role.Present{PID: 200, Fault: "exited"} })
			},
			changes: []string{"change page/be2: exited; be2 windows 20.1.1.20 tcp 80 udp - program 0123456789ab"},
		},
		{
			name: "an agent that exited is started again and told its services again",
			found: func(f *plan.Found) {
				edit(f, "lb", func(m *provider.MachineState) { m.Facts.Agent = role.Present{PID: 100, Fault: "exited"} })
				f.Services = nil // nobody answers
			},
			changes: []string{
				"change agent/lb: exited; address 20.1.1.1 program 0123456789ab",
				"create service/1: 40.1.1.1:80/tcp dsr, backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80",
			},
		},
		{
			name: "an agent whose program is detached is started again",
			found: func(f *plan.Found) {
				edit(f, "lb", func(m *provider.MachineState) { m.Facts.Agent.Fault = "its program is detached" })
			},
			changes: []string{"change agent/lb: its program is detached; address 20.1.1.1 program 0123456789ab"},
		},
		{
			name: "a decapsulation program that was detached is attached again",
			found: func(f *plan.Found) {
				edit(f, "be3", func(m *provider.MachineState) { m.Facts.Decap = role.Present{} })
			},
			changes: []string{"create decap/be3: tc address 20.1.1.30 balancer 20.1.1.1 program 0123456789ab"},
		},
		{
			name:  "a machine that is missing is made again with all that stands on it",
			found: func(f *plan.Found) { delete(f.Machines, "be1") },
			changes: []string{
				"create node/be1: address 20.1.1.10/24, mtu 1500",
				"create vip/be1: 40.1.1.1",
				"create decap/be1: xdp address 20.1.1.10 balancer 20.1.1.1 program 0123456789ab",
				"create page/be1: be1 windows 20.1.1.10 tcp 80 udp - program 0123456789ab",
			},
		},
		{
			name: "what stands on a machine that changes is looked at again",
			found: func(f *plan.Found) {
				edit(f, "be1", func(m *provider.MachineState) { m.Faults = []string{"eth0 is missing"} })
				edit(f, "client", func(m *provider.MachineState) { m.Faults = []string{"eth0 is down"} })
				edit(f, "lb", func(m *provider.MachineState) { m.Faults = []string{"neighbours: 1 missing, 0 wrong, 0 too many"} })
			},
			changes: []string{
				"change node/lb: neighbours: 1 missing, 0 wrong, 0 too many",
				"change node/be1: eth0 is missing",
				"change node/client: eth0 is down",
				"change agent/lb: its machine changes",
				"change vip/be1: its machine changes",
				"change decap/be1: its machine changes",
				"change page/be1: its machine changes",
				"change route/client: its machine changes",
				"change service/1: its machine changes",
			},
		},
		{
			name: "a VIP that somebody took off comes back, one that somebody added goes",
			found: func(f *plan.Found) {
				edit(f, "be1", func(m *provider.MachineState) { m.Facts.VIPs = nil })
				edit(f, "be2", func(m *provider.MachineState) { m.Facts.VIPs = append(m.Facts.VIPs, addr("40.9.9.9")) })
			},
			changes: []string{"create vip/be1: 40.1.1.1", "change vip/be2: 40.1.1.1, 40.9.9.9 -> 40.1.1.1"},
		},
		{
			name: "a route that somebody removed comes back",
			found: func(f *plan.Found) {
				edit(f, "client", func(m *provider.MachineState) { m.Facts.Routes = nil })
			},
			changes: []string{"create route/client: 40.1.1.1 via 20.1.1.1 mtu 1480"},
		},
		{
			name:    "a switch that is missing is made again",
			found:   func(f *plan.Found) { f.Switch = nil },
			changes: []string{"create switch: internal switch, subnet 20.1.1.0/24, mtu 1500"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			found := asWanted(topology.Default())
			if c.found != nil {
				c.found(&found)
			}
			want := plan.Wanted{Topology: topology.Default(), Programs: both(program)}
			if c.want != nil {
				c.want(&want.Topology)
			}
			if c.program != "" {
				want.Programs = both(c.program)
			}
			steps := plan.Build(want, found)
			sound(t, steps)
			equal(t, short(plan.Changes(steps)), c.changes)
		})
	}
}

// What a service sends to must stand before it does: else the first packets
// would meet a backend that drops them.
func TestServiceNeedsAllThatItsBackendsNeed(t *testing.T) {
	top := topology.Default()
	top.Services[0].Backends = []string{"be4", "be1"}
	steps := plan.Build(plan.Wanted{Topology: top, Programs: both(program)}, plan.Found{})
	last := steps[len(steps)-1]
	want := []string{"agent/lb", "decap/be1", "decap/be4", "page/be1", "page/be4", "vip/be1", "vip/be4"}
	if got := slices.Sorted(slices.Values(last.Needs)); last.ID != "service/1" || !slices.Equal(got, want) {
		t.Errorf("%s needs %v, want service/1 to need %v", last.ID, got, want)
	}
}

func TestServiceWaitsForItsFrontend(t *testing.T) {
	top := topology.Default()
	top.Services[0].ID = 9
	found := asWanted(topology.Default())
	other := found.Services[0]
	other.ID, other.Frontend = 2, netip.MustParseAddrPort("40.1.1.2:80")
	found.Services = append(found.Services, other)
	steps := plan.Build(plan.Wanted{Topology: top, Programs: both(program)}, found)
	last := steps[len(steps)-1]
	if last.ID != "service/9" || !slices.Contains(last.Needs, "service/1") || slices.Contains(last.Needs, "service/2") {
		t.Errorf("%s needs %v, want service/9 to need service/1 and not service/2", last.ID, last.Needs)
	}
}

// A machine that goes takes with it what cannot be brought back, so all else
// must have succeeded before.
func TestRemovalOfAMachineNeedsEverythingElse(t *testing.T) {
	found := asWanted(topology.Default())
	found.Machines["old"] = provider.MachineState{}
	steps := plan.Build(plan.Wanted{Topology: topology.Default(), Programs: both(program)}, found)
	last := steps[len(steps)-1]
	if last.ID != "node/old" || last.Action != plan.Remove {
		t.Fatalf("the last step is %s %s", last.Action, last.ID)
	}
	for _, s := range steps[:len(steps)-1] {
		if !slices.Contains(last.Needs, s.ID) {
			t.Errorf("the removal does not need %s", s.ID)
		}
	}
}

// Maps are walked in any order; the plan must not be.
func TestPlanIsTheSameEachTime(t *testing.T) {
	top := topology.Default()
	top.Services[0].Backends = []string{"be3"}
	build := func() string {
		found := asWanted(topology.Default())
		for i := range uint32(20) {
			found.Machines[fmt.Sprintf("old%d", i)] = provider.MachineState{}
			found.Services = append(found.Services, api.Service{ID: 100 + i})
		}
		data, err := json.Marshal(plan.Build(plan.Wanted{Topology: top, Programs: both(program)}, found))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := build()
	for range 20 {
		if again := build(); again != first {
			t.Fatalf("two plans of the same lab:\n%s\n%s", first, again)
		}
	}
}

// Scripts read `labctl up --dry-run -o json`: names and omissions are a promise.
func TestJSON(t *testing.T) {
	cases := []struct {
		name string
		step plan.Step
		want string
	}{
		{
			"the switch has no machine, service or needs",
			plan.Step{ID: "switch", Kind: plan.Switch, Action: plan.Keep, Reason: "as wanted"},
			`{"id":"switch","kind":"switch","action":"unchanged","reason":"as wanted"}`,
		},
		{
			"a service has all",
			plan.Step{ID: "service/7", Kind: plan.Service, Action: plan.Create, Machine: "lb", Service: 7, Reason: "why", Needs: []string{"agent/lb"}},
			`{"id":"service/7","kind":"service","action":"create","machine":"lb","service":7,"reason":"why","needs":["agent/lb"]}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := json.Marshal(c.step)
			if err != nil || string(got) != c.want {
				t.Errorf("%s, %v; want %s", got, err, c.want)
			}
			var back plan.Step
			if err := json.Unmarshal(got, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(c.step) {
				t.Errorf("read back as %+v, %v", back, err)
			}
		})
	}
}

func TestDifference(t *testing.T) {
	top := topology.Default()
	have := plan.ServiceOf(top, top.Services[0])
	if got := plan.Difference(have, have); got != "" {
		t.Errorf("a service differs from itself: %q", got)
	}
	want := have
	want.Mode, want.Protocol, want.Backends = "snat", "udp", have.Backends[:1]
	const text = "protocol tcp -> udp; mode dsr -> snat; backends 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80"
	if got := plan.Difference(have, want); got != text {
		t.Errorf("Difference = %q, want %q", got, text)
	}
}

// Somebody has set what no topology says.
func TestDifferenceNamesWhatALabsServicesNeverHave(t *testing.T) {
	top := topology.Default()
	want := plan.ServiceOf(top, top.Services[0])
	have := want
	have.Encap, have.Affinity, have.MSS = "l2", api.Duration(time.Minute), 1400
	have.Backends = slices.Clone(want.Backends)
	have.Backends[0].State = "draining"
	const text = "encapsulation l2 -> ipip; affinity 1m0s -> 0s; MSS 1400 -> 0; " +
		"backends 20.1.1.10:80(draining), 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80 -> 20.1.1.10:80, 20.1.1.20:80, 20.1.1.30:80, 20.1.1.40:80"
	if got := plan.Difference(have, want); got != text {
		t.Errorf("Difference = %q, want %q", got, text)
	}
	// An agent that leaves out what is as usual means the same.
	have = want
	have.Encap, have.Selection = "", ""
	if got := plan.Difference(have, want); got != "" {
		t.Errorf("Difference = %q", got)
	}
}

// both returns a program's hash for the nodes of either system.
func both(hash string) map[topology.OS]string {
	return map[topology.OS]string{topology.Linux: hash, topology.Windows: hash}
}
