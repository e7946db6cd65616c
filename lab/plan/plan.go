// Package plan compares the lab that is wanted with what exists and says what
// is to be done: steps as plain values, each with its reason. `labctl up
// --dry-run` prints exactly the list that `labctl up` carries out.
package plan

import (
	"fmt"
	"slices"
	"strings"

	"l4lab/agent/api"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/topology"
)

// Kind is what a step is about.
type Kind string

// The kinds of steps.
const (
	Switch  Kind = "switch"
	Node    Kind = "node"
	VIPs    Kind = "vip"
	Decap   Kind = "decap"
	Page    Kind = "page"
	Routes  Kind = "route"
	Agent   Kind = "agent"
	Service Kind = "service"
)

// Action is what a step does with its subject.
type Action string

// The actions. A step whose action is Keep is listed and not carried out.
const (
	Create Action = "create"
	Change Action = "change"
	Remove Action = "remove"
	Keep   Action = "unchanged"
)

// Step is one thing to do.
type Step struct {
	// ID is unique in a plan: "page/be1".
	ID     string `json:"id"`
	Kind   Kind   `json:"kind"`
	Action Action `json:"action"`
	// Machine is the node concerned, "" for the switch.
	Machine string `json:"machine,omitempty"`
	// Service is the service's number, 0 for steps that concern none.
	Service uint32 `json:"service,omitempty"`
	// Reason says why: "mtu 1500 -> 3000".
	Reason string `json:"reason"`
	// Needs are the IDs of steps that come first.
	Needs []string `json:"needs,omitempty"`
}

// Wanted is the lab as it should be.
type Wanted struct {
	Topology topology.Topology
	// Programs are the SHA-256 of the agent's binaries, by the nodes' operating systems.
	Programs map[topology.OS]string
}

// Found is the lab as it is.
type Found struct {
	provider.Actual
	// Services are those that the agent has; nil where no agent answers.
	Services []api.Service
	// Remembered are the numbers of services that an agent which does not answer may
	// announce: once it runs again, it takes over what the data path has.
	Remembered []uint32
}

// Build returns the steps, in an order in which they could run one by one.
func Build(w Wanted, f Found) []Step {
	b := builder{Wanted: w, Found: f}
	b.sw()
	b.displaced()
	for _, name := range w.Topology.MachineNames() {
		b.node(name)
	}
	b.formerRoles()
	b.balancer()
	for _, name := range w.Topology.Backends() {
		b.backend(name)
	}
	b.client()
	b.services()
	b.unusedVIPs()
	b.leftovers()
	return b.steps
}

// Changes returns the steps that do something.
func Changes(steps []Step) []Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s Step) bool { return s.Action == Keep })
}

type builder struct {
	Wanted
	Found
	steps []Step
	// touched are machines that are made or changed: what stands on them is
	// looked at again, since a new link or address may have swept it away.
	touched map[string]bool
	// former are the IDs of the steps that take a machine's former role from it.
	former map[string][]string
	// unused are removals of VIPs, which wait for the services to stop using them.
	unused []Step
}

func (b *builder) add(s Step) { b.steps = append(b.steps, s) }

const switchID = "switch"

func nodeID(name string) string { return "node/" + name }

func (b *builder) sw() {
	s := Step{ID: switchID, Kind: Switch, Action: Keep, Reason: "as wanted"}
	mtu := b.Topology.Switch.MTU
	switch {
	case b.Switch == nil:
		s.Action, s.Reason = Create, fmt.Sprintf("%s switch, subnet %s, mtu %d", b.Topology.Switch.Type, b.Topology.Switch.Subnet, mtu)
	case b.Switch.MTU != mtu:
		s.Action, s.Reason = Change, fmt.Sprintf("mtu %d -> %d", b.Switch.MTU, mtu)
	}
	b.add(s)
}

func (b *builder) node(name string) {
	s := Step{ID: nodeID(name), Kind: Node, Machine: name, Action: Keep, Reason: "as wanted", Needs: []string{switchID}}
	m, exists := b.Machines[name]
	address, _ := b.Topology.Address(name)
	for _, former := range b.gone() {
		if b.takenBy(former) == name {
			s.Needs = append(s.Needs, nodeID(former))
		}
	}
	switch {
	case !exists:
		s.Action, s.Reason = Create, fmt.Sprintf("address %s/%d, mtu %d", address, b.Topology.Switch.Subnet.Bits(), b.Topology.Switch.MTU)
	case len(m.Faults) > 0:
		s.Action, s.Reason = Change, strings.Join(m.Faults, "; ")
	}
	if s.Action != Keep {
		if b.touched == nil {
			b.touched = map[string]bool{}
		}
		b.touched[name] = true
	}
	b.add(s)
}

// subject adds the step for something that has a spec.
func (b *builder) subject(kind Kind, machine string, found role.Present, want string, needs ...string) {
	s := Step{ID: string(kind) + "/" + machine, Kind: kind, Machine: machine, Action: Keep, Reason: "as wanted", Needs: append(slices.Clone(needs), nodeID(machine))}
	switch {
	case found.Fault != "":
		s.Action, s.Reason = Change, found.Fault+"; "+want
	case found.Spec == "":
		s.Action, s.Reason = Create, want
	case found.Spec != want:
		s.Action, s.Reason = Change, found.Spec+" -> "+want
	case b.touched[machine]:
		s.Action, s.Reason = Change, "its machine changes"
	}
	b.add(s)
}

// list adds the step for a set of addresses or routes.
func list[T fmt.Stringer](b *builder, kind Kind, machine string, found, want []T) {
	s := Step{ID: string(kind) + "/" + machine, Kind: kind, Machine: machine, Action: Keep, Reason: "as wanted", Needs: []string{nodeID(machine)}}
	have, need := join(found), join(want)
	switch {
	case have == need && b.touched[machine] && need != "":
		s.Action, s.Reason = Change, "its machine changes"
		if len(found) == 0 {
			s.Action = Create
		}
	case have == need:
	case have == "":
		s.Action, s.Reason = Create, need
	case need == "":
		s.Action, s.Reason = Remove, have
	default:
		s.Action, s.Reason = Change, have+" -> "+need
	}
	b.add(s)
}

func join[T fmt.Stringer](items []T) string {
	s := make([]string, len(items))
	for i, item := range items {
		s[i] = item.String()
	}
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// formerRoles removes what a machine has of a role that it no longer plays.
func (b *builder) formerRoles() {
	for _, name := range b.Topology.NodeNames() {
		facts := b.Machines[name].Facts
		isBalancer := b.Topology.Nodes[name].Role == topology.RoleLoadBalancer
		if !isBalancer && facts.Agent != (role.Present{}) {
			b.formerly(Agent, name, "it is no load balancer any more")
		}
		if isBalancer && facts.Decap != (role.Present{}) {
			b.formerly(Decap, name, "it is no backend any more")
		}
		if isBalancer && facts.Page != (role.Present{}) {
			b.formerly(Page, name, "it is no backend any more")
		}
		if isBalancer && len(facts.VIPs) > 0 {
			b.formerly(VIPs, name, "it is no backend any more")
		}
	}
}

func (b *builder) formerly(kind Kind, machine, reason string) {
	s := Step{ID: string(kind) + "/" + machine, Kind: kind, Machine: machine, Action: Remove, Reason: reason, Needs: []string{nodeID(machine)}}
	b.add(s)
	if b.former == nil {
		b.former = map[string][]string{}
	}
	b.former[machine] = append(b.former[machine], s.ID)
}

func (b *builder) balancer() {
	lb := b.Topology.LoadBalancer()
	n := b.Topology.Nodes[lb]
	want := role.Agent{Address: n.Address, Hash: b.Programs[n.OS]}
	// A program of a former role must be off the interface first.
	b.subject(Agent, lb, b.Machines[lb].Facts.Agent, want.Spec(), b.former[lb]...)
}

func (b *builder) backend(name string) {
	t, facts := b.Topology, b.Machines[name].Facts
	n := t.Nodes[name]
	list(b, VIPs, name, facts.VIPs, role.VIPsOf(t, name))
	if last := len(b.steps) - 1; b.steps[last].Action == Remove {
		b.unused = append(b.unused, b.steps[last])
		b.steps = b.steps[:last]
	}
	decap := role.Decap{Hook: role.HookOf(n.OS), Address: n.Address, Balancer: t.Nodes[t.LoadBalancer()].Address, Hash: b.Programs[n.OS]}
	b.subject(Decap, name, facts.Decap, decap.Spec(), b.former[name]...)
	page := role.PageOf(t, name)
	page.Hash = b.Programs[n.OS]
	b.subject(Page, name, facts.Page, page.Spec())
}

func (b *builder) client() {
	name := b.Topology.Client.Name
	// A second address that a path validation lent it and was killed before it took back.
	if lent := b.Machines[name].Facts.VIPs; len(lent) > 0 {
		list(b, VIPs, name, lent, nil)
	}
	list(b, Routes, name, b.Machines[name].Facts.Routes, role.RoutesOf(b.Topology))
}

// leftovers removes machines that the topology does not have. They go last:
// until everything else stands, taking the change back leaves them whole.
func (b *builder) leftovers() {
	var needs []string
	for _, s := range b.steps {
		needs = append(needs, s.ID)
	}
	for _, name := range b.gone() {
		if b.takenBy(name) == "" {
			b.add(Step{ID: nodeID(name), Kind: Node, Machine: name, Action: Remove, Reason: "not in the topology", Needs: needs})
		}
	}
}

// displaced removes machines whose address another one is to have, before that
// one comes: two with one address would take each other's packets.
func (b *builder) displaced() {
	for _, name := range b.gone() {
		if heir := b.takenBy(name); heir != "" {
			b.add(Step{ID: nodeID(name), Kind: Node, Machine: name, Action: Remove, Reason: "its address goes to " + heir, Needs: []string{switchID}})
		}
	}
}

// gone returns the machines that are there and not in the topology.
func (b *builder) gone() []string {
	var gone []string
	for name := range b.Machines {
		if !slices.Contains(b.Topology.MachineNames(), name) {
			gone = append(gone, name)
		}
	}
	slices.SortFunc(gone, topology.CompareNatural)
	return gone
}

// takenBy returns the machine of the topology that is to have the address of one that goes.
func (b *builder) takenBy(name string) string {
	heir, _ := b.Topology.MachineAt(b.Machines[name].Prefix.Addr())
	return heir
}
