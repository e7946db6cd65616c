// Package decap attaches a backend's decapsulation program: the one that takes
// DSR's outer IP header off, at XDP or at TC.
//
// Attach loads, configures, attaches and pins, and returns; nothing of it needs
// a running process. It converges: called again it keeps what is right, updates
// what changed and leaves counters as they are. Status reads the pins, Detach
// removes them. All three work in the network namespace of the calling thread,
// and Status needs no namespace at all where links are used (see Status).
//
// What lies under the pin directory:
//
//	decap_config, decap_stats   the maps of bpf/lib/decap.h
//	xdp_link or tc_link         the attachment (TC: TCX, from Linux 6.6 on)
//	tc_program                  instead of tc_link, the program of a clsact filter
//	interface                   a symbolic link whose text is the interface's name
//	clsact                      another one, when the clsact qdisc there is ours
//	NAME_new                    while Attach is at work: what will take NAME's place
package decap

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"l4lab/agent/api"
	"l4lab/agent/pin"
)

// Hook is where a program takes packets.
type Hook string

const (
	// XDP is the driver's receive path: what a Windows backend uses.
	XDP Hook = "xdp"
	// TC is the ingress of traffic control: what a Linux backend uses.
	TC Hook = "tc"
)

// Options say what Attach is to achieve.
type Options struct {
	// Interface is where encapsulated packets arrive, such as eth0.
	Interface string
	// Tunnels are what to strip, at most one a family: all else is left alone.
	Tunnels []api.Tunnel
	Hook    Hook
	// PinDir is a directory on a bpffs; Attach makes it, its parent must be
	// there. On Windows it is a prefix of the pins' names.
	PinDir string
	// Generic attaches XDP in the slow mode that needs no driver support.
	Generic bool
	// Image is the native image (.sys) of the program; Windows only.
	Image string

	// Clsact takes the clsact filter of kernels before 6.6 also where TCX is there.
	Clsact bool
}

// What Attach, Status and Detach fail with where the machine is at fault; both
// ask for exit code 3.
var (
	// ErrUnsupported: the kernel, the driver or the file system lacks something.
	ErrUnsupported = pin.ErrUnsupported
	// ErrPermission: root, or CAP_BPF and CAP_NET_ADMIN, are missing.
	ErrPermission = pin.ErrPermission
)

// OptionError says which option is wrong; it asks for exit code 2.
type OptionError struct{ Option, Message string }

func (e *OptionError) Error() string { return "--" + e.Option + ": " + e.Message }

// ExitCode is 2: usage.
func (e *OptionError) ExitCode() int { return 2 }

func (o Options) check() error {
	switch o.Hook {
	case XDP, TC:
	case "":
		return &OptionError{"hook", "is missing: xdp or tc"}
	default:
		return &OptionError{"hook", fmt.Sprintf("unknown hook %q; allowed are xdp, tc", string(o.Hook))}
	}
	if o.Generic && o.Hook != XDP {
		return &OptionError{"generic", "is a mode of XDP: it needs --hook xdp"}
	}
	if o.Interface == "" {
		return &OptionError{"interface", "is missing: the interface where encapsulated packets arrive, such as eth0"}
	}
	if err := checkTunnels(o.Tunnels); err != nil {
		return err
	}
	return checkPinDir(o.PinDir)
}

func checkTunnels(tunnels []api.Tunnel) error {
	if len(tunnels) == 0 {
		return &OptionError{"address", "is missing: the backend's own, such as 20.1.1.10"}
	}
	families := make(map[bool]bool)
	for _, t := range tunnels {
		switch {
		case !t.Address.IsValid() || t.Address.IsUnspecified() || t.Address.Is4In6() || t.Address.Zone() != "":
			return &OptionError{"address", fmt.Sprintf("%s is no backend's own address, such as 20.1.1.10", t.Address)}
		case !t.Balancer.IsValid() || t.Balancer.Addr().Is4() != t.Address.Is4():
			return &OptionError{"balancer", fmt.Sprintf("is missing for %s: the load balancer's address of that family, "+
				"or the prefix of its outer sources; 0.0.0.0 or :: accepts any", t.Address)}
		case families[t.Address.Is4()]:
			return &OptionError{"address", fmt.Sprintf("%s is the second of its family: there is one outer destination each", t.Address)}
		}
		families[t.Address.Is4()] = true
	}
	return nil
}

// Pair makes tunnels of addresses and of the balancers of their families. A
// balancer is an address or a prefix; the unspecified address accepts any.
func Pair(addresses, balancers []string) ([]api.Tunnel, error) {
	sources := make(map[bool]netip.Prefix)
	for _, text := range balancers {
		p, err := parseSource(text)
		if err != nil {
			return nil, err
		}
		if _, twice := sources[p.Addr().Is4()]; twice {
			return nil, &OptionError{"balancer", fmt.Sprintf("%s is the second of its family", text)}
		}
		sources[p.Addr().Is4()] = p
	}
	tunnels := make([]api.Tunnel, 0, len(addresses))
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, &OptionError{"address", fmt.Sprintf("%q is no address", text)}
		}
		tunnels = append(tunnels, api.Tunnel{Address: a, Balancer: sources[a.Is4()]})
	}
	return tunnels, nil
}

func parseSource(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, &OptionError{"balancer", fmt.Sprintf("%q is neither an address nor a prefix", text)}
	}
	if a.IsUnspecified() {
		return netip.PrefixFrom(a, 0), nil
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Describe is the tunnels for people.
func Describe(tunnels []api.Tunnel) string {
	parts := make([]string, len(tunnels))
	for i, t := range tunnels {
		parts[i] = t.String()
	}
	return strings.Join(parts, " and ")
}

func checkPinDir(dir string) error {
	if dir == "" {
		return &OptionError{"pin-dir", "is missing: a directory on a bpffs, such as /sys/fs/bpf/decap"}
	}
	if strings.Contains(filepath.Base(dir), ".") {
		return &OptionError{"pin-dir", fmt.Sprintf("%s: a bpffs refuses names with a dot", dir)}
	}
	return nil
}

// traffic is the sum of decap_stats over all processors.
type traffic struct{ decapsulated, bytes, passed, malformed uint64 }

// status joins what the maps and the attachment say.
func status(attached bool, iface string, hook Hook, tunnels []api.Tunnel, t traffic) api.DecapStatus {
	return api.DecapStatus{
		Attached: attached, Interface: iface, Hook: string(hook), Tunnels: tunnels,
		Decapsulated: t.decapsulated, Bytes: t.bytes, Passed: t.passed, Malformed: t.malformed,
	}
}
