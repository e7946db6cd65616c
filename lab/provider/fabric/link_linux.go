package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MACOf derives a machine's MAC from its address: locally administered, and
// the same at every up, so that neighbour entries can be written beforehand.
func MACOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x4c, b[0], b[1], b[2], b[3]}
}

// HasLink says whether there is an interface of that name.
func HasLink(h *netlink.Handle, name string) bool {
	_, err := h.LinkByName(name)
	return !errors.As(err, &netlink.LinkNotFoundError{})
}

// HasXDP says whether an XDP program is attached to an interface.
func HasXDP(link netlink.Link) bool {
	x := link.Attrs().Xdp
	return x != nil && x.Attached
}

// Unplug removes one end of a cable, and with it the other.
func Unplug(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	// It may have gone meanwhile with the other end's namespace.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the cable's end %s: %w", name, err)
	}
	return nil
}

// EnsureAddresses gives an interface exactly these IPv4 addresses.
func EnsureAddresses(h *netlink.Handle, link netlink.Link, want []netip.Prefix) error {
	name := link.Attrs().Name
	have, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	var kept []string
	for _, a := range have {
		if slices.ContainsFunc(want, func(p netip.Prefix) bool { return p.String() == a.IPNet.String() }) {
			kept = append(kept, a.IPNet.String())
			continue
		}
		if err := h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	for _, p := range want {
		if slices.Contains(kept, p.String()) {
			continue
		}
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: IPNet(p)}); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

// EnsureVIPs gives the loopback exactly these addresses besides 127.0.0.0/8, as /32.
func EnsureVIPs(h *netlink.Handle, lo netlink.Link, vips []netip.Addr) error {
	have, err := VIPs(h, lo)
	if err != nil {
		return err
	}
	want := make(map[netip.Addr]bool, len(vips))
	for _, vip := range vips {
		want[vip] = true
	}
	for _, a := range have {
		if want[a] {
			delete(want, a)
			continue
		}
		if err := h.AddrDel(lo, &netlink.Addr{IPNet: IPNet(netip.PrefixFrom(a, 32))}); err != nil {
			return fmt.Errorf("take the VIP %s off lo: %w", a, err)
		}
	}
	for a := range want {
		if err := h.AddrAdd(lo, &netlink.Addr{IPNet: IPNet(netip.PrefixFrom(a, 32))}); err != nil {
			return fmt.Errorf("put the VIP %s on lo: %w", a, err)
		}
	}
	return nil
}

// VIPs returns lo's addresses but 127.0.0.0/8.
func VIPs(h *netlink.Handle, lo netlink.Link) ([]netip.Addr, error) {
	list, err := h.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses of lo: %w", err)
	}
	var vips []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && !ip.IsLoopback() {
			vips = append(vips, ip)
		}
	}
	return vips, nil
}

// IPNet is a prefix as package net has it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
