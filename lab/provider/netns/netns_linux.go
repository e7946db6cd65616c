// Package netns provides labs on one Linux machine: every node is a named
// network namespace, the switch a bridge in a namespace of its own, and the
// data path is the kernel's, XDP in native mode. Nothing of the host's network
// is touched, and labs share nothing, so that several run side by side with
// the same addresses.
//
// Namespaces are named LAB-NODE, so that `ip netns exec l4lb-client …` works.
// Each bears a mark on its loopback (`ip link show lo`: alias) that names the
// lab's folder; what bears no such mark is never changed or removed.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"l4lab/lab/capture"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/state"
	"l4lab/topology"
)

// Name is the provider's name in --provider.
const Name = "netns"

const (
	// maxMark is how many bytes an interface's alias holds (IFALIASZ without its 0).
	maxMark = 255
	// maxSocket is how many bytes the path of a unix socket holds, without its 0.
	maxSocket = 107
	// maxName is how long a machine's name can be (package topology).
	maxName = 15
)

// switchName is the namespace that holds the bridge; no node may be named so.
const switchName = "switch"

// New returns the provider.
func New() provider.Driver {
	return provider.Driver{
		Name:         Name,
		Capabilities: provider.Capabilities{Emulates: []topology.OS{topology.Windows}, MaxMTU: fabric.MaxMTU},
		Provider:     &namespaces{probes: kernelProbes{}, pushing: &sync.Mutex{}},
	}
}

type namespaces struct {
	probes  Probes
	pushing *sync.Mutex
}

func namespaceName(lab, machine string) string { return lab + "-" + machine }

// markOf returns what a machine's loopback bears.
func markOf(lab provider.Lab, machine string) (string, error) {
	mark := "labctl " + lab.Dir + " " + machine
	if len(mark) > maxMark {
		return "", tooLong("an ownership mark", len(mark), maxMark, lab)
	}
	// A unix socket's path is shorter still (sun_path of unix(7)), but only the
	// machines that have one need it; all names are at most 15 bytes.
	if socket := filepath.Join(state.NodeDir(lab.Dir, strings.Repeat("x", maxName)), "agent.sock"); len(socket) > maxSocket {
		return "", tooLong("the agent's socket", len(socket), maxSocket, lab)
	}
	return mark, nil
}

func tooLong(what string, is, limit int, lab provider.Lab) error {
	return fmt.Errorf("the state folder's path is too long for %s (%d of %d bytes): %s; set LABCTL_STATE_DIR to a shorter one", what, is, limit, lab.Dir)
}

func pinsOf(lab provider.Lab) string  { return filepath.Join(lab.Dir, "bpf") }
func storeOf(lab provider.Lab) string { return filepath.Join(lab.Dir, "store") }

// openOwn opens a machine's namespace: fs.ErrNotExist when there is none,
// provider.ErrForeign when the one of that name is not this lab's.
func openOwn(lab provider.Lab, machine string) (fabric.Namespace, error) {
	mark, err := markOf(lab, machine)
	if err != nil {
		return fabric.Namespace{}, err
	}
	return fabric.OpenOwn(namespaceName(lab.Topology.Name, machine), mark)
}

// OpenSwitch opens the namespace with a lab's switch, for a provider that plugs other
// machines than namespaces into it.
func OpenSwitch(lab provider.Lab) (fabric.Namespace, error) { return openOwn(lab, switchName) }

// ensureNamespace opens a machine's namespace or makes it.
func ensureNamespace(ctx context.Context, lab provider.Lab, machine string, settings []fabric.Setting) (fabric.Namespace, error) {
	mark, err := markOf(lab, machine)
	if err != nil {
		return fabric.Namespace{}, err
	}
	return fabric.EnsureOwn(ctx, filepath.Dir(lab.Dir), namespaceName(lab.Topology.Name, machine), mark, settings)
}

// settingsOf returns the sysctls of a machine's namespace.
func settingsOf(t topology.Topology, machine string) []fabric.Setting {
	s := fabric.Quiet()
	switch t.Nodes[machine].Role {
	case topology.RoleLoadBalancer:
		// 32768-65535 is the SNAT pool: the balancer's own connections keep off it.
		s = append(s, fabric.Setting{Path: "ipv4/ip_local_port_range", Value: "1024 32767"})
	case topology.RoleBackend:
		// The VIP on lo must neither be announced nor be used to ask for others.
		s = append(s, fabric.Unannounced()...)
	}
	return s
}

// neighboursOf returns whom a machine sends frames to.
func neighboursOf(t topology.Topology, machine string) []netip.Addr {
	lb := t.Nodes[t.LoadBalancer()].Address
	var to []netip.Addr
	switch {
	case machine == t.Client.Name:
		to = []netip.Addr{lb}
	case t.Nodes[machine].Role == topology.RoleBackend:
		to = []netip.Addr{lb, t.Client.Address}
	default:
		to = append(to, t.Client.Address)
		for _, b := range t.Backends() {
			to = append(to, t.Nodes[b].Address)
		}
	}
	return to
}

// EnsureSwitch implements provider.Provider.
func (p *namespaces) EnsureSwitch(ctx context.Context, lab provider.Lab) error {
	if err := fabric.EnsureRunDir(ctx, filepath.Dir(lab.Dir)); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	for _, dir := range []string{pinsOf(lab), storeOf(lab)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("switch: %w", err)
		}
	}
	if dir := pinsOf(lab); !isBPFFS(dir) {
		if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
			return fmt.Errorf("switch: mount bpffs at %s: %w", dir, err)
		}
	}
	ns, err := ensureNamespace(ctx, lab, switchName, settingsOf(lab.Topology, switchName))
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := fabric.EnsureBridge(h, lab.Topology.Switch.MTU); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	return nil
}

// EnsureNode implements provider.Provider.
func (p *namespaces) EnsureNode(ctx context.Context, lab provider.Lab, name string) error {
	t := lab.Topology
	address, ok := t.Address(name)
	if !ok {
		return fmt.Errorf("%s: the topology has no such machine", name)
	}
	sw, err := openOwn(lab, switchName)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer sw.Close()
	node, err := ensureNamespace(ctx, lab, name, settingsOf(t, name))
	if err != nil {
		return err
	}
	defer node.Close()
	err = plug(sw, node, t, name, address, func() error { return p.reset(ctx, lab, name) })
	if err != nil {
		return fmt.Errorf("%s (%s): %w", name, address, err)
	}
	return nil
}

// reset clears what a machine had before its interface was made anew: daemons
// that still run in a namespace without a name, programs attached to a link
// that is gone, and the records of both.
func (p *namespaces) reset(ctx context.Context, lab provider.Lab, name string) error {
	dir := state.NodeDir(lab.Dir, name)
	if _, err := os.Stat(dir); err == nil {
		if err := endAllUnder(ctx, dir); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(pinsOf(lab), name)), os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("clear its folder: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make its folder: %w", err)
	}
	return nil
}

// plug connects a machine to the switch and addresses it.
func plug(sw, node fabric.Namespace, t topology.Topology, name string, address netip.Addr, reset func() error) error {
	hs, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer hs.Close()
	hn, err := node.Netlink()
	if err != nil {
		return err
	}
	defer hn.Close()
	prt := fabric.Port{Name: name, MAC: fabric.MACOf(address), MTU: t.Switch.MTU, Hairpins: t.Nodes[name].Role == topology.RoleLoadBalancer}
	// A cable has two ends. Of one whose other end is gone, or lies in a switch
	// that was deleted and is still being dismantled, nothing is kept.
	if !fabric.HasLink(hn, fabric.InterfaceName) || !fabric.HasLink(hs, name) {
		if err := errors.Join(fabric.Unplug(hs, name), fabric.Unplug(hn, fabric.InterfaceName)); err != nil {
			return err
		}
		if err := reset(); err != nil {
			return err
		}
		if err := fabric.Connect(hs, node, prt); err != nil {
			return err
		}
	}
	if err := fabric.EnsurePort(sw, hs, prt); err != nil {
		return err
	}
	return ensureInterface(hn, netip.PrefixFrom(address, t.Switch.Subnet.Bits()), t.Switch.MTU, neighboursOf(t, name))
}

// RemoveNode implements provider.Provider.
func (p *namespaces) RemoveNode(ctx context.Context, lab provider.Lab, name string) error {
	ns, err := openOwn(lab, name)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	var errs *multierror.Error
	dir := state.NodeDir(lab.Dir, name)
	errs = multierror.Append(errs, endAllUnder(ctx, dir))
	if sw, err := openOwn(lab, switchName); err == nil {
		if h, err := sw.Netlink(); err == nil {
			errs = multierror.Append(errs, fabric.Unplug(h, name))
			h.Close()
		}
		sw.Close()
	}
	if !missing {
		ns.Close()
		errs = multierror.Append(errs, fabric.Delete(namespaceName(lab.Topology.Name, name)))
	} else {
		errs = multierror.Append(errs, fabric.RemoveEmptyName(namespaceName(lab.Topology.Name, name)))
	}
	errs = multierror.Append(errs, os.RemoveAll(filepath.Join(pinsOf(lab), name)), os.RemoveAll(dir))
	return errs.ErrorOrNil()
}

// Destroy implements provider.Provider.
func (p *namespaces) Destroy(ctx context.Context, lab provider.Lab) error {
	var errs *multierror.Error
	errs = multierror.Append(errs, endAllUnder(ctx, lab.Dir))
	found, err := fabric.Names(lab.Topology.Name)
	errs = multierror.Append(errs, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, 4)
	for _, name := range found {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ns, err := openOwn(lab, strings.TrimPrefix(name, lab.Topology.Name+"-"))
			if err == nil {
				ns.Close()
				err = fabric.Delete(name)
			} else if errors.Is(err, fs.ErrNotExist) {
				err = fabric.RemoveEmptyName(name)
			}
			if err != nil && !errors.Is(err, provider.ErrForeign) && !errors.Is(err, fs.ErrNotExist) {
				mu.Lock()
				errs = multierror.Append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if dir := pinsOf(lab); isBPFFS(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			errs = multierror.Append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	errs = multierror.Append(errs, fabric.ReleaseRunDir(ctx, filepath.Dir(lab.Dir)))
	return errs.ErrorOrNil()
}

// Machine implements provider.Provider.
func (p *namespaces) Machine(lab provider.Lab, name string) (provider.Machine, error) {
	if !slices.Contains(lab.Topology.MachineNames(), name) {
		return provider.Machine{}, fmt.Errorf("lab %s has no machine %q; it has %s", lab.Topology.Name, name, strings.Join(lab.Topology.MachineNames(), ", "))
	}
	g := nsGuest{name: namespaceName(lab.Topology.Name, name), machine: name, dir: state.NodeDir(lab.Dir, name), store: storeOf(lab), pushing: p.pushing}
	return provider.Machine{Guest: g, System: system{g, filepath.Join(pinsOf(lab), name)}}, nil
}

// Capture implements provider.Provider.
func (p *namespaces) Capture(_ context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	machine, link := place.Machine, fabric.InterfaceName
	if place.Port {
		machine, link = switchName, place.Machine
	}
	ns, err := openOwn(lab, machine)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	defer ns.Close()
	var session *capture.Session
	err = ns.Do(func() (err error) {
		session, err = capture.Start(link, capture.Options{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	return session, nil
}
