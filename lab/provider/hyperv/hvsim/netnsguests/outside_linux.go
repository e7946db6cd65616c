package netnsguests

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
)

// What follows is for machines that others run on these switches (package
// qemuguests).

// Path is a path in the instance's folder.
func (g *Guests) Path(parts ...string) string { return g.path(parts...) }

// Environment is what the instance's processes bear, by which New and Close find
// and end them.
func (g *Guests) Environment() []string { return []string{guestinit.Mark + "=" + g.options.Dir} }

// portName is a machine's interface at the switch. An interface's name holds 15
// characters; a machine's MAC is unique on its switch.
func portName(mac net.HardwareAddr) string { return fmt.Sprintf("vm%x", []byte(mac)) }

// ConnectTap gives a machine its place on its switch, a tap, and returns the tap's
// name. Captures of the machine's port are at it from now on.
func (g *Guests) ConnectTap(m hvsim.Machine) (name string, err error) {
	err = g.onSwitch(m.Switch, func(sw fabric.Namespace, h *netlink.Handle) error {
		name = portName(m.MAC)
		if err := fabric.EnsureTap(sw, h, name); err != nil {
			return err
		}
		return fabric.EnsurePort(sw, h, fabric.Port{Name: name, MAC: m.MAC, MTU: fabric.MaxMTU, Locked: !m.Spoofing})
	})
	if err != nil {
		return "", fmt.Errorf("connect it to switch %s: %w", m.Switch, err)
	}
	g.mu.Lock()
	g.outside[m.ID] = m
	g.mu.Unlock()
	return name, g.portIsNew(m.ID)
}

// DisconnectTap removes a machine's tap.
func (g *Guests) DisconnectTap(m hvsim.Machine) error {
	g.mu.Lock()
	_, connected := g.outside[m.ID]
	delete(g.outside, m.ID)
	g.mu.Unlock()
	if !connected {
		return nil
	}
	return g.onSwitch(m.Switch, func(_ fabric.Namespace, h *netlink.Handle) error { return fabric.Unplug(h, portName(m.MAC)) })
}

// InSwitch runs a function in the network of a switch, where its taps are, or in
// the host's for a machine that is on none ("").
func (g *Guests) InSwitch(name string, run func() error) error {
	if name != "" {
		return g.onSwitch(name, func(sw fabric.Namespace, _ *netlink.Handle) error { return sw.Do(run) })
	}
	host, err := g.open(hostNamespace)
	if err != nil {
		return err
	}
	defer host.Close()
	return host.Do(run)
}

func (g *Guests) onSwitch(name string, work func(fabric.Namespace, *netlink.Handle) error) error {
	g.mu.Lock()
	s, ok := g.switches[name]
	g.mu.Unlock()
	if !ok {
		return fmt.Errorf("there is no switch %s", name)
	}
	sw, err := g.open(s.namespace)
	if err != nil {
		return err
	}
	defer sw.Close()
	h, err := sw.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return work(sw, h)
}
