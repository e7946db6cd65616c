package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/guest/relay"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role"
	"l4lab/topology"
)

// client is the lab's client: the host itself with its adapter on the switch.
// The user is an administrator there, so that every program of the host's runs.
type client struct {
	h   *host
	lab provider.Lab
}

var (
	_ guest.Guest = client{}
	_ role.System = client{}
)

// The range of source ports of Windows (netsh interface ipv4 show dynamicport tcp)
// unless somebody changed it.
const firstDynamicPort, lastDynamicPort = 49152, 65535

func (c client) errorf(format string, args ...any) error {
	return fmt.Errorf(c.lab.Topology.Client.Name+": "+format, args...)
}

// agent brings lbagent.exe to the host and returns its path. The program is read
// once: every connection of a test's comes here.
func (c client) agent(ctx context.Context) (string, error) {
	source := c.h.p.o.Programs[topology.Windows]
	hash, err := c.hash(source)
	if err != nil {
		return "", c.errorf("find lbagent.exe for the host: %w", err)
	}
	return c.h.program(ctx, source, hash)
}

func (c client) hash(source string) (string, error) {
	lock := c.h.lock("the client's program")
	lock.Lock()
	defer lock.Unlock()
	if c.h.clientHash != "" {
		return c.h.clientHash, nil
	}
	hash, err := guest.HashFile(source)
	if err == nil {
		c.h.clientHash = hash
	}
	return hash, err
}

// Run implements guest.Guest. Programs are named by their full path, or without
// one: lbagent is the lab's, others are looked for in the host's PATH.
func (c client) Run(ctx context.Context, cmd guest.Command) error {
	if len(cmd.Argv) == 0 {
		return errors.New("no command")
	}
	argv := slices.Clone(cmd.Argv)
	if name := strings.ToLower(argv[0]); name == "lbagent" || name == "lbagent.exe" {
		program, err := c.agent(ctx)
		if err != nil {
			return err
		}
		argv[0] = program
	}
	return c.exec(ctx, argv, cmd.Stdin, cmd.Stdout, cmd.Stderr)
}

// exec runs a program of the host with streams.
func (c client) exec(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var r scripts.ExecResult
	err := c.h.runner.Run(ctx, powershell.Call{
		Script: c.h.verbs.HostExec.Script, Result: &r, Stdin: stdin, Stdout: stdout, Stderr: stderr,
		Input: scripts.HostExecParams{Program: argv[0], Arguments: append([]string{}, argv[1:]...), Stdin: stdin != nil},
	})
	if code(err, scripts.NotFound) {
		c.h.lost(argv[0])
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return c.errorf("run %s: %w", base(argv[0]), err)
	}
	if r.ExitCode != 0 {
		return &guest.ExitError{Argv: argv, Code: r.ExitCode}
	}
	return nil
}

// Push implements guest.Guest: into the lab's folder on the host.
func (c client) Push(ctx context.Context, f guest.File) error {
	return c.h.upload(ctx, f.Source, join(c.h.folder, "client", strings.ReplaceAll(f.Path, "/", `\`)))
}

// Pull implements guest.Guest; no daemon of the lab runs on the host.
func (c client) Pull(_ context.Context, path string) (io.ReadCloser, error) {
	return nil, c.errorf("pull %s: %w", path, fs.ErrNotExist)
}

// Dial implements guest.Guest by a relay on the host.
func (c client) Dial(ctx context.Context, network, local, address string) (net.Conn, error) {
	program, err := c.agent(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := relay.Dial(ctx, c.exec, program, relay.Target{Network: network, Local: local, Address: address})
	if err != nil {
		return nil, c.errorf("%w", err)
	}
	return conn, nil
}

// ensure gives the host's adapter its address, and further ones.
func (c client) ensure(ctx context.Context, further []netip.Addr) error {
	t := c.lab.Topology
	p := scripts.HostAddressEnsureParams{
		Switch: switchName(t.Name), Mark: c.h.mark, MTU: clientMTU(t),
		Addresses: []string{netip.PrefixFrom(t.Client.Address, t.Switch.Subnet.Bits()).String()},
	}
	for _, a := range further {
		p.Addresses = append(p.Addresses, netip.PrefixFrom(a, 32).String())
	}
	c.h.disks.Lock()
	defer c.h.disks.Unlock()
	if _, err := c.h.verbs.HostAddressEnsure.Run(ctx, c.h.runner, p); err != nil {
		return c.errorf("give the host's adapter %s: %w", strings.Join(p.Addresses, ", "), foreign(err))
	}
	return nil
}

// clientMTU leaves room for DSR's outer header: routes of Windows have no MTU of
// their own, so that the adapter has to have it.
func clientMTU(t topology.Topology) int { return t.Switch.MTU - role.EncapOverhead }

// EnsureVIPs implements role.System: further addresses of the client's.
func (c client) EnsureVIPs(ctx context.Context, vips []netip.Addr) error { return c.ensure(ctx, vips) }

// EnsureRoutes implements role.System.
func (c client) EnsureRoutes(ctx context.Context, routes []role.Route) error {
	p := scripts.HostRoutesEnsureParams{Switch: switchName(c.lab.Topology.Name), Mark: c.h.mark, Routes: []scripts.HostRoute{}}
	for _, r := range routes {
		p.Routes = append(p.Routes, scripts.HostRoute{Destination: netip.PrefixFrom(r.Destination, 32).String(), Via: r.Via.String()})
	}
	_, err := c.h.verbs.HostRoutesEnsure.Run(ctx, c.h.runner, p)
	if len(routes) == 0 && code(err, scripts.NotFound) {
		return nil // they went with the switch
	}
	if err != nil {
		return c.errorf("give the host its routes to the VIPs: %w", err)
	}
	return nil
}

// Observe implements role.System.
func (c client) Observe(ctx context.Context) (role.Facts, error) {
	found, err := c.h.observe(ctx, c.lab.Topology)
	if err != nil || found.Switch == nil {
		return role.Facts{}, err
	}
	return clientFacts(c.lab.Topology, *found.Switch), nil
}

// clientFacts is what the host's adapter has.
func clientFacts(t topology.Topology, sw scripts.SwitchFacts) role.Facts {
	var f role.Facts
	for _, text := range sw.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr() != t.Client.Address && p.Bits() == 32 {
			f.VIPs = append(f.VIPs, p.Addr())
		}
	}
	for _, r := range sw.Routes {
		to, errTo := netip.ParsePrefix(r.Destination)
		via, errVia := netip.ParseAddr(r.Via)
		if errTo == nil && errVia == nil {
			f.Routes = append(f.Routes, role.Route{Destination: to.Addr(), Via: via, MTU: sw.MTU})
		}
	}
	slices.SortFunc(f.Routes, func(a, b role.Route) int { return a.Destination.Compare(b.Destination) })
	return f
}

// EphemeralPorts implements role.System.
func (c client) EphemeralPorts(context.Context) (low, high uint16, err error) {
	return firstDynamicPort, lastDynamicPort, nil
}

// EnsureAgent implements role.System; the client has no agent.
func (c client) EnsureAgent(context.Context, role.Agent) error { return c.errorf("has no agent") }

// EnsureDecap implements role.System; the client takes no header off.
func (c client) EnsureDecap(context.Context, role.Decap) error {
	return c.errorf("has no decapsulation program")
}

// DecapStatus implements role.System.
func (c client) DecapStatus(context.Context) (api.DecapStatus, error) {
	return api.DecapStatus{}, c.errorf("has no decapsulation program")
}

// EnsurePage implements role.System; the client serves no page.
func (c client) EnsurePage(context.Context, role.Page) error { return c.errorf("serves no page") }

// Remove implements role.System: the client has nothing of these.
func (c client) Remove(context.Context, role.Subject) error { return nil }
