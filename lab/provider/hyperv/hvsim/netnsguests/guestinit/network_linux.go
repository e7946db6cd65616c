package guestinit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strings"

	"github.com/vishvananda/netlink"

	"l4lab/lab/provider/fabric"
)

// configureNetwork gives each interface that an entry matches its addresses,
// its MTU and its routes.
func configureNetwork(c networkConfig) error {
	if c.Version != 2 && len(c.Ethernets) > 0 {
		return fmt.Errorf("network-config of version %d is not known here, only 2", c.Version)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for name, e := range c.Ethernets {
		link := e.find(name, links)
		if link == nil {
			errs = append(errs, fmt.Errorf("%s: no interface matches (macaddress %q, name %q)", name, e.Match.MAC, e.Match.Name))
			continue
		}
		if err := e.apply(h, link); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// find returns the interface that an entry is for, nil for none.
func (e seedEthernet) find(entry string, links []netlink.Link) netlink.Link {
	for _, l := range links {
		mac, name := l.Attrs().HardwareAddr.String(), l.Attrs().Name
		if name == "lo" {
			continue
		}
		if e.Match.MAC == "" && e.Match.Name == "" {
			if name == entry {
				return l
			}
			continue
		}
		matches, err := path.Match(e.Match.Name, name)
		if (e.Match.MAC == "" || strings.EqualFold(mac, e.Match.MAC)) && (e.Match.Name == "" || err == nil && matches) {
			return l
		}
	}
	return nil
}

func (e seedEthernet) apply(h *netlink.Handle, link netlink.Link) error {
	if e.DHCP4 || e.DHCP6 {
		return errors.New("there is no DHCP on a simulated switch")
	}
	var prefixes []netip.Prefix
	for _, text := range e.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return fmt.Errorf("address %q is no IPv4 prefix", text)
		}
		prefixes = append(prefixes, p)
	}
	if e.SetName != "" && e.SetName != link.Attrs().Name {
		if err := h.LinkSetName(link, e.SetName); err != nil {
			return fmt.Errorf("name it %s: %w", e.SetName, err)
		}
	}
	if e.MTU != 0 {
		if err := h.LinkSetMTU(link, e.MTU); err != nil {
			return fmt.Errorf("set its MTU to %d: %w", e.MTU, err)
		}
	}
	if err := fabric.EnsureAddresses(h, link, prefixes); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	routes := e.Routes
	if e.Gateway4 != "" {
		routes = append(routes, seedRoute{To: "default", Via: e.Gateway4})
	}
	for _, r := range routes {
		if err := addRoute(h, link, r); err != nil {
			return fmt.Errorf("route to %s: %w", r.To, err)
		}
	}
	return nil
}

func addRoute(h *netlink.Handle, link netlink.Link, r seedRoute) error {
	via, err := netip.ParseAddr(r.Via)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice(), Priority: r.Metric, MTU: r.MTU}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	switch to, err := netip.ParsePrefix(r.To); {
	case r.To == "default" || r.To == "0.0.0.0/0":
		route.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	case err != nil:
		return err
	default:
		route.Dst = fabric.IPNet(to)
	}
	return h.RouteReplace(route)
}
