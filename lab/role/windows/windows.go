// Package windows does the roles' verbs on a Windows machine, by scripts that
// run in it (package guestscripts) over any powershell.Runner: PowerShell Direct
// through a Hyper-V host, WinRM, or a process on the machine itself.
//
//	m, err := windows.New(windows.Options{Machine: "be1", Address: address, MAC: mac, Runner: direct, Upload: upload})
//	err = m.EnsurePage(ctx, page)
//
// What a verb puts on the machine is a service that starts with it: l4lab-agent,
// l4lab-decap and l4lab-web, each with the spec that it was made from. The
// programs and their compiled data path lie in C:\l4lab.
//
// A Machine is the machine's guest.Guest, too. PowerShell Direct carries no
// streams, so that what Run prints comes at its end, and Dial serves HTTP
// exchanges alone: each runs `lbagent.exe relay` in the machine with the whole
// request and brings back the whole answer.
package windows

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/role"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// Where things are on the machine.
const (
	Folder  = `C:\l4lab`
	Program = Folder + `\lbagent.exe`
	// logs is where lbagent.exe writes as a service (cmd/lbagent, winservice_windows.go).
	logs = `C:\ProgramData\lbagent`
)

// The services.
const (
	agentService = "l4lab-agent"
	decapService = "l4lab-decap"
	webService   = "l4lab-web"
)

// pageRule is the firewall rule that opens the page's ports.
const pageRule = "l4lab-page"

// decapPins is the prefix of the decapsulation program's pins.
const decapPins = "decap"

// Options say which machine.
type Options struct {
	// Machine is the node's name, Address its address and MAC its adapter's.
	Machine string
	Address netip.Addr
	MAC     net.HardwareAddr
	// Runner runs scripts in the machine.
	Runner powershell.Runner
	// Upload makes the machine's file at path, a full one, the local file
	// source with this SHA-256; one that is right already stays.
	Upload func(ctx context.Context, source, hash, path string) error
	// Profile says who provides the XDP hook, Loopback what bears the VIPs,
	// Page who serves the page; "" is the topology's default of each.
	Profile  topology.EBPFProfile
	Loopback topology.Loopback
	Page     topology.PageServer
	// StartLimit bounds how long a service may take until it answers; 0: 60 s.
	StartLimit time.Duration
	// Changing is held while the program and the services that run it are
	// changed: of two verbs at once, one would end what the other has started.
	// Every Machine of one machine needs the same; nil is one of its own.
	Changing sync.Locker
}

// Machine is a Windows machine's guest.Guest and role.System.
type Machine struct {
	Options
	verbs guestscripts.Verbs
}

var (
	_ role.System = (*Machine)(nil)
	_ guest.Guest = (*Machine)(nil)
)

// New returns the machine. It does not speak to it yet.
func New(o Options) (*Machine, error) {
	if o.Runner == nil || o.Upload == nil || o.Machine == "" || !o.Address.Is4() || len(o.MAC) != 6 {
		return nil, fmt.Errorf("windows machine %q at %s (%s): a runner, an upload, a name, an IPv4 address and a MAC are needed", o.Machine, o.Address, o.MAC)
	}
	if o.Profile == "" {
		o.Profile = topology.ProfileEFW
	}
	if o.Loopback == "" {
		o.Loopback = topology.LoopbackBuiltin
	}
	if o.Page == "" {
		o.Page = topology.PageLBAgent
	}
	if o.Changing == nil {
		o.Changing = &sync.Mutex{}
	}
	if o.StartLimit <= 0 {
		o.StartLimit = time.Minute
	}
	return &Machine{Options: o, verbs: guestscripts.New()}, nil
}

// MACText is a MAC as Windows writes it: 00-15-5D-01-01-0A.
func MACText(mac net.HardwareAddr) string {
	return strings.ToUpper(strings.ReplaceAll(mac.String(), ":", "-"))
}

// errorf is an error of this machine's.
func (m *Machine) errorf(format string, args ...any) error {
	return fmt.Errorf(m.Machine+" ("+m.Address.String()+"): "+format, args...)
}

// Facts asks the machine what it is and has.
func (m *Machine) Facts(ctx context.Context) (guestscripts.FactsResult, error) {
	f, err := m.verbs.Facts.Run(ctx, m.Runner, guestscripts.None{})
	if err != nil {
		return f, m.errorf("look at it: %w", err)
	}
	return f, nil
}

// adapter returns the machine's adapter on the lab's switch.
func (m *Machine) adapter(f guestscripts.FactsResult) (guestscripts.AdapterFacts, error) {
	for _, a := range f.Adapters {
		if strings.EqualFold(strings.ReplaceAll(a.MAC, ":", "-"), MACText(m.MAC)) {
			return a, nil
		}
	}
	return guestscripts.AdapterFacts{}, m.errorf("no adapter has the MAC %s; it has %d others", MACText(m.MAC), len(f.Adapters))
}

// EnsureVIPs implements role.System.
func (m *Machine) EnsureVIPs(ctx context.Context, vips []netip.Addr) error {
	p := guestscripts.VIPsEnsureParams{Addresses: []string{}, MAC: MACText(m.MAC), Loopback: string(m.Loopback)}
	for _, vip := range vips {
		p.Addresses = append(p.Addresses, vip.String())
	}
	if _, err := m.verbs.VIPsEnsure.Run(ctx, m.Runner, p); err != nil {
		return m.errorf("put the VIPs on its loopback: %w", err)
	}
	return nil
}

// EnsureRoutes implements role.System. Routes are the client's, and with Hyper-V
// that is the host.
func (m *Machine) EnsureRoutes(_ context.Context, routes []role.Route) error {
	if len(routes) == 0 {
		return nil
	}
	return m.errorf("only the client has routes to VIPs")
}

// EphemeralPorts implements role.System.
func (m *Machine) EphemeralPorts(ctx context.Context) (low, high uint16, err error) {
	f, err := m.Facts(ctx)
	if err != nil {
		return 0, 0, err
	}
	last := f.DynamicPortFirst + f.DynamicPortCount - 1
	if f.DynamicPortFirst < 1 || last > 65535 || f.DynamicPortCount < 1 {
		return 0, 0, m.errorf("its dynamic ports are %d from %d on, which is no range", f.DynamicPortCount, f.DynamicPortFirst)
	}
	return uint16(f.DynamicPortFirst), uint16(last), nil
}

// push brings the agent's program into the machine.
func (m *Machine) push(ctx context.Context, program, hash string) error {
	if err := m.Upload(ctx, program, hash, Program); err != nil {
		return m.errorf("push %s: %w", program, err)
	}
	return nil
}
