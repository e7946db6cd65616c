package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"l4lab/lab/provider"
	"l4lab/topology"
)

// Observe implements provider.Provider.
func (p *namespaces) Observe(ctx context.Context, lab provider.Lab) (provider.Actual, error) {
	t := lab.Topology
	actual := provider.Actual{Machines: map[string]provider.MachineState{}}
	found, err := names(t.Name)
	if err != nil {
		return actual, err
	}
	ports := map[string]netlink.Link{}
	wanted := append(t.MachineNames(), switchName)
	for _, name := range found {
		machine := strings.TrimPrefix(name, t.Name+"-")
		ns, err := openOwn(lab, machine)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, provider.ErrForeign) && !slices.Contains(wanted, machine):
			continue
		case err != nil:
			return actual, err
		}
		if machine == switchName {
			actual.Switch, ports, err = observeSwitch(ns, pinsOf(lab))
		} else {
			actual.Machines[machine], err = p.observeMachine(ctx, lab, ns, machine)
		}
		ns.close()
		if err != nil {
			return actual, fmt.Errorf("look at %s: %w", machine, err)
		}
	}
	for machine, m := range actual.Machines {
		if fault := portFault(ports[machine], ports[bridgeName], t, machine); fault != "" {
			m.Faults = append(m.Faults, fault)
			actual.Machines[machine] = m
		}
	}
	return actual, nil
}

func observeSwitch(ns namespace, pins string) (*provider.SwitchState, map[string]netlink.Link, error) {
	h, err := ns.netlink()
	if err != nil {
		return nil, nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list ports: %w", err)
	}
	var sw *provider.SwitchState
	ports := map[string]netlink.Link{}
	for _, l := range links {
		if l.Attrs().Name == bridgeName && l.Attrs().Flags&net.FlagUp != 0 && isBPFFS(pins) {
			sw = &provider.SwitchState{MTU: l.Attrs().MTU}
		}
		ports[l.Attrs().Name] = l
	}
	return sw, ports, nil
}

func (p *namespaces) observeMachine(ctx context.Context, lab provider.Lab, ns namespace, machine string) (provider.MachineState, error) {
	var m provider.MachineState
	h, err := ns.netlink()
	if err != nil {
		return m, err
	}
	defer h.Close()
	link, err := h.LinkByName(interfaceName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		m.Faults = append(m.Faults, interfaceName+" is missing")
		return m, nil
	}
	if err != nil {
		return m, err
	}
	m.MTU, m.MAC = link.Attrs().MTU, link.Attrs().HardwareAddr
	if link.Attrs().Flags&net.FlagUp == 0 {
		m.Faults = append(m.Faults, interfaceName+" is down")
	}
	if err := observeAddress(h, link, lab.Topology, machine, &m); err != nil {
		return m, err
	}
	if !slices.Contains(lab.Topology.MachineNames(), machine) {
		return m, nil // to be removed: what runs in it goes with it
	}
	mach, err := p.Machine(lab, machine)
	if err != nil {
		return m, err
	}
	m.Facts, err = mach.System.Observe(ctx)
	return m, err
}

// observeAddress notes the address and what of it and the neighbours is wrong.
func observeAddress(h *netlink.Handle, link netlink.Link, t topology.Topology, machine string, m *provider.MachineState) error {
	addresses, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for i, a := range addresses {
		ones, _ := a.Mask.Size()
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		if i == 0 {
			m.Prefix = netip.PrefixFrom(ip, ones)
		} else {
			m.Faults = append(m.Faults, "a further address "+a.IPNet.String())
		}
	}
	want, known := t.Address(machine)
	if !known {
		return nil
	}
	if prefix := netip.PrefixFrom(want, t.Switch.Subnet.Bits()); m.Prefix != prefix {
		m.Faults = append(m.Faults, fmt.Sprintf("address %s -> %s", m.Prefix, prefix))
	}
	if m.MTU != t.Switch.MTU {
		m.Faults = append(m.Faults, fmt.Sprintf("mtu %d -> %d", m.MTU, t.Switch.MTU))
	}
	if m.MAC.String() != macOf(want).String() {
		m.Faults = append(m.Faults, fmt.Sprintf("mac %s -> %s", m.MAC, macOf(want)))
	}
	have, err := permanentNeighbours(h, link)
	if err != nil {
		return err
	}
	added, changed := 0, 0
	for _, n := range neighboursOf(t, machine) {
		switch mac, ok := have[n]; {
		case !ok:
			added++
		case mac != macOf(n).String():
			changed++
		}
		delete(have, n)
	}
	if added+changed+len(have) > 0 {
		m.Faults = append(m.Faults, fmt.Sprintf("neighbours: %d missing, %d wrong, %d too many", added, changed, len(have)))
	}
	return nil
}

// portFault says what of a machine's port on the switch is wrong.
func portFault(link, bridge netlink.Link, t topology.Topology, machine string) string {
	switch {
	case link == nil:
		return "its port on the switch is missing"
	case bridge == nil || link.Attrs().MasterIndex != bridge.Attrs().Index:
		return "its port is not on the switch"
	case link.Attrs().Flags&net.FlagUp == 0:
		return "its port on the switch is down"
	case link.Attrs().MTU != t.Switch.MTU:
		return fmt.Sprintf("port mtu %d -> %d", link.Attrs().MTU, t.Switch.MTU)
	case t.Nodes[machine].Role == topology.RoleLoadBalancer && !hasXDP(link):
		return "its port on the switch has no XDP program"
	}
	return ""
}
