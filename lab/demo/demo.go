// Package demo is the walk-through that the eBPF for Windows team showed in
// February 2022, in its order: the lab, the agent's start, the service, a page
// through the VIP, the connection table, a forced refresh that lands on
// another backend, the switch to direct server return, and packets as proof.
// Each step says what is expected and what was seen.
package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/capture"
	"l4lab/lab/plan"
	"l4lab/lab/probe"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// ErrCross is returned when a step did not see what it expected.
var ErrCross = errors.New("not everything was as it should be; see the steps marked ✗")

// Run brings the lab up from the topology, in SNAT mode first as the demo did,
// walks through it and tells what it sees on w. It says whether it made the
// lab, which stays up.
func Run(ctx context.Context, l *lab.Lab, t topology.Topology, o lab.UpOptions, w io.Writer) (made bool, err error) {
	for i := range t.Services {
		t.Services[i].Mode = topology.SNAT
	}
	d := &demo{lab: l, topology: t, up: o, w: w}
	if err := d.bringUp(ctx); err != nil {
		return false, err // up took back what it did
	}
	for _, step := range []func(context.Context) error{
		d.agentStart, d.service,
		d.firstPage, d.refresh, d.dumpstate, d.snatPackets,
		d.switchUnderConnection, d.dumpstate, d.dsrPackets,
		d.validate,
	} {
		if err := step(ctx); err != nil {
			return true, err
		}
	}
	if d.crosses > 0 {
		return true, fmt.Errorf("%w (%d)", ErrCross, d.crosses)
	}
	return true, nil
}

type demo struct {
	lab      *lab.Lab
	topology topology.Topology
	up       lab.UpOptions
	w        io.Writer
	steps    int
	crosses  int
	// backend is the last one that answered.
	backend string
}

func (d *demo) title(format string, args ...any) {
	d.steps++
	fmt.Fprintf(d.w, "\n%d. %s\n", d.steps, fmt.Sprintf(format, args...))
}

func (d *demo) check(ok bool, format string, args ...any) {
	sign := "✓"
	if !ok {
		sign = "✗"
		d.crosses++
	}
	fmt.Fprintf(d.w, "   %s %s\n", sign, fmt.Sprintf(format, args...))
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.w, "   %s\n", strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n   "))
}

func (d *demo) first() topology.Service { return d.topology.Services[0] }

func (d *demo) bringUp(ctx context.Context) error {
	d.title("The lab: one load balancer, %d backends, one client", len(d.topology.Backends()))
	begin := time.Now()
	steps, err := d.lab.Up(ctx, d.topology, d.up)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	w := tabwriter.NewWriter(d.w, 0, 0, 2, ' ', 0)
	for _, name := range d.topology.MachineNames() {
		address, _ := d.topology.Address(name)
		n, ok := d.topology.Nodes[name]
		if !ok {
			n = topology.Node{Role: topology.RoleClient, OS: topology.Linux}
		}
		fmt.Fprintf(w, "   %s\t%s\t%s\t%s\n", name, address, n.Role, n.OS)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	d.check(true, "up in %s (%d steps)", took.Round(time.Millisecond), len(plan.Changes(steps)))
	return d.standIns(ctx)
}

// standIns says what is not what it is called.
func (d *demo) standIns(ctx context.Context) error {
	st, err := d.lab.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask for the lab's status: %w", err)
	}
	if st.Simulated {
		d.say("SIMULATED: no Windows and no Hyper-V are behind it; windows nodes run Linux")
	}
	if slices.ContainsFunc(st.Nodes, func(n lab.NodeStatus) bool { return n.Emulated }) {
		d.say("windows nodes run the Windows programs' source, compiled for Linux (emulated)")
	}
	return nil
}

func (d *demo) agentStart(ctx context.Context) error {
	lb := d.topology.LoadBalancer()
	d.title("The agent on %s says what it works with", lb)
	agent, err := d.lab.Agent()
	if err != nil {
		return err
	}
	st, err := agent.Status(ctx)
	if err != nil {
		return fmt.Errorf("%s: ask the agent: %w", lb, err)
	}
	d.say("interface %s, index %d, mtu %d, address %s, mac %s", st.Interface.Name, st.Interface.Index, st.Interface.MTU, st.Interface.Address, st.Interface.MAC)
	for _, step := range st.Steps {
		d.say("%s", step)
	}
	d.check(st.AttachMode == "native", "the program is attached to %s in %s mode", st.Interface.Name, st.AttachMode)
	for _, warning := range st.Warnings {
		d.check(false, "%s", warning)
	}
	return nil
}

func (d *demo) service(ctx context.Context) error {
	s := plan.ServiceOf(d.topology, d.first())
	d.title("The service")
	backends := make([]string, len(s.Backends))
	for i, b := range s.Backends {
		backends[i] = b.String()
	}
	d.say("> service update --frontend=%s --backends=%s --id=%d", s.Frontend, strings.Join(backends, ","), s.ID)
	agent, err := d.lab.Agent()
	if err != nil {
		return err
	}
	have, err := agent.Service(ctx, s.ID)
	if err != nil {
		return fmt.Errorf("ask the agent for service %d: %w", s.ID, err)
	}
	d.check(plan.Difference(have, s) == "", "the agent announces it in %s mode", have.Mode)
	return nil
}

func (d *demo) firstPage(ctx context.Context) error {
	d.title("A page through the VIP: http://%s/", d.first().Frontend())
	backend, err := d.get(ctx)
	if err != nil {
		return err
	}
	d.backend = backend
	_, known := d.topology.Nodes[backend]
	d.check(known, "the page names its server: %s", backend)
	return nil
}

// refreshes is how often the page is asked for until another backend answers:
// with four backends, the odds of 40 answers from one are about 4^-39.
const refreshes = 40

func (d *demo) refresh(ctx context.Context) error {
	d.title("Forced refresh: a new source port, so usually another backend")
	if len(d.first().Backends) < 2 {
		d.say("there is one backend alone")
		return nil
	}
	for i := range refreshes {
		backend, err := d.get(ctx)
		if err != nil {
			return err
		}
		if backend != d.backend {
			d.check(true, "after %d refreshes: %s instead of %s", i+1, backend, d.backend)
			d.backend = backend
			return nil
		}
	}
	d.check(false, "%d refreshes all came from %s", refreshes, d.backend)
	return nil
}

func (d *demo) dumpstate(ctx context.Context) error {
	d.title("> service dumpstate --id %d", d.first().ID)
	agent, err := d.lab.Agent()
	if err != nil {
		return err
	}
	list, err := agent.Connections(ctx, d.first().ID)
	if err != nil {
		return fmt.Errorf("ask the agent for its connections: %w", err)
	}
	if len(list) > 8 {
		list = list[len(list)-8:]
	}
	w := tabwriter.NewWriter(d.w, 0, 0, 2, ' ', 0)
	for _, row := range api.Dumpstate(list) {
		fmt.Fprintln(w, "   "+strings.Join(row, "\t"))
	}
	snat, dsr := 0, 0
	for _, c := range list {
		if c.TxBytes != nil {
			snat++
		} else {
			dsr++
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	d.check(len(list) > 0, "%d connections in SNAT, %d in DSR (whose replies the balancer never sees)", snat, dsr)
	return nil
}

func (d *demo) snatPackets(ctx context.Context) error {
	d.title("The balancer's port on the switch, during one request in SNAT mode")
	seen, err := d.watch(ctx, nil, func() error { _, err := d.get(ctx); return err })
	if err != nil {
		return err
	}
	requests, replies := d.split(seen)
	d.check(requests > 0 && replies > 0, "requests and replies both cross the balancer: %d and %d packets", requests, replies)
	return nil
}

func (d *demo) dsrPackets(ctx context.Context) error {
	d.title("The balancer's port on the switch, during one request in DSR mode")
	seen, err := d.watch(ctx, d.begun, func() error { _, err := d.get(ctx); return err })
	if err != nil {
		return err
	}
	requests, replies := d.split(seen)
	d.check(requests > 0 && replies == 0, "requests alone cross the balancer: %d packets, %d replies", requests, replies)
	return nil
}

// switchUnderConnection switches the mode while a connection is open: it goes
// on in the mode in which it began.
func (d *demo) switchUnderConnection(ctx context.Context) error {
	d.title("> mode update dsr, with a connection open")
	conn, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	before, err := ask(conn, d.first().Frontend(), "/whoami")
	if err != nil {
		return fmt.Errorf("ask before the switch: %w", err)
	}
	if err := d.lab.Mode(ctx, 0, topology.DSR); err != nil {
		return err
	}
	var after string
	seen, err := d.watch(ctx, nil, func() error {
		after, err = ask(conn, d.first().Frontend(), "/whoami")
		return err
	})
	if err != nil {
		return fmt.Errorf("ask after the switch: %w", err)
	}
	_, replies := d.split(seen)
	d.check(before == after && replies > 0, "the open connection goes on with %s in SNAT: %d replies still cross the balancer", after, replies)
	backend, err := d.get(ctx)
	if err != nil {
		return err
	}
	d.check(backend != "", "a new connection, now in DSR: %s", backend)
	return nil
}

func (d *demo) validate(ctx context.Context) error {
	d.title("Proof: every path from captured packets, in both modes")
	report, err := d.lab.Test(ctx, probe.Options{Modes: []topology.Mode{topology.SNAT, topology.DSR}})
	if err != nil {
		return err
	}
	for _, c := range report.Checks {
		switch c.Status {
		case probe.Pass, probe.Fail:
			d.check(c.Status == probe.Pass, "%-4s %s: %s", c.Mode, c.Name, c.Seen)
			if c.Status == probe.Fail {
				d.say("%s", c.Details())
			}
		default:
			d.say("- %-4s %s: %s (%s)", c.Mode, c.Name, c.Seen, c.Status)
		}
	}
	d.say("%s", report.Summary())
	return nil
}

// patience bounds connecting and asking: on a Hyper-V host each connection of the
// client's begins with a command over WinRM.
const patience = 20 * time.Second

func (d *demo) dial(ctx context.Context) (net.Conn, error) {
	m, err := d.lab.Machine(d.topology.Client.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return m.Guest.Dial(ctx, "tcp", "", d.first().Frontend().String())
}

// get asks for the page over a new connection and returns the backend's name.
func (d *demo) get(ctx context.Context) (string, error) {
	conn, err := d.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return ask(conn, d.first().Frontend(), "/")
}

// ask sends one request and returns the backend that answered. The page ends
// its connection, so that each refresh has a port of its own; /whoami keeps it.
func ask(conn net.Conn, at netip.AddrPort, path string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return "", err
	}
	if err := request.Write(conn); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s", request.URL, response.Status)
	}
	return response.Header.Get("X-Backend"), nil
}

// begun leaves out connections that were open before: the last packets of one
// in SNAT may still cross the balancer after the switch to DSR, which keeps ports.
func (d *demo) begun(packets []evidence.Packet) []evidence.Packet {
	ports := map[uint16]bool{}
	for _, p := range packets {
		if p.IP.Src == d.topology.Client.Address && p.Transport.Has(evidence.SYN) {
			ports[p.Transport.SrcPort] = true
		}
	}
	return slices.DeleteFunc(packets, func(p evidence.Packet) bool {
		return !ports[p.Transport.SrcPort] && !ports[p.Transport.DstPort]
	})
}

// watch captures the balancer's port while fn runs and prints what it saw; of
// that, only lets the rest fall, nil: nothing.
func (d *demo) watch(ctx context.Context, only func([]evidence.Packet) []evidence.Packet, fn func() error) ([]evidence.Packet, error) {
	place := capture.Place{Machine: d.topology.LoadBalancer(), Port: true}
	session, err := d.lab.Capture(ctx, place)
	if err != nil {
		return nil, err
	}
	err = fn()
	result, stopErr := session.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	if result.Dropped > 0 {
		d.check(false, "the capture lost %d frames", result.Dropped)
	}
	packets := slices.DeleteFunc(evidence.Decode(place, session.Frames()), func(p evidence.Packet) bool { return !p.IsIPv4() })
	if only != nil {
		packets = only(packets)
	}
	for _, p := range packets {
		way := "to the balancer  "
		if !p.Frame.Outgoing {
			way = "from the balancer"
		}
		line := fmt.Sprintf("%s  %s", way, p.IP)
		if p.Encapsulated() {
			line = fmt.Sprintf("%s  %s | %s", way, p.Outer, p.IP)
		}
		d.say("%s | %s", line, p.Transport)
	}
	return packets, nil
}

// split counts what the balancer sent on towards backends and towards the client.
func (d *demo) split(packets []evidence.Packet) (requests, replies int) {
	for _, p := range packets {
		switch {
		case p.Frame.Outgoing:
		case p.IP.Dst == d.topology.Client.Address:
			replies++
		default:
			requests++
		}
	}
	return requests, replies
}
