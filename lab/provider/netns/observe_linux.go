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
	"golang.org/x/sys/unix"

	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/topology"
)

// Observe implements provider.Provider.
func (p *namespaces) Observe(ctx context.Context, lab provider.Lab) (provider.Actual, error) {
	t := lab.Topology
	actual := provider.Actual{Machines: map[string]provider.MachineState{}}
	found, err := fabric.Names(t.Name)
	if err != nil {
		return actual, err
	}
	var sw switchView
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
			actual.Switch, sw, err = observeSwitch(ns, pinsOf(lab), t)
		} else {
			actual.Machines[machine], err = p.observeMachine(ctx, lab, ns, machine)
		}
		ns.Close()
		if err != nil {
			return actual, fmt.Errorf("look at %s: %w", machine, err)
		}
	}
	for machine, m := range actual.Machines {
		if fault := sw.fault(t, machine, t.Nodes[machine].Role == topology.RoleLoadBalancer); fault != "" {
			m.Faults = append(m.Faults, fault)
			actual.Machines[machine] = m
		}
	}
	return actual, nil
}

// switchView is what the switch's namespace has.
type switchView struct {
	ports map[string]netlink.Link
	// table is the fixed forwarding table: MAC to index of the port.
	table map[string]int
	// summing says that the balancer's port leaves checksums to be filled in.
	summing bool
}

func observeSwitch(ns fabric.Namespace, pins string, t topology.Topology) (*provider.SwitchState, switchView, error) {
	v := switchView{ports: map[string]netlink.Link{}, table: map[string]int{}}
	h, err := ns.Netlink()
	if err != nil {
		return nil, v, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, v, fmt.Errorf("list ports: %w", err)
	}
	var sw *provider.SwitchState
	for _, l := range links {
		if l.Attrs().Name == fabric.BridgeName && l.Attrs().Flags&net.FlagUp != 0 && isBPFFS(pins) {
			sw = &provider.SwitchState{MTU: l.Attrs().MTU}
		}
		v.ports[l.Attrs().Name] = l
	}
	table, err := h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return nil, v, fmt.Errorf("list the forwarding table: %w", err)
	}
	for _, e := range table {
		if e.State&netlink.NUD_NOARP != 0 && e.State&netlink.NUD_PERMANENT == 0 {
			v.table[e.HardwareAddr.String()] = e.LinkIndex
		}
	}
	if _, ok := v.ports[t.LoadBalancer()]; ok {
		v.summing, err = fabric.LeavesChecksums(ns, t.LoadBalancer())
	}
	if errors.Is(err, unix.ENODEV) {
		// The port went since it was listed: the other end's namespace was deleted.
		delete(v.ports, t.LoadBalancer())
		err = nil
	}
	return sw, v, err
}

func (p *namespaces) observeMachine(ctx context.Context, lab provider.Lab, ns fabric.Namespace, machine string) (provider.MachineState, error) {
	var m provider.MachineState
	h, err := ns.Netlink()
	if err != nil {
		return m, err
	}
	defer h.Close()
	link, err := h.LinkByName(fabric.InterfaceName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		m.Faults = append(m.Faults, fabric.InterfaceName+" is missing")
		return m, nil
	}
	if err != nil {
		return m, err
	}
	m.MTU, m.MAC = link.Attrs().MTU, link.Attrs().HardwareAddr
	if link.Attrs().Flags&net.FlagUp == 0 {
		m.Faults = append(m.Faults, fabric.InterfaceName+" is down")
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
	settings, err := settingFaults(ns, lab.Topology, machine)
	if err != nil {
		return m, err
	}
	m.Faults = append(m.Faults, settings...)
	if lo, err := h.LinkByName("lo"); err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		m.Faults = append(m.Faults, "lo is down")
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
	if m.MAC.String() != fabric.MACOf(want).String() {
		m.Faults = append(m.Faults, fmt.Sprintf("mac %s -> %s", m.MAC, fabric.MACOf(want)))
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
		case mac != fabric.MACOf(n).String():
			changed++
		}
		delete(have, n)
	}
	if added+changed+len(have) > 0 {
		m.Faults = append(m.Faults, fmt.Sprintf("neighbours: %d missing, %d wrong, %d too many", added, changed, len(have)))
	}
	return nil
}

// PortFaults says what of the nodes' places on a lab's switch is wrong, "" of those that
// are as they should be: for a provider that plugs other machines than namespaces in.
func PortFaults(lab provider.Lab) (map[string]string, error) {
	faults := map[string]string{}
	sw, err := OpenSwitch(lab)
	if errors.Is(err, fs.ErrNotExist) {
		return faults, nil
	}
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	_, view, err := observeSwitch(sw, pinsOf(lab), lab.Topology)
	if err != nil {
		return nil, err
	}
	for _, name := range lab.Topology.NodeNames() {
		faults[name] = view.fault(lab.Topology, name, false)
	}
	return faults, nil
}

// fault says what of a machine's port on the switch is wrong, "" when nothing is. hairpins
// asks for what a machine needs that sends from XDP into a veth.
func (v switchView) fault(t topology.Topology, machine string, hairpins bool) string {
	link, bridge := v.ports[machine], v.ports[fabric.BridgeName]
	address, known := t.Address(machine)
	switch {
	case link == nil:
		return "its port on the switch is missing"
	case bridge == nil || link.Attrs().MasterIndex != bridge.Attrs().Index:
		return "its port is not on the switch"
	case link.Attrs().Flags&net.FlagUp == 0:
		return "its port on the switch is down"
	case link.Attrs().MTU != t.Switch.MTU:
		return fmt.Sprintf("port mtu %d -> %d", link.Attrs().MTU, t.Switch.MTU)
	case known && v.table[fabric.MACOf(address).String()] != link.Attrs().Index:
		return "the switch does not send its MAC to its port"
	case hairpins && !fabric.HasXDP(link):
		return "its port on the switch has no XDP program"
	case hairpins && v.summing:
		return "its port on the switch leaves checksums to be filled in"
	}
	return ""
}

// settingFaults returns the sysctls of a machine's namespace that are not as
// EnsureNode writes them.
func settingFaults(ns fabric.Namespace, t topology.Topology, machine string) ([]string, error) {
	var faults []string
	err := ns.Do(func() error {
		for _, s := range settingsOf(t, machine) {
			have, err := s.Read()
			if err != nil {
				return err
			}
			if have != s.Value {
				faults = append(faults, fmt.Sprintf("%s %s -> %s", s.Path, have, s.Value))
			}
		}
		return nil
	})
	return faults, err
}
