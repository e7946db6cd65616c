package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/lab/guest"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/role"
)

const (
	programName = "lbagent"
	// routeProtocol marks the routes that labctl writes, so that a user's own stay.
	routeProtocol = 0x4c
)

// system does the roles' verbs in a namespace.
type system struct {
	nsGuest
	// pins is the node's folder in the lab's bpffs.
	pins string
}

func (s system) withLink(name string, fn func(h *netlink.Handle, link netlink.Link) error) error {
	return s.enter(func(ns fabric.Namespace) error {
		h, err := ns.Netlink()
		if err != nil {
			return err
		}
		defer h.Close()
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: find %s: %w", s.machine, name, err)
		}
		return fn(h, link)
	})
}

// EnsureVIPs implements role.System: the addresses go on lo, as /32.
func (s system) EnsureVIPs(_ context.Context, vips []netip.Addr) error {
	return s.withLink("lo", func(h *netlink.Handle, lo netlink.Link) error {
		if err := fabric.EnsureVIPs(h, lo, vips); err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
		}
		return nil
	})
}

// EnsureRoutes implements role.System.
func (s system) EnsureRoutes(_ context.Context, routes []role.Route) error {
	return s.withLink(fabric.InterfaceName, func(h *netlink.Handle, link netlink.Link) error {
		have, err := labRoutes(h, link)
		if err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
		}
		want := make(map[netip.Addr]role.Route, len(routes))
		for _, r := range routes {
			want[r.Destination] = r
		}
		for _, r := range have {
			if want[r.Destination] == r {
				delete(want, r.Destination)
				continue
			}
			if _, replaced := want[r.Destination]; replaced {
				continue
			}
			if err := h.RouteDel(routeOf(link, r)); err != nil {
				return fmt.Errorf("%s: remove the route %s: %w", s.machine, r, err)
			}
		}
		for _, r := range want {
			if err := h.RouteReplace(routeOf(link, r)); err != nil {
				return fmt.Errorf("%s: add the route %s: %w", s.machine, r, err)
			}
		}
		return nil
	})
}

func routeOf(link netlink.Link, r role.Route) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: fabric.IPNet(netip.PrefixFrom(r.Destination, 32)),
		Gw: r.Via.AsSlice(), MTU: r.MTU, Protocol: routeProtocol,
	}
}

// labRoutes returns the routes that labctl wrote.
func labRoutes(h *netlink.Handle, link netlink.Link) ([]role.Route, error) {
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: routeProtocol}
	list, err := h.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var routes []role.Route
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		dst, okDst := netip.AddrFromSlice(r.Dst.IP.To4())
		via, okVia := netip.AddrFromSlice(r.Gw.To4())
		if okDst && okVia {
			routes = append(routes, role.Route{Destination: dst, Via: via, MTU: r.MTU})
		}
	}
	return routes, nil
}

// Logs opens what the machine's daemons wrote.
func (s system) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	return role.LogFiles(ctx, s.nsGuest)
}

func (s system) push(ctx context.Context, program, hash string) error {
	return s.Push(ctx, guest.File{Path: programName, Source: program, Hash: hash, Executable: true})
}

// Remove implements role.System.
func (s system) Remove(ctx context.Context, subject role.Subject) error {
	switch subject {
	case role.SubjectDecap:
		if isFile(filepath.Join(s.dir, programName)) {
			err := s.Run(ctx, guest.Command{Argv: []string{filepath.Join(s.dir, programName), "decap", "detach", "--pin-dir", s.decapPins()}})
			if err != nil {
				return fmt.Errorf("%s: detach decapsulation: %w", s.machine, err)
			}
		}
		if err := os.Remove(s.decapFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case role.SubjectPage:
		return s.stopDaemon(ctx, "web")
	case role.SubjectAgent:
		if err := s.stopDaemon(ctx, "agent"); err != nil {
			return err
		}
		// Removing the link's pin detaches the program; the maps go with theirs.
		return os.RemoveAll(filepath.Join(s.pins, "lb"))
	}
	return fmt.Errorf("%s: nothing known to remove by the name %q", s.machine, subject)
}

// Observe implements role.System.
func (s system) Observe(ctx context.Context) (role.Facts, error) {
	var f role.Facts
	err := s.withLink("lo", func(h *netlink.Handle, lo netlink.Link) error {
		var err error
		if f.VIPs, err = fabric.VIPs(h, lo); err != nil {
			return err
		}
		eth, err := h.LinkByName(fabric.InterfaceName)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.Routes, err = labRoutes(h, eth); err != nil {
			return err
		}
		f.Decap = s.observeDecap(eth)
		f.Agent, f.Page = s.observeDaemon(ctx, "agent"), s.observeDaemon(ctx, "web")
		if f.Agent.Spec != "" && !fabric.HasXDP(eth) {
			f.Agent.Fault = "its program is detached"
		}
		return nil
	})
	return f, err
}

// EphemeralPorts implements role.System.
func (s system) EphemeralPorts(ctx context.Context) (low, high uint16, err error) {
	return role.LinuxEphemeralPorts(ctx, s)
}

// isBPFFS says whether a folder is the root of a bpf file system.
func isBPFFS(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}
