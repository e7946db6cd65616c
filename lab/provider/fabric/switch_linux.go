package fabric

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"l4lab/bpf"
)

const (
	// BridgeName is the bridge in a switch's namespace.
	BridgeName = "br0"
	// InterfaceName is a machine's end of its cable.
	InterfaceName = "eth0"
	// MaxMTU is the largest MTU at which native XDP without frags attaches to a
	// veth with a standard page (measured on 6.18: 3506 works, 3510 does not).
	MaxMTU = 3506
)

// EnsureBridge creates br0 or corrects its MTU.
func EnsureBridge(h *netlink.Handle, mtu int) (netlink.Link, error) {
	link, err := h.LinkByName(BridgeName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Flags = BridgeName, mtu, net.FlagUp
		snooping := false
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return nil, fmt.Errorf("create bridge %s: %w", BridgeName, err)
		}
		link, err = h.LinkByName(BridgeName)
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", BridgeName, err)
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("set the MTU of %s to %d: %w", BridgeName, mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bring %s up: %w", BridgeName, err)
		}
	}
	return link, nil
}

// Port is a place on the switch with the cable to a machine.
type Port struct {
	// Name is the interface at the switch, Peer the machine's end; "" is InterfaceName.
	Name, Peer string
	// MAC is the machine's.
	MAC net.HardwareAddr
	MTU int
	// Hairpins says that the machine may send frames back from XDP, as the balancer does.
	Hairpins bool
	// Locked drops frames that come from the machine with another source address
	// than MAC (bridge(8): locked; kernel 5.18).
	Locked bool
}

// Connect makes the cable between a machine and the switch, both ends where
// they belong from the start: moving a link between namespaces costs an RCU
// grace period each.
func Connect(sw *netlink.Handle, node Namespace, p Port) error {
	bridge, err := sw.LinkByName(BridgeName)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", BridgeName, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = p.Name, p.MTU, bridge.Attrs().Index, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         p.peer(),
		PeerHardwareAddr: p.MAC,
		PeerNamespace:    netlink.NsFd(node.ns),
	}
	if err := sw.LinkAdd(veth); err != nil {
		return fmt.Errorf("create the cable to %s: %w", p.Name, err)
	}
	return nil
}

// EnsurePort corrects the switch's end: MTU, forwarding by a fixed table
// instead of flooding, and, for the balancer, what XDP_TX out of a veth needs.
func EnsurePort(sw Namespace, h *netlink.Handle, p Port) error {
	link, err := h.LinkByName(p.Name)
	if err != nil {
		return fmt.Errorf("find port %s: %w", p.Name, err)
	}
	// The cable and its place on the bridge are two requests to the kernel: a
	// labctl that was killed between them left a port on nothing.
	bridge, err := h.LinkByName(BridgeName)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", BridgeName, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := h.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("put port %s on %s: %w", p.Name, BridgeName, err)
		}
	}
	if link.Attrs().MTU != p.MTU {
		if err := h.LinkSetMTU(link, p.MTU); err != nil {
			return fmt.Errorf("set the MTU of port %s to %d: %w", p.Name, p.MTU, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring port %s up: %w", p.Name, err)
		}
	}
	// A bridge floods frames for MACs it has not learned, and every backend's
	// XDP program would see them; with a fixed table it need not learn.
	if err := h.LinkSetFlood(link, false); err != nil {
		return fmt.Errorf("turn flooding off on port %s: %w", p.Name, err)
	}
	if err := h.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("turn learning off on port %s: %w", p.Name, err)
	}
	// NOARP makes it a static entry; PERMANENT would mean a MAC of the bridge's own.
	err = h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, HardwareAddr: p.MAC,
		State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER,
	})
	if err != nil {
		return fmt.Errorf("write %s into the switch's table at port %s: %w", p.MAC, p.Name, err)
	}
	if p.Locked {
		if err := lock(sw, link); err != nil {
			return err
		}
	}
	if !p.Hairpins {
		return nil
	}
	return enableHairpin(sw, link)
}

func (p Port) peer() string {
	if p.Peer == "" {
		return InterfaceName
	}
	return p.Peer
}

// bridgePortLocked is IFLA_BRPORT_LOCKED of linux/if_link.h, which neither
// netlink package names.
const bridgePortLocked = 39

// lock has a port take only frames whose source address leads to it in the
// forwarding table.
func lock(sw Namespace, link netlink.Link) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	message := nl.NewIfInfomsg(unix.AF_BRIDGE)
	message.Index = int32(link.Attrs().Index)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(bridgePortLocked, nl.Uint8Attr(1))
	request.AddData(message)
	request.AddData(info)
	err := sw.Do(func() error {
		_, err := request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("have port %s take frames of its machine alone: %w", link.Attrs().Name, err)
	}
	return nil
}

// enableHairpin makes XDP_TX on the other end arrive here. veth drops such
// frames unless this end runs a native program of its own, and frames whose
// checksum is still to be filled in would be balanced with a wrong one.
func enableHairpin(sw Namespace, link netlink.Link) error {
	name := link.Attrs().Name
	if err := turnOff(sw, name, checksumFeature); err != nil {
		return err
	}
	if HasXDP(link) {
		return nil
	}
	program, err := ebpf.NewProgram(bpf.PassProgram())
	if err != nil {
		return fmt.Errorf("load the program for port %s: %w", name, err)
	}
	defer program.Close()
	// By netlink, not as a BPF link: it is to live as long as the port does.
	err = sw.Do(func() error {
		return netlink.LinkSetXdpFdWithFlags(link, program.FD(), unix.XDP_FLAGS_DRV_MODE)
	})
	if err != nil {
		return fmt.Errorf("attach XDP to port %s: %w", name, err)
	}
	return nil
}
