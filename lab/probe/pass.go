package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/topology"
)

// pass tries one service in one mode.
type pass struct {
	lab      Lab
	agent    Agent
	options  Options
	topology topology.Topology
	service  topology.Service
	mode     topology.Mode
	macs     map[string]net.HardwareAddr
	ports    *ports

	undo []func(context.Context) error
}

// run gathers evidence and has it judged.
func (p *pass) run(ctx context.Context) (checks []Check, err error) {
	defer func() { err = errors.Join(err, p.undoAll(ctx)) }()
	p.say("service %d, mode %s: switching", p.service.ID, p.mode)
	if err := p.agent.SetMode(ctx, api.ModeUpdate{Mode: string(p.mode), ServiceID: p.service.ID}); err != nil {
		return nil, fmt.Errorf("set the mode: %w", err)
	}
	e := Evidence{Topology: p.topology, Service: p.service, Mode: p.mode, MACs: p.macs}
	if e.ServiceMode, err = p.modeInForce(ctx); err != nil {
		return nil, err
	}
	if e.Ephemeral, err = p.ephemeral(ctx); err != nil {
		return nil, err
	}
	plan, err := p.plan()
	if err != nil {
		return nil, err
	}
	if err := p.prepare(ctx, &plan, &e); err != nil {
		return nil, err
	}
	if err := p.gather(ctx, plan, &e); err != nil {
		return nil, err
	}
	p.say("service %d, mode %s: judging %d frames", p.service.ID, p.mode, frameCount(e.Recordings))
	if err := p.store(e.Recordings); err != nil {
		return nil, err
	}
	return Judge(e)
}

func (p *pass) say(format string, args ...any) { p.options.Progress(fmt.Sprintf(format, args...)) }

func frameCount(recordings []capture.Recording) int {
	n := 0
	for _, r := range recordings {
		n += len(r.Frames)
	}
	return n
}

func (p *pass) modeInForce(ctx context.Context) (string, error) {
	services, err := p.agent.Services(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the agent for its services: %w", err)
	}
	i := slices.IndexFunc(services, func(s api.Service) bool { return s.ID == p.service.ID })
	if i < 0 {
		return "", fmt.Errorf("the agent has no service %d; `labctl up` brings it back", p.service.ID)
	}
	return services[i].Mode, nil
}

func (p *pass) ephemeral(ctx context.Context) (*[2]uint16, error) {
	ranger, ok := p.lab.(EphemeralRanger)
	if !ok || p.mode != topology.SNAT {
		return nil, nil
	}
	low, high, err := ranger.EphemeralPorts(ctx, p.topology.LoadBalancer())
	if err != nil {
		return nil, fmt.Errorf("read the balancer's range of ephemeral ports: %w", err)
	}
	return &[2]uint16{low, high}, nil
}

// prepare gives the client what the traffic needs beyond its own address.
func (p *pass) prepare(ctx context.Context, plan *plan, e *Evidence) error {
	used := func(a netip.Addr) bool {
		_, machine := p.topology.MachineAt(a)
		return machine || slices.Contains(p.topology.VIPs(), a)
	}
	if second, ok := freeInSubnet(p.topology.Switch.Subnet, used); ok {
		undo, err := p.lab.AddClientAddress(ctx, second)
		if err != nil {
			return fmt.Errorf("give the client the second address %s: %w", second, err)
		}
		p.undo = append(p.undo, undo)
		plan.addSecondClient(second)
	}
	foreign, ok := beside(p.service.VIP, func(a netip.Addr) bool { return used(a) || p.topology.Switch.Subnet.Contains(a) })
	if !ok {
		e.Foreign.NotSent = fmt.Sprintf("no unused address beside %s", p.service.VIP)
		return nil
	}
	undo, err := p.lab.AddClientRoute(ctx, foreign)
	if err != nil {
		return fmt.Errorf("send %s via the balancer: %w", foreign, err)
	}
	p.undo = append(p.undo, undo)
	e.Foreign.Dest = netip.AddrPortFrom(foreign, p.service.Port)
	return nil
}

// undoAll takes back what prepare did, last first, even when ctx has ended.
func (p *pass) undoAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, undo := range slices.Backward(p.undo) {
		if err := undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("put the client back as it was: %w", err))
		}
	}
	return errors.Join(errs...)
}

// freeInSubnet returns the highest address of a subnet that nobody uses.
func freeInSubnet(subnet netip.Prefix, used func(netip.Addr) bool) (netip.Addr, bool) {
	broadcast := lastOf(subnet)
	for a := broadcast.Prev(); a.IsValid() && subnet.Contains(a) && a != subnet.Masked().Addr(); a = a.Prev() {
		if !used(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func lastOf(subnet netip.Prefix) netip.Addr {
	a := subnet.Masked().Addr().As4()
	for bit := subnet.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// beside returns an address close to a VIP that nobody uses.
func beside(vip netip.Addr, used func(netip.Addr) bool) (netip.Addr, bool) {
	up, down := vip.Next(), vip.Prev()
	for range 256 {
		if up.IsValid() && !used(up) {
			return up, true
		}
		if down.IsValid() && !used(down) {
			return down, true
		}
		up, down = up.Next(), down.Prev()
	}
	return netip.Addr{}, false
}

// gather sends the traffic while everything is recorded.
func (p *pass) gather(ctx context.Context, plan plan, e *Evidence) (err error) {
	r, err := p.record(ctx, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop(e)) }()
	if e.Before, err = p.sample(ctx); err != nil {
		return err
	}
	p.say("service %d, mode %s: %d connections", p.service.ID, p.mode, plan.count())
	p.exchange(ctx, plan, r, e)
	if p.service.Protocol == topology.TCP {
		p.say("service %d, mode %s: %d bytes down and up", p.service.ID, p.mode, p.options.TransferBytes)
		e.Transfers = p.transfer(ctx, plan, r)
	}
	if e.Foreign.NotSent == "" {
		p.sendForeign(ctx, plan, r, e)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p.settle(ctx, r, e)
	e.After, err = p.sample(ctx)
	return err
}

// sample reads the programs' counters.
func (p *pass) sample(ctx context.Context) (Sample, error) {
	s := Sample{Decap: map[string]api.DecapStatus{}}
	var err error
	if s.Counters, err = p.agent.Counters(ctx); err != nil {
		return Sample{}, fmt.Errorf("read the balancer's counters: %w", err)
	}
	if p.mode != topology.DSR {
		return s, nil
	}
	for _, name := range p.service.Backends {
		if s.Decap[name], err = p.lab.DecapStatus(ctx, name); err != nil {
			return Sample{}, fmt.Errorf("%s: read the decapsulation program's counters: %w", name, err)
		}
	}
	return s, nil
}

func (p *pass) store(recordings []capture.Recording) (err error) {
	if p.options.Pcapng == nil {
		return nil
	}
	file, err := p.options.Pcapng(p.service.ID, p.mode)
	if err != nil {
		return fmt.Errorf("store the captures: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return pcapng.Write(file, recordings)
}
