// Package linux does the roles' verbs on a Linux machine with systemd, over
// any guest.Guest:
//
//	system, err := linux.New(linux.Options{Guest: g, Machine: "be3", Address: netip.MustParseAddr("20.1.1.30")})
//	err = system.EnsurePage(ctx, page)
//
// What a verb puts on the machine is a unit in /etc/systemd/system, enabled, so
// that a restarted machine is what it was, without labctl: l4lab-agent, l4lab-decap
// and l4lab-web for the programs, l4lab-vips and l4lab-routes for addresses and
// routes. A unit keeps what it was made from in its section X-L4lab, which
// systemd passes over. Verbs look before they change, and restart only what is
// another or does not answer.
//
// Of the machine they use sh, coreutils, cmp (diffutils), ip with -json
// (iproute2), journalctl, and these of systemctl's commands: daemon-reload,
// enable, disable, restart, stop, and show with --property. Restart of a one-shot
// needs systemd 244. The interface is the one that has the node's address,
// whatever it is called.
package linux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/role"
)

// Where things are on the machine.
const (
	Program = "/usr/local/bin/lbagent"
	Folder  = "/var/lib/l4lab"
	// Socket is the agent's; the guest's Dial finds it as "agent.sock" too.
	Socket = Folder + "/agent.sock"
	// usualSocket is where lbagent's commands look for an agent when nobody says.
	usualSocket = "/run/lbagent.sock"
	// Pins is the lab's folder on the bpffs that systemd mounts.
	Pins    = "/sys/fs/bpf/l4lab"
	unitDir = "/etc/systemd/system"
)

// The units.
const (
	agentUnit  = "l4lab-agent.service"
	decapUnit  = "l4lab-decap.service"
	webUnit    = "l4lab-web.service"
	vipsUnit   = "l4lab-vips.service"
	routesUnit = "l4lab-routes.service"
)

// ErrNoInterface: no interface of the machine has the node's address.
var ErrNoInterface = errors.New("no interface has the node's address")

// Options say which machine.
type Options struct {
	Guest guest.Guest
	// Machine is the node's name, Address its address on the lab's switch.
	Machine string
	Address netip.Addr
	// Page serves the pages; nil means `lbagent web`. Nginx is the other one.
	Page PageServer
	// StartLimit bounds how long a daemon may take until it answers; 0 means 30 s.
	StartLimit time.Duration
	// Log is told what was changed; nil for nobody.
	Log *slog.Logger
}

// System is a Linux machine's role.System.
type System struct {
	Options
}

var _ role.System = (*System)(nil)

// New returns the machine's system. It does not speak to it yet.
func New(o Options) (*System, error) {
	if o.Guest == nil || o.Machine == "" || !o.Address.Is4() {
		return nil, fmt.Errorf("linux system %q at %s: a guest, a name and an IPv4 address are needed", o.Machine, o.Address)
	}
	if o.Page == nil {
		o.Page = Lbagent{}
	}
	if o.StartLimit <= 0 {
		o.StartLimit = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &System{o}, nil
}

// errorf is an error of this machine's.
func (s *System) errorf(format string, args ...any) error {
	return fmt.Errorf(s.Machine+": "+format, args...)
}

// Remove implements role.System.
func (s *System) Remove(ctx context.Context, subject role.Subject) error {
	switch subject {
	case role.SubjectAgent:
		// Removing the link's pin detaches the program; the maps go with theirs.
		return s.removeUnit(ctx, agentUnit, "rm", "-rf", "--", lbPins)
	case role.SubjectDecap:
		return s.removeUnit(ctx, decapUnit, Program, "decap", "detach", "--pin-dir", decapPins)
	case role.SubjectPage:
		return s.removeUnit(ctx, webUnit)
	}
	return s.errorf("nothing known to remove by the name %q", subject)
}
