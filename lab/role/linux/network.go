package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"l4lab/lab/role"
)

// routeProtocol marks the routes that labctl writes, so that a user's own stay.
const routeProtocol = "76"

// link is an interface as `ip -json address` prints it.
type link struct {
	Name      string `json:"ifname"`
	Addresses []struct {
		Family string     `json:"family"`
		Local  netip.Addr `json:"local"`
	} `json:"addr_info"`
	// XDP is there when a program is attached.
	XDP json.RawMessage `json:"xdp"`
}

// links are a machine's interfaces.
type links []link

// withAddress returns the interface that has an address.
func (l links) withAddress(a netip.Addr) (link, bool) {
	for _, candidate := range l {
		for _, has := range candidate.Addresses {
			if has.Local == a && candidate.Name != "lo" {
				return candidate, true
			}
		}
	}
	return link{}, false
}

// vips are lo's addresses but 127.0.0.0/8.
func (l links) vips() []netip.Addr {
	var vips []netip.Addr
	for _, candidate := range l {
		if candidate.Name != "lo" {
			continue
		}
		for _, has := range candidate.Addresses {
			if has.Family == "inet" && !has.Local.IsLoopback() {
				vips = append(vips, has.Local)
			}
		}
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return vips
}

func (s *System) links(ctx context.Context) (links, error) {
	out, err := s.run(ctx, nil, "ip", "-json", "address", "show")
	if err != nil {
		return nil, s.errorf("list addresses: %w", err)
	}
	return parseLinks(s, out)
}

func parseLinks(s *System, out string) (links, error) {
	var l links
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		return nil, s.errorf("list addresses: `ip -json address show` cannot be understood: %w", err)
	}
	return l, nil
}

// device returns the name of the node's interface.
func (s *System) device(l links) (string, error) {
	own, ok := l.withAddress(s.Address)
	if !ok {
		names := make([]string, len(l))
		for i, candidate := range l {
			names[i] = candidate.Name
		}
		return "", s.errorf("%w %s (there are %s); `ip address` on the machine shows more", ErrNoInterface, s.Address, strings.Join(names, ", "))
	}
	return own.Name, nil
}

// parseRoutes reads `ip -json route show proto 76`.
func parseRoutes(s *System, out string) ([]role.Route, error) {
	if strings.TrimSpace(out) == "" {
		return nil, nil
	}
	var list []struct {
		Destination string     `json:"dst"`
		Gateway     netip.Addr `json:"gateway"`
		Metrics     []struct {
			MTU int `json:"mtu"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, s.errorf("list routes: `ip -json route show` cannot be understood: %w", err)
	}
	var routes []role.Route
	for _, r := range list {
		destination, err := netip.ParseAddr(strings.TrimSuffix(r.Destination, "/32"))
		if err != nil || !r.Gateway.IsValid() {
			continue
		}
		route := role.Route{Destination: destination, Via: r.Gateway}
		for _, m := range r.Metrics {
			route.MTU = max(route.MTU, m.MTU)
		}
		routes = append(routes, route)
	}
	sortRoutes(routes)
	return routes, nil
}

func sortRoutes(routes []role.Route) {
	slices.SortFunc(routes, func(a, b role.Route) int { return a.Destination.Compare(b.Destination) })
}

// quietARP keeps a machine from answering ARP for its VIPs, which are the
// balancer's on the wire, and from naming them as its own when it asks
// (ip-sysctl.rst: arp_ignore 1, arp_announce 2).
const quietARP = "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore && echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce"

// EnsureVIPs implements role.System: the addresses go on lo, as /32.
func (s *System) EnsureVIPs(ctx context.Context, vips []netip.Addr) error {
	vips = slices.Clone(vips)
	slices.SortFunc(vips, netip.Addr.Compare)
	u := unit{name: vipsUnit, description: "l4lab: virtual addresses", oneshot: true, start: [][]string{{"/bin/sh", "-c", quietARP}}}
	var texts []string
	for _, vip := range vips {
		texts = append(texts, vip.String())
		u.start = append(u.start, []string{"ip", "address", "replace", vip.String() + "/32", "dev", "lo"})
	}
	u.Spec = strings.Join(texts, " ")
	have, err := s.links(ctx)
	if err != nil {
		return err
	}
	if len(vips) == 0 {
		if err := s.removeUnit(ctx, vipsUnit); err != nil {
			return err
		}
	} else {
		changed, err := s.ensureUnit(ctx, u)
		if err != nil {
			return err
		}
		if changed || !slices.Equal(have.vips(), vips) {
			if err := s.restart(ctx, vipsUnit); err != nil {
				return err
			}
		}
	}
	for _, extra := range have.vips() {
		if slices.Contains(vips, extra) {
			continue
		}
		if _, err := s.run(ctx, nil, "ip", "address", "delete", extra.String()+"/32", "dev", "lo"); err != nil {
			return s.errorf("take the VIP %s off lo: %w", extra, err)
		}
	}
	return nil
}

// EnsureRoutes implements role.System.
func (s *System) EnsureRoutes(ctx context.Context, routes []role.Route) error {
	routes = slices.Clone(routes)
	sortRoutes(routes)
	out, err := s.run(ctx, nil, "ip", "-json", "-4", "route", "show", "proto", routeProtocol)
	if err != nil {
		return s.errorf("list routes: %w", err)
	}
	have, err := parseRoutes(s, out)
	if err != nil {
		return err
	}
	if err := s.writeRoutes(ctx, routes, have); err != nil {
		return err
	}
	for _, r := range have {
		if slices.ContainsFunc(routes, func(w role.Route) bool { return w.Destination == r.Destination }) {
			continue
		}
		if _, err := s.run(ctx, nil, "ip", "route", "delete", r.Destination.String()+"/32", "proto", routeProtocol); err != nil {
			return s.errorf("remove the route %s: %w", r, err)
		}
	}
	return nil
}

func (s *System) writeRoutes(ctx context.Context, routes, have []role.Route) error {
	if len(routes) == 0 {
		return s.removeUnit(ctx, routesUnit)
	}
	u := unit{name: routesUnit, description: "l4lab: routes via the balancer", oneshot: true}
	var texts []string
	for _, r := range routes {
		argv := []string{"ip", "route", "replace", r.Destination.String() + "/32", "via", r.Via.String(), "proto", routeProtocol}
		if r.MTU > 0 {
			argv = append(argv, "mtu", strconv.Itoa(r.MTU))
		}
		u.start = append(u.start, argv)
		texts = append(texts, fmt.Sprint(r))
	}
	u.Spec = strings.Join(texts, ", ")
	changed, err := s.ensureUnit(ctx, u)
	if err != nil {
		return err
	}
	if !changed && slices.Equal(have, routes) {
		return nil
	}
	return s.restart(ctx, routesUnit)
}
