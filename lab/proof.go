package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/topology"
)

// Test proves the lab's packet paths with captured packets. It holds the lab's
// lock: a lab that changes meanwhile proves nothing.
func (l *Lab) Test(ctx context.Context, o probe.Options) (probe.Report, error) {
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return probe.Report{}, err
	}
	defer lock.Release()
	r, err := l.load()
	if err != nil {
		l.forget(work{})
		return probe.Report{}, err
	}
	actual, err := r.driver.Observe(ctx, r.lab)
	if err != nil {
		return probe.Report{}, fmt.Errorf("look at lab %s: %w", l.name, err)
	}
	if o.Timeout == 0 {
		o.Timeout = r.driver.Answer
	}
	if o.TransferBytes == 0 {
		o.TransferBytes = r.driver.Transfer
	}
	return probe.Run(ctx, subject{r, actual}, o)
}

// Capture starts a capture at a place of a lab that is up.
func (l *Lab) Capture(ctx context.Context, place capture.Place) (*capture.Session, error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	return r.driver.Capture(ctx, r.lab, place)
}

// subject is a running lab as the probe sees it.
type subject struct {
	running
	actual provider.Actual
}

var (
	_ probe.Lab             = subject{}
	_ probe.EphemeralRanger = subject{}
)

func (s subject) Topology() topology.Topology { return s.state.Topology }

func (s subject) Capture(ctx context.Context, place capture.Place) (probe.Session, error) {
	return s.driver.Capture(ctx, s.lab, place)
}

func (s subject) DialClient(ctx context.Context, network string, local, remote netip.AddrPort) (net.Conn, error) {
	m, err := s.driver.Machine(s.lab, s.state.Topology.Client.Name)
	if err != nil {
		return nil, err
	}
	from := ""
	if local.IsValid() {
		from = local.String()
	}
	return m.Guest.Dial(ctx, network, from, remote.String())
}

func (s subject) Agent(context.Context) (probe.Agent, error) { return agentOf(s.driver, s.lab) }

func (s subject) DecapStatus(ctx context.Context, node string) (api.DecapStatus, error) {
	m, err := s.driver.Machine(s.lab, node)
	if err != nil {
		return api.DecapStatus{}, err
	}
	return m.System.DecapStatus(ctx)
}

func (s subject) MAC(machine string) (net.HardwareAddr, error) {
	m, ok := s.actual.Machines[machine]
	if !ok {
		return nil, fmt.Errorf("%s is missing; `labctl up` makes it again", machine)
	}
	return m.MAC, nil
}

// EphemeralPorts implements probe.EphemeralRanger.
func (s subject) EphemeralPorts(ctx context.Context, machine string) (low, high uint16, err error) {
	m, err := s.driver.Machine(s.lab, machine)
	if err != nil {
		return 0, 0, err
	}
	if low, high, err = m.System.EphemeralPorts(ctx); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", machine, err)
	}
	return low, high, nil
}

// AddClientAddress gives the client a second address until undo is called.
func (s subject) AddClientAddress(ctx context.Context, address netip.Addr) (func(context.Context) error, error) {
	m, err := s.driver.Machine(s.lab, s.state.Topology.Client.Name)
	if err != nil {
		return nil, err
	}
	if err := m.System.EnsureVIPs(ctx, []netip.Addr{address}); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return m.System.EnsureVIPs(ctx, nil) }, nil
}

// AddClientRoute sends a destination via the balancer until undo is called.
func (s subject) AddClientRoute(ctx context.Context, dst netip.Addr) (func(context.Context) error, error) {
	t := s.state.Topology
	m, err := s.driver.Machine(s.lab, t.Client.Name)
	if err != nil {
		return nil, err
	}
	routes := role.RoutesOf(t)
	extra := role.Route{Destination: dst, Via: t.Nodes[t.LoadBalancer()].Address, MTU: t.Switch.MTU - role.EncapOverhead}
	if err := m.System.EnsureRoutes(ctx, append(routes, extra)); err != nil {
		return nil, errors.Join(err, m.System.EnsureRoutes(ctx, routes))
	}
	return func(ctx context.Context) error { return m.System.EnsureRoutes(ctx, routes) }, nil
}
