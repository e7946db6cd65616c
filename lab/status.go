package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/lab/state"
	"l4lab/topology"
)

// Status is what `labctl status` shows.
type Status struct {
	Name     string `json:"name"`
	Provider string `json:"provider"`
	// Simulated says that no machine of the lab is a real one.
	Simulated bool        `json:"simulated,omitempty"`
	Phase     state.Phase `json:"phase"`
	// Healthy says that every node and service is as it should be.
	Healthy  bool            `json:"healthy"`
	Nodes    []NodeStatus    `json:"nodes"`
	Services []ServiceStatus `json:"services"`
}

// NodeState is whether a machine is there.
type NodeState string

// The states of a machine.
const (
	NodeUp      NodeState = "up"
	NodeMissing NodeState = "missing"
	// NodeFaulty is a machine whose link or address is not as it should be.
	NodeFaulty NodeState = "faulty"
)

// NodeStatus is one machine.
type NodeStatus struct {
	Name string        `json:"name"`
	Role topology.Role `json:"role"`
	OS   topology.OS   `json:"os"`
	// Emulated says that the node only stands in for its operating system.
	Emulated bool       `json:"emulated"`
	Address  netip.Addr `json:"address"`
	State    NodeState  `json:"state"`
	Healthy  bool       `json:"healthy"`
	// Health says what was found: "page answers; xdp decapsulation attached".
	Health string `json:"health"`
	// Machine is what the node runs on, where that is a machine of its own: "kvm,
	// Linux 6.1.0-50-cloud-amd64".
	Machine string `json:"machine,omitempty"`
	// PIDs are the node's daemons.
	PIDs map[string]int `json:"pids,omitempty"`
}

// ServiceStatus is one virtual service as the agent has it.
type ServiceStatus struct {
	ID       uint32         `json:"id"`
	Frontend netip.AddrPort `json:"frontend"`
	Protocol string         `json:"protocol"`
	// Mode is the one in force.
	Mode     string          `json:"mode"`
	Healthy  bool            `json:"healthy"`
	Health   string          `json:"health"`
	Backends []BackendStatus `json:"backends"`
}

// BackendStatus is one backend of a service with its counters.
type BackendStatus struct {
	Node    string         `json:"node"`
	Address netip.AddrPort `json:"address"`
	api.Traffic
}

// healthLimit bounds each node's health check where the provider says nothing.
const healthLimit = 2 * time.Second

func lookLimit(d provider.Driver) time.Duration {
	if d.Look > 0 {
		return d.Look
	}
	return healthLimit
}

// Status looks at every node and asks the agent.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	r, err := l.load()
	if err != nil {
		return Status{}, err
	}
	actual, err := r.driver.Observe(ctx, r.lab)
	if err != nil {
		return Status{}, fmt.Errorf("look at lab %s: %w", l.name, err)
	}
	st := Status{Name: l.name, Provider: r.driver.Name, Simulated: r.driver.Simulated, Phase: r.state.Phase}
	t := r.state.Topology
	st.Nodes = make([]NodeStatus, len(t.MachineNames()))
	var wg sync.WaitGroup
	for i, name := range t.MachineNames() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, lookLimit(r.driver))
			defer cancel()
			st.Nodes[i] = nodeStatus(ctx, r, actual, name)
		})
	}
	wg.Wait()
	st.Services = l.serviceStatus(ctx, r)
	st.Healthy = actual.Switch != nil && st.Phase == state.Up &&
		!slices.ContainsFunc(st.Nodes, func(n NodeStatus) bool { return !n.Healthy }) &&
		!slices.ContainsFunc(st.Services, func(s ServiceStatus) bool { return !s.Healthy })
	return st, nil
}

func nodeStatus(ctx context.Context, r running, actual provider.Actual, name string) NodeStatus {
	t := r.state.Topology
	n := NodeStatus{Name: name, Role: topology.RoleClient, OS: cmp.Or(r.driver.Client, topology.Linux), State: NodeUp}
	n.Address, _ = t.Address(name)
	if node, ok := t.Nodes[name]; ok {
		n.Role, n.OS = node.Role, node.OS
		n.Emulated = r.driver.Emulated(r.state.Topology, node.OS)
	}
	m, exists := actual.Machines[name]
	switch {
	case !exists:
		n.State, n.Health = NodeMissing, "missing; `labctl up` makes it again"
		return n
	case len(m.Faults) > 0:
		n.State, n.Health = NodeFaulty, m.Faults[0]
		return n
	}
	n.Machine = m.About
	if m.Facts.Kernel != "" {
		n.Machine = strings.TrimPrefix(m.About+", Linux "+m.Facts.Kernel, ", ")
	}
	for daemon, p := range map[string]role.Present{"agent": m.Facts.Agent, "web": m.Facts.Page} {
		if p.PID != 0 && p.Spec != "" {
			if n.PIDs == nil {
				n.PIDs = map[string]int{}
			}
			n.PIDs[daemon] = p.PID
		}
	}
	switch n.Role {
	case topology.RoleLoadBalancer:
		n.Healthy, n.Health = agentHealth(ctx, r, m.Facts.Agent)
	case topology.RoleBackend:
		n.Healthy, n.Health = backendHealth(ctx, r, name, m.Facts)
	default:
		n.Healthy, n.Health = true, "routes to the VIPs"
		if len(m.Facts.Routes) != len(role.RoutesOf(t)) {
			n.Healthy, n.Health = false, "a route to a VIP is missing; `labctl up` adds it"
		}
	}
	return n
}

func agentHealth(ctx context.Context, r running, p role.Present) (bool, string) {
	if p.Fault != "" {
		return false, "agent: " + p.Fault
	}
	if p.Spec == "" {
		return false, "no agent; `labctl up` starts it"
	}
	agent, err := agentOf(r.driver, r.lab)
	if err != nil {
		return false, err.Error()
	}
	s, err := agent.Status(ctx)
	if err != nil {
		return false, fmt.Sprintf("agent does not answer: %v", err)
	}
	return true, fmt.Sprintf("agent answers; XDP %s on %s", s.AttachMode, s.Interface.Name)
}

func backendHealth(ctx context.Context, r running, name string, f role.Facts) (bool, string) {
	hook := role.HookOf(r.state.Topology.Nodes[name].OS)
	switch {
	case f.Page.Fault != "":
		return false, "page: " + f.Page.Fault
	case f.Page.Spec == "":
		return false, "no page; `labctl up` starts it"
	case f.Decap.Fault != "":
		return false, "decapsulation: " + f.Decap.Fault
	case f.Decap.Spec == "":
		return false, "no decapsulation; `labctl up` attaches it"
	}
	for _, vip := range role.VIPsOf(r.state.Topology, name) {
		if !slices.Contains(f.VIPs, vip) {
			return false, fmt.Sprintf("the VIP %s is not on lo; `labctl up` puts it there", vip)
		}
	}
	page := role.PageOf(r.state.Topology, name)
	if len(page.TCP) == 0 {
		return true, fmt.Sprintf("page runs; %s decapsulation attached", hook)
	}
	m, err := r.driver.Machine(r.lab, name)
	if err != nil {
		return false, err.Error()
	}
	who, err := whoami(ctx, m, netip.AddrPortFrom(page.Address, page.TCP[0]))
	switch {
	case err != nil:
		return false, fmt.Sprintf("page does not answer: %v", err)
	case who != name:
		return false, fmt.Sprintf("page says that it is %q", who)
	}
	attached := "attached"
	if f.Decap.Note != "" {
		attached += " " + f.Decap.Note
	}
	return true, fmt.Sprintf("page answers; %s decapsulation %s", hook, attached)
}

// whoami asks a page, from inside a machine, which backend it is.
func whoami(ctx context.Context, m provider.Machine, at netip.AddrPort) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return m.Guest.Dial(ctx, network, "", address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+"/whoami", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var who struct{ Name string }
	if err := json.NewDecoder(response.Body).Decode(&who); err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return who.Name, nil
}

// serviceStatus joins what the topology wants with what the agent has and counts.
func (l *Lab) serviceStatus(ctx context.Context, r running) []ServiceStatus {
	ctx, cancel := context.WithTimeout(ctx, lookLimit(r.driver))
	defer cancel()
	have := map[uint32]api.Service{}
	counted := map[uint32]api.ServiceCounters{}
	agent, err := agentOf(r.driver, r.lab)
	var services []api.Service
	if err == nil {
		services, err = agent.Services(ctx)
	}
	if err == nil {
		for _, s := range services {
			have[s.ID] = s
		}
		var counters api.Counters
		if counters, err = agent.Counters(ctx); err == nil {
			for _, c := range counters.Services {
				counted[c.ID] = c
			}
		}
	}
	list := []ServiceStatus{}
	for _, s := range r.state.Topology.Services {
		want := plan.ServiceOf(r.state.Topology, s)
		st := ServiceStatus{ID: s.ID, Frontend: want.Frontend, Protocol: want.Protocol, Mode: want.Mode, Healthy: true, Health: "announced"}
		a, ok := have[s.ID]
		switch {
		case err != nil:
			st.Healthy, st.Health = false, fmt.Sprintf("agent does not answer: %v", err)
		case !ok:
			st.Healthy, st.Health = false, "the agent does not have it; `labctl up` sets it"
		default:
			st.Mode = a.Mode
			if d := plan.Difference(a, want); d != "" {
				st.Healthy, st.Health = false, "not as wanted: "+d
			}
		}
		for _, b := range want.Backends {
			bs := BackendStatus{Address: b.Address}
			bs.Node, _ = r.state.Topology.MachineAt(b.Address.Addr())
			for _, c := range counted[s.ID].Backends {
				if c.Address == b.Address {
					bs.Traffic = c.Traffic
				}
			}
			st.Backends = append(st.Backends, bs)
		}
		list = append(list, st)
	}
	return list
}
