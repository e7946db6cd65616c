// Package probe proves a lab's packet paths with captured packets. It captures
// at the switch's ports and on the machines, sends client traffic from many
// source ports, and judges what was seen against what the path promises:
//
//	report, err := probe.Run(ctx, lab, probe.Options{Modes: []topology.Mode{topology.DSR}})
//	err = report.WriteText(os.Stdout)
//
// Expectations come from the topology, the captured bytes and package oracle,
// which computes the Maglev table by itself; never from the agent's maps, else
// the proof would be circular. Judge is the pure half: evidence in, facts out.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/topology"
)

// Lab is what the probe needs of a running lab.
type Lab interface {
	Topology() topology.Topology
	// Capture starts a capture at a place.
	Capture(ctx context.Context, place capture.Place) (Session, error)
	// DialClient connects from the client machine. Local's port may be 0 and
	// its address unset: then the client's system chooses. The error matches
	// syscall.EADDRINUSE where that does not give local's port.
	DialClient(ctx context.Context, network string, local, remote netip.AddrPort) (net.Conn, error)
	// Agent returns the balancer's agent.
	Agent(ctx context.Context) (Agent, error)
	// DecapStatus asks a backend's decapsulation program.
	DecapStatus(ctx context.Context, node string) (api.DecapStatus, error)
	// AddClientAddress gives the client a second address until undo is called.
	AddClientAddress(ctx context.Context, address netip.Addr) (undo func(context.Context) error, err error)
	// AddClientRoute sends the client's packets for dst via the balancer until undo is called.
	AddClientRoute(ctx context.Context, dst netip.Addr) (undo func(context.Context) error, err error)
	// MAC returns the address of a machine's interface.
	MAC(machine string) (net.HardwareAddr, error)
}

// EphemeralRanger is a Lab that can tell a machine's own range of source
// ports (ip_local_port_range), both inclusive.
type EphemeralRanger interface {
	EphemeralPorts(ctx context.Context, machine string) (low, high uint16, err error)
}

// Session is a running capture, as capture.Session is.
type Session interface {
	Frames() []capture.Frame
	Wait(ctx context.Context, condition func([]capture.Frame) bool) error
	Stop() (capture.Result, error)
}

// Agent is what the probe asks of the balancer's agent, as api.Client does.
type Agent interface {
	Services(ctx context.Context) ([]api.Service, error)
	Connections(ctx context.Context, service uint32) ([]api.Connection, error)
	Counters(ctx context.Context) (api.Counters, error)
	SetMode(ctx context.Context, update api.ModeUpdate) error
}

var (
	_ Agent   = (*api.Client)(nil)
	_ Session = (*capture.Session)(nil)
)

// Options say what to prove and how.
type Options struct {
	// Modes in which each service is tried; none means the topology's own.
	Modes []topology.Mode
	// Progress, when given, is told what happens, one line a step.
	Progress func(message string)
	// Pcapng, when given, is asked for a place to store each pass' captures.
	Pcapng func(service uint32, mode topology.Mode) (io.WriteCloser, error)
	// Timeout bounds one exchange; 0 means 3 s.
	Timeout time.Duration
	// TransferBytes is the size of the large transfers; 0 means 10 MiB.
	TransferBytes int64
	// FirstPort is the first of the consecutive source ports; 0 means one
	// chosen at random, so that a run does not meet the flows of the last one.
	FirstPort uint16
	// MaxCapturedBackends bounds at how many backends packets are recorded,
	// two captures each; 0 means 32. The balancer's port shows the rest.
	MaxCapturedBackends int
}

// Defaults of Options.
const (
	defaultTimeout       = 3 * time.Second
	defaultTransferBytes = 10 << 20
	defaultCaptured      = 32
	// undoTimeout bounds putting things back, also after the caller gave up.
	undoTimeout = 10 * time.Second
)

func (o Options) withDefaults() Options {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.TransferBytes <= 0 {
		o.TransferBytes = defaultTransferBytes
	}
	if o.MaxCapturedBackends <= 0 {
		o.MaxCapturedBackends = defaultCaptured
	}
	return o
}

// Run tries each service of the lab in each mode asked for. The error says that
// the proof could not be made; what was found wrong stands in the report, which
// is returned as far as it came. The services' modes are as before afterwards,
// whatever happens.
func Run(ctx context.Context, lab Lab, o Options) (report Report, err error) {
	o = o.withDefaults()
	t := lab.Topology()
	report = Report{Lab: t.Name, Started: time.Now()}
	defer func() { report.Duration = time.Since(report.Started) }()
	if len(t.Services) == 0 {
		return report, fmt.Errorf("lab %s: no service to test; add one to the topology", t.Name)
	}
	if o.FirstPort != 0 && o.FirstPort < natPortMin {
		return report, fmt.Errorf("first source port %d: must lie in %d–%d", o.FirstPort, natPortMin, natPortMax)
	}
	agent, err := lab.Agent(ctx)
	if err != nil {
		return report, fmt.Errorf("lab %s: reach the balancer's agent: %w", t.Name, err)
	}
	before, err := agent.Services(ctx)
	if err != nil {
		return report, fmt.Errorf("lab %s: ask the agent for its services: %w", t.Name, err)
	}
	defer func() { err = errors.Join(err, restoreModes(ctx, agent, before)) }()
	macs, err := macsOf(lab)
	if err != nil {
		return report, err
	}
	ports := newPorts(o.FirstPort)
	for _, s := range t.Services {
		modes := o.Modes
		if len(modes) == 0 {
			modes = []topology.Mode{s.Mode}
		}
		for _, mode := range modes {
			connections, err := agent.Connections(ctx, 0)
			if err != nil {
				return report, fmt.Errorf("lab %s: ask the agent which ports are in use: %w", t.Name, err)
			}
			ports.avoid(connections)
			p := &pass{lab: lab, agent: agent, options: o, topology: t, service: s, mode: mode, macs: macs, ports: ports}
			checks, err := p.run(ctx)
			report.Checks = append(report.Checks, checks...)
			if err != nil {
				return report, fmt.Errorf("lab %s: test service %d in mode %s: %w", t.Name, s.ID, mode, err)
			}
		}
	}
	return report, nil
}

func macsOf(lab Lab) (map[string]net.HardwareAddr, error) {
	macs := map[string]net.HardwareAddr{}
	for _, name := range lab.Topology().MachineNames() {
		mac, err := lab.MAC(name)
		if err != nil {
			return nil, fmt.Errorf("MAC address of %s: %w", name, err)
		}
		macs[name] = mac
	}
	return macs, nil
}

// restoreModes puts back what the services had, even when ctx has ended.
func restoreModes(ctx context.Context, agent Agent, before []api.Service) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	now, err := agent.Services(ctx)
	if err != nil {
		return fmt.Errorf("restore the services' modes: %w", err)
	}
	var errs []error
	for _, s := range now {
		i := slices.IndexFunc(before, func(b api.Service) bool { return b.ID == s.ID })
		if i < 0 || before[i].Mode == s.Mode {
			continue
		}
		if err := agent.SetMode(ctx, api.ModeUpdate{Mode: before[i].Mode, ServiceID: s.ID}); err != nil {
			errs = append(errs, fmt.Errorf("restore mode %s of service %d: %w", before[i].Mode, s.ID, err))
		}
	}
	return errors.Join(errs...)
}
