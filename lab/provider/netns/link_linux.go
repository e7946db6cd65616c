package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
)

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
	link, err := h.LinkByName(fabric.InterfaceName)
	if err != nil {
		return fmt.Errorf("find %s: %w", fabric.InterfaceName, err)
	}
	if mac := fabric.MACOf(prefix.Addr()); link.Attrs().HardwareAddr.String() != mac.String() {
		if err := h.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set the MAC of %s to %s: %w", fabric.InterfaceName, mac, err)
		}
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", fabric.InterfaceName, mtu, err)
		}
	}
	if err := fabric.EnsureAddresses(h, link, []netip.Prefix{prefix}); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", fabric.InterfaceName, err)
		}
	}
	return ensureNeighbours(h, link, neighbours)
}

func ensureNeighbours(h *netlink.Handle, link netlink.Link, want []netip.Addr) error {
	have, err := permanentNeighbours(h, link)
	if err != nil {
		return err
	}
	for _, a := range want {
		mac := fabric.MACOf(a)
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
		return nil, fmt.Errorf("list neighbours of %s: %w", fabric.InterfaceName, err)
	}
	have := make(map[netip.Addr]string, len(list))
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 {
			have[a] = n.HardwareAddr.String()
		}
	}
	return have, nil
}
