package netnsguests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
)

const (
	// hostNamespace is the host's own network, without the instance's prefix.
	hostNamespace = "host"
	// hostPort is the host's adapter at a switch.
	hostPort = "host"
	// defaultMTU is what an adapter has that nobody configured.
	defaultMTU = 1500
)

// segment is a switch.
type segment struct {
	name string
	// namespace holds the bridge; adapter is the host's interface on it.
	namespace, adapter string
	mac                net.HardwareAddr
}

func (g *Guests) makeHost(ctx context.Context) error {
	ns, err := g.namespace(ctx, hostNamespace, fabric.Quiet())
	if err != nil {
		return fmt.Errorf("the host's network: %w", err)
	}
	ns.Close()
	return nil
}

// namespace makes a namespace of the instance's.
func (g *Guests) namespace(ctx context.Context, what string, settings []fabric.Setting) (fabric.Namespace, error) {
	return fabric.EnsureOwn(ctx, g.options.Dir, g.namespaceName(what), markOf(g.options.Dir, what), settings)
}

// open opens a namespace of the instance's.
func (g *Guests) open(what string) (fabric.Namespace, error) {
	return fabric.OpenOwn(g.namespaceName(what), markOf(g.options.Dir, what))
}

// EnsureSwitch implements hvsim.Guests.
func (g *Guests) EnsureSwitch(ctx context.Context, name string) (net.HardwareAddr, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s, ok := g.switches[name]; ok {
		return s.mac, nil
	}
	g.lastSwitch++
	n := g.lastSwitch
	s := &segment{
		name: name, namespace: fmt.Sprintf("switch%d", n), adapter: fmt.Sprintf("vEthernet%d", n),
		mac: net.HardwareAddr{0x00, 0x15, 0x5d, 0xff, 0xfe, byte(n)}, // of Microsoft's, as all of Hyper-V's
	}
	if err := g.makeSwitch(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("switch %s: %w", name, err), g.removeSegment(s))
	}
	g.switches[name] = s
	return s.mac, nil
}

func (g *Guests) makeSwitch(ctx context.Context, s *segment) error {
	sw, err := g.namespace(ctx, s.namespace, fabric.Quiet())
	if err != nil {
		return err
	}
	defer sw.Close()
	h, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := fabric.EnsureBridge(h, fabric.MaxMTU); err != nil {
		return err
	}
	host, err := g.open(hostNamespace)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := plug(sw, host, fabric.Port{Name: hostPort, Peer: s.adapter, MAC: s.mac, MTU: fabric.MaxMTU, Locked: true}); err != nil {
		return err
	}
	hh, err := host.Netlink()
	if err != nil {
		return err
	}
	defer hh.Close()
	link, err := hh.LinkByName(s.adapter)
	if err != nil {
		return err
	}
	if err := hh.LinkSetAlias(link, "vEthernet ("+s.name+")"); err != nil {
		return fmt.Errorf("name the host's adapter: %w", err)
	}
	return hh.LinkSetUp(link)
}

// plug connects a namespace to a switch by a cable that carries finished
// frames. A port takes the largest frames that XDP does; each end has the MTU
// that its owner gives it.
func plug(sw, node fabric.Namespace, p fabric.Port) error {
	h, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := fabric.Connect(h, node, p); err != nil {
		return err
	}
	if err := fabric.EnsurePort(sw, h, p); err != nil {
		return err
	}
	peer := p.Peer
	if peer == "" {
		peer = fabric.InterfaceName
	}
	if err := errors.Join(fabric.FinishFrames(sw, p.Name), fabric.FinishFrames(node, peer)); err != nil {
		return err
	}
	hn, err := node.Netlink()
	if err != nil {
		return err
	}
	defer hn.Close()
	link, err := hn.LinkByName(peer)
	if err != nil {
		return err
	}
	return hn.LinkSetMTU(link, defaultMTU)
}

// RemoveSwitch implements hvsim.Guests.
func (g *Guests) RemoveSwitch(_ context.Context, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.switches[name]
	if !ok {
		return nil
	}
	for _, m := range g.machines {
		if m.machine.Switch == name && m.State().Running {
			return fmt.Errorf("switch %s: machine %s is on it", name, m.machine.Name)
		}
	}
	for _, m := range g.outside {
		if m.Switch == name {
			return fmt.Errorf("switch %s: machine %s is on it", name, m.Name)
		}
	}
	if err := g.removeSegment(s); err != nil {
		return fmt.Errorf("remove switch %s: %w", name, err)
	}
	delete(g.switches, name)
	return nil
}

func (g *Guests) removeSegment(s *segment) error {
	sw, err := g.open(s.namespace)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sw.Close()
	// The cable goes now, whenever the kernel dismantles the namespace.
	h, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return errors.Join(fabric.Unplug(h, hostPort), fabric.Delete(g.namespaceName(s.namespace)))
}

// SetHost implements hvsim.Guests.
func (g *Guests) SetHost(_ context.Context, n hvsim.HostNetwork) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.switches[n.Switch]
	if !ok {
		return fmt.Errorf("the host has no adapter on switch %s: there is no such switch", n.Switch)
	}
	host, err := g.open(hostNamespace)
	if err != nil {
		return err
	}
	defer host.Close()
	h, err := host.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(s.adapter)
	if err != nil {
		return fmt.Errorf("the host's adapter on switch %s: %w", n.Switch, err)
	}
	if n.MTU != 0 && n.MTU != link.Attrs().MTU {
		if err := h.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("set the MTU of the host's adapter to %d: %w (the most that XDP takes is %d)", n.MTU, err, fabric.MaxMTU)
		}
	}
	if err := fabric.EnsureAddresses(h, link, n.Addresses); err != nil {
		return fmt.Errorf("the host's adapter on switch %s: %w", n.Switch, err)
	}
	if err := setRoutes(h, link, n.Routes); err != nil {
		return fmt.Errorf("the host's adapter on switch %s: %w", n.Switch, err)
	}
	return nil
}

// setRoutes gives an interface exactly these routes besides the kernel's own.
func setRoutes(h *netlink.Handle, link netlink.Link, want map[netip.Prefix]netip.Addr) error {
	have, err := h.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		if r.Protocol == kernelRoute || r.Dst == nil {
			continue
		}
		p, err := netip.ParsePrefix(r.Dst.String())
		if _, wanted := want[p]; err == nil && wanted {
			continue
		}
		if err := h.RouteDel(&r); err != nil {
			return fmt.Errorf("remove the route to %s: %w", r.Dst, err)
		}
	}
	for p, via := range want {
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: fabric.IPNet(p), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add the route to %s via %s: %w", p, via, err)
		}
	}
	return nil
}

// kernelRoute is RTPROT_KERNEL of rtnetlink(7): what an address brings along.
const kernelRoute = 2
