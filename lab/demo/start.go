package demo

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/plan"
	"l4lab/lab/probe/oracle"
	"l4lab/topology"
)

// startSteps are the lab, its agent and the service.
func (w *walk) startSteps() []planned {
	return []planned{
		{
			key: "topology", title: fmt.Sprintf("The lab: one load balancer, %d backends, one client", len(w.topology.Backends())),
			there: "One Hyper-V host with one internal switch, five virtual machines and the host as client. " +
				"Switch, addresses, test signing, programs, web servers and the route were set up by hand, node by node.",
			run: w.bringUp, vital: true,
		},
		{
			key: "agent", title: fmt.Sprintf("The agent on %s starts", w.topology.LoadBalancer()),
			command: "--bpf-lb-mode=snat --device=ethernet",
			there: "A user-mode agent in place of Cilium's read the interface's name, MTU, index, IPv4 address and MACs, " +
				"compiled the program on the balancer itself, had it verified and attached it to the XDP hook.",
			run: w.agentStart,
		},
		{
			key: "service", title: "The service", command: w.updateCommand(),
			there: "Typed at the agent's prompt: it computes the Maglev table and fills the eBPF maps.",
			run:   w.setService,
		},
		{
			key: "neighbor", title: "A next hop is asked for anew", command: "neighbor update " + w.firstBackend().String(),
			there: "The helper fib_lookup was worked around: the next hops' MACs come from a map that the agent fills.",
			run:   w.refreshNeighbour,
		},
	}
}

func (w *walk) firstBackend() netip.Addr {
	return w.topology.Nodes[w.service.Backends[0]].Address
}

// updateCommand is the demo's own line, with this topology's addresses.
func (w *walk) updateCommand() string {
	return fmt.Sprintf("service update --frontend=%s --backends=%s --id=%d", w.service.Frontend(), w.addresses(), w.service.ID)
}

func (w *walk) bringUp(ctx context.Context) error {
	begin := time.Now()
	steps, err := w.lab.Up(ctx, w.topology, w.options.Up)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	w.made = true
	if err := w.reach(); err != nil {
		return err
	}
	st, err := w.lab.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask for the lab's status: %w", err)
	}
	if w.record.MACs, err = w.lab.MACs(ctx); err != nil {
		return err
	}
	w.record.Provider, w.record.Simulated = st.Provider, st.Simulated
	var rows [][]string
	for _, n := range st.Nodes {
		if n.Emulated {
			w.emulated[n.Name] = true
			w.record.Emulated = append(w.record.Emulated, n.Name)
		}
		if n.Name == w.topology.Client.Name {
			w.record.ClientOS = n.OS
		}
		rows = append(rows, []string{n.Name, string(n.Role), string(n.OS), n.Address.String(), w.record.MACs[n.Name]})
	}
	w.showTable("", []string{"NODE", "ROLE", "OS", "ADDRESS", "MAC"}, rows)
	w.check(true, "up with one command in %.2f s (%d steps)", took.Seconds(), len(plan.Changes(steps)))
	for _, n := range st.Nodes {
		if !n.Healthy {
			w.check(false, "%s: %s", n.Name, n.Health)
		}
	}
	w.figure("time to bring the lab up", took.Seconds(), "s", fmt.Sprintf("%d steps, from nothing to a page that answers", len(plan.Changes(steps))))
	w.here("%d machines and a switch, made and set up in %.2f s by one command.", len(st.Nodes), took.Seconds())
	w.sayStandIns()
	return nil
}

// reach gets the ways into the lab.
func (w *walk) reach() (err error) {
	w.emulated = map[string]bool{}
	if w.agent, err = w.lab.Agent(); err != nil {
		return err
	}
	if w.client, err = w.lab.Machine(w.topology.Client.Name); err != nil {
		return err
	}
	if w.balancer, err = w.lab.Machine(w.topology.LoadBalancer()); err != nil {
		return err
	}
	var backends []oracle.Backend
	for _, b := range w.service.Backends {
		backends = append(backends, oracle.Backend{Address: w.address(b), Weight: 1})
	}
	size := w.service.TableSize
	if size == 0 {
		size = topology.DefaultTableSize
	}
	w.table, err = oracle.NewTable(size, "TCP", backends)
	return err
}

func (w *walk) sayStandIns() {
	if w.record.Simulated {
		w.standIn("The Hyper-V host is simulated: no Windows and no Hyper-V are behind it, and its Windows guests run Linux.")
	}
	if len(w.record.Emulated) > 0 {
		w.standIn("%s only stand in for Windows: they run Linux, and the Windows programs' source compiled for it.", strings.Join(w.record.Emulated, ", "))
	}
}

// standsIn says that a node is no real machine of its operating system.
func (w *walk) standsIn(node string) bool {
	return w.emulated[node] || w.record.Simulated && w.topology.Nodes[node].OS == topology.Windows
}

func (w *walk) agentStart(ctx context.Context) error {
	lb := w.topology.LoadBalancer()
	st, err := w.agent.Status(ctx)
	if err != nil {
		return fmt.Errorf("%s: ask the agent: %w", lb, err)
	}
	i := st.Interface
	w.showTable("Command lines", []string{"", "TYPED"}, [][]string{
		{"there", "--bpf-lb-mode=snat --device=ethernet"},
		{"here", fmt.Sprintf("lbagent serve --device=%s --address=%s", i.Name, i.Address)},
		{"here, the same words", fmt.Sprintf("lbagent serve --bpf-lb-mode=snat --device=%s", i.Name)},
	})
	w.showTable("Interface", []string{"NAME", "MTU", "INDEX", "ADDRESS", "MAC"}, [][]string{
		{i.Name, fmt.Sprint(i.MTU), fmt.Sprint(i.Index), i.Address.String(), i.MAC},
	})
	w.showText("The agent's output", strings.Join(st.Steps, "\n"))
	w.check(st.AttachMode == "native", "the program is verified and attached to %s at the %s XDP hook", i.Name, st.AttachMode)
	want := w.topology.Nodes[lb].Address
	w.check(i.Address == want && i.MTU == w.topology.Switch.MTU, "it read the balancer's address %s and the switch's MTU %d", i.Address, i.MTU)
	for _, warning := range st.Warnings {
		w.check(false, "%s", warning)
	}
	w.here("The agent read the same of %s and attached a program that was compiled beforehand, once for all modes; services name theirs.", i.Name)
	if w.standsIn(lb) {
		w.standIn("%s stands in for Windows: the program is the same source as a Linux object.", lb)
	}
	return nil
}

// operate types a command of the agent's on the balancer and shows what came.
func (w *walk) operate(ctx context.Context, command string) error {
	var out, errs bytes.Buffer
	argv := append([]string{"lbagent"}, strings.Fields(command)...)
	err := w.balancer.Guest.Run(ctx, guest.Command{Argv: argv, Stdout: &out, Stderr: &errs})
	text := out.String() + errs.String()
	if command != w.step.Command {
		text = "> " + command + "\n" + text
	}
	w.showText("", text)
	if err != nil {
		return fmt.Errorf("%s: lbagent %s: %w", w.topology.LoadBalancer(), command, err)
	}
	return nil
}

func (w *walk) setService(ctx context.Context) error {
	if err := w.operate(ctx, w.updateCommand()); err != nil {
		return err
	}
	have, err := w.agent.Service(ctx, w.service.ID)
	if err != nil {
		return fmt.Errorf("ask the agent for service %d: %w", w.service.ID, err)
	}
	difference := plan.Difference(have, plan.ServiceOf(w.topology, w.service))
	w.check(difference == "", "the agent has it as it was asked for%s", orNothing(": ", difference))
	w.here("%s in %s mode with %d backends, by a Maglev table of %d slots.", have.Frontend, strings.ToUpper(have.Mode), len(have.Backends), have.TableSize)
	return nil
}

// orNothing puts words before a text that is there.
func orNothing(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func (w *walk) refreshNeighbour(ctx context.Context) error {
	backend := w.service.Backends[0]
	if err := w.operate(ctx, "neighbor update "+w.topology.Nodes[backend].Address.String()); err != nil {
		return err
	}
	all, err := w.agent.Neighbours(ctx)
	if err != nil {
		return fmt.Errorf("ask the agent for its neighbours: %w", err)
	}
	i := slices.IndexFunc(all, func(n api.Neighbour) bool { return n.Address == w.topology.Nodes[backend].Address })
	right := i >= 0 && strings.EqualFold(all[i].MAC, w.record.MACs[backend])
	w.check(right, "the MAC that was found is %s's own, %s", backend, w.record.MACs[backend])
	w.here("The agent follows the system's neighbours by itself; the command asks anew.")
	return nil
}
