package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/bpf"
)

const (
	bridgeName    = "br0"
	interfaceName = "eth0"
)

// macOf derives a machine's MAC from its address: locally administered, and
// the same at every up, so that neighbour entries can be written beforehand.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x4c, b[0], b[1], b[2], b[3]}
}

// ensureBridge creates br0 or corrects its MTU.
func ensureBridge(h *netlink.Handle, mtu int) (netlink.Link, error) {
	link, err := h.LinkByName(bridgeName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Flags = bridgeName, mtu, net.FlagUp
		snooping := false
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return nil, fmt.Errorf("create bridge %s: %w", bridgeName, err)
		}
		link, err = h.LinkByName(bridgeName)
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("set the MTU of %s to %d: %w", bridgeName, mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bring %s up: %w", bridgeName, err)
		}
	}
	return link, nil
}

// port is a machine's end on the switch.
type port struct {
	machine string
	mac     net.HardwareAddr
	mtu     int
	// hairpins says that the machine sends frames back from XDP (the balancer).
	hairpins bool
}

// connect makes the cable between a machine and the switch, both ends where
// they belong from the start: moving a link between namespaces costs an RCU
// grace period each.
func connect(sw *netlink.Handle, node namespace, p port) error {
	bridge, err := sw.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = p.machine, p.mtu, bridge.Attrs().Index, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         interfaceName,
		PeerHardwareAddr: p.mac,
		PeerNamespace:    netlink.NsFd(node.ns),
	}
	if err := sw.LinkAdd(veth); err != nil {
		return fmt.Errorf("create the cable to %s: %w", p.machine, err)
	}
	return nil
}

// ensurePort corrects the switch's end: MTU, forwarding by a fixed table
// instead of flooding, and, for the balancer, what XDP_TX out of a veth needs.
func ensurePort(sw namespace, h *netlink.Handle, p port) error {
	link, err := h.LinkByName(p.machine)
	if err != nil {
		return fmt.Errorf("find port %s: %w", p.machine, err)
	}
	// The cable and its place on the bridge are two requests to the kernel: a
	// labctl that was killed between them left a port on nothing.
	bridge, err := h.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := h.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("put port %s on %s: %w", p.machine, bridgeName, err)
		}
	}
	if link.Attrs().MTU != p.mtu {
		if err := h.LinkSetMTU(link, p.mtu); err != nil {
			return fmt.Errorf("set the MTU of port %s to %d: %w", p.machine, p.mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring port %s up: %w", p.machine, err)
		}
	}
	// A bridge floods frames for MACs it has not learned, and every backend's
	// XDP program would see them; with a fixed table it need not learn.
	if err := h.LinkSetFlood(link, false); err != nil {
		return fmt.Errorf("turn flooding off on port %s: %w", p.machine, err)
	}
	if err := h.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("turn learning off on port %s: %w", p.machine, err)
	}
	// NOARP makes it a static entry; PERMANENT would mean a MAC of the bridge's own.
	err = h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, HardwareAddr: p.mac,
		State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER,
	})
	if err != nil {
		return fmt.Errorf("write %s into the switch's table at port %s: %w", p.mac, p.machine, err)
	}
	if !p.hairpins {
		return nil
	}
	return enableHairpin(sw, link)
}

// enableHairpin makes XDP_TX on the other end arrive here. veth drops such
// frames unless this end runs a native program of its own, and frames whose
// checksum is still to be filled in would be balanced with a wrong one.
func enableHairpin(sw namespace, link netlink.Link) error {
	name := link.Attrs().Name
	err := sw.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(name, map[string]bool{checksumFeature: false})
	})
	if err != nil {
		return fmt.Errorf("turn transmit checksum offload off on port %s: %w", name, err)
	}
	if hasXDP(link) {
		return nil
	}
	program, err := ebpf.NewProgram(bpf.PassProgram())
	if err != nil {
		return fmt.Errorf("load the program for port %s: %w", name, err)
	}
	defer program.Close()
	// By netlink, not as a BPF link: it is to live as long as the port does.
	err = sw.do(func() error {
		return netlink.LinkSetXdpFdWithFlags(link, program.FD(), unix.XDP_FLAGS_DRV_MODE)
	})
	if err != nil {
		return fmt.Errorf("attach XDP to port %s: %w", name, err)
	}
	return nil
}

// checksumFeature is ethtool's name of the offload that leaves checksums to the card.
const checksumFeature = "tx-checksum-ip-generic"

// leavesChecksums says whether a port still has the offload on.
func leavesChecksums(sw namespace, name string) (on bool, err error) {
	err = sw.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		features, err := e.Features(name)
		on = features[checksumFeature]
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read the offloads of port %s: %w", name, err)
	}
	return on, nil
}

// ensureInterface corrects the machine's end: MAC, MTU, address, and fixed
// neighbours, which do not count against the kernel's limit of 1,024 entries
// over all namespaces (gc_thresh3).
func ensureInterface(h *netlink.Handle, prefix netip.Prefix, mtu int, neighbours []netip.Addr) error {
	lo, err := h.LinkByName("lo")
	if err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	link, err := h.LinkByName(interfaceName)
	if err != nil {
		return fmt.Errorf("find %s: %w", interfaceName, err)
	}
	if mac := macOf(prefix.Addr()); link.Attrs().HardwareAddr.String() != mac.String() {
		if err := h.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set the MAC of %s to %s: %w", interfaceName, mac, err)
		}
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", interfaceName, mtu, err)
		}
	}
	if err := ensureAddress(h, link, prefix); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", interfaceName, err)
		}
	}
	return ensureNeighbours(h, link, neighbours)
}

func ensureAddress(h *netlink.Handle, link netlink.Link, prefix netip.Prefix) error {
	have, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", interfaceName, err)
	}
	there := false
	for _, a := range have {
		if a.IPNet.String() == prefix.String() {
			there = true
			continue
		}
		if err := h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	if there {
		return nil
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(prefix)}); err != nil {
		return fmt.Errorf("add address %s: %w", prefix, err)
	}
	return nil
}

func ensureNeighbours(h *netlink.Handle, link netlink.Link, want []netip.Addr) error {
	have, err := permanentNeighbours(h, link)
	if err != nil {
		return err
	}
	for _, a := range want {
		mac := macOf(a)
		if have[a] == mac.String() {
			delete(have, a)
			continue
		}
		delete(have, a)
		err := h.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4,
			IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		})
		if err != nil {
			return fmt.Errorf("write neighbour %s: %w", a, err)
		}
	}
	for a := range have {
		err := h.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, IP: a.AsSlice()})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s: %w", a, err)
		}
	}
	return nil
}

// permanentNeighbours returns the fixed entries: address to MAC.
func permanentNeighbours(h *netlink.Handle, link netlink.Link) (map[netip.Addr]string, error) {
	list, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list neighbours of %s: %w", interfaceName, err)
	}
	have := make(map[netip.Addr]string, len(list))
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 {
			have[a] = n.HardwareAddr.String()
		}
	}
	return have, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
