package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/agent/api"
	"l4lab/lab/guest"
	"l4lab/lab/role"
	"l4lab/lab/state"
)

const (
	programName = "lbagent"
	// routeProtocol marks the routes that labctl writes, so that a user's own stay.
	routeProtocol = 0x4c
	// startLimit bounds how long a daemon may take until it answers.
	startLimit = 10 * time.Second
	// stopPatience is how long a daemon may take to end by itself.
	stopPatience = 3 * time.Second
)

// system does the roles' verbs in a namespace.
type system struct {
	nsGuest
	// pins is the node's folder in the lab's bpffs.
	pins string
}

func (s system) withLink(name string, fn func(h *netlink.Handle, link netlink.Link) error) error {
	return s.enter(func(ns namespace) error {
		h, err := ns.netlink()
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
		have, err := loopbackVIPs(h, lo)
		if err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
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
			if err := h.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, 32))}); err != nil {
				return fmt.Errorf("%s: take the VIP %s off lo: %w", s.machine, a, err)
			}
		}
		for a := range want {
			if err := h.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, 32))}); err != nil {
				return fmt.Errorf("%s: put the VIP %s on lo: %w", s.machine, a, err)
			}
		}
		return nil
	})
}

// loopbackVIPs returns lo's addresses but 127.0.0.0/8.
func loopbackVIPs(h *netlink.Handle, lo netlink.Link) ([]netip.Addr, error) {
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

// EnsureRoutes implements role.System.
func (s system) EnsureRoutes(_ context.Context, routes []role.Route) error {
	return s.withLink(interfaceName, func(h *netlink.Handle, link netlink.Link) error {
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
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(r.Destination, 32)),
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

// EnsureAgent implements role.System. An agent of another kind is ended first;
// its programs and maps stay and go on forwarding, and the next one takes them over.
func (s system) EnsureAgent(ctx context.Context, a role.Agent) error {
	if err := s.push(ctx, a.Program, a.Hash); err != nil {
		return err
	}
	if err := os.MkdirAll(s.pins, 0o700); err != nil {
		return fmt.Errorf("%s: make the folder for pins: %w", s.machine, err)
	}
	if err := s.stopDetached(ctx); err != nil {
		return err
	}
	argv := []string{
		filepath.Join(s.dir, programName), "serve", "--device", interfaceName, "--address", a.Address.String(),
		"--socket", s.socket(), "--pin-dir", filepath.Join(s.pins, "lb"), "--state", filepath.Join(s.dir, "services.json"),
	}
	client := api.NewClient(func(ctx context.Context) (net.Conn, error) { return s.Dial(ctx, "unix", "", "agent.sock") })
	return s.ensureDaemon(ctx, "agent", a.Spec(), argv, func(ctx context.Context) error {
		_, err := client.Status(ctx)
		return err
	})
}

// stopDetached ends an agent whose program is no longer on the interface, so
// that the next one attaches it again.
func (s system) stopDetached(ctx context.Context) error {
	return s.withLink(interfaceName, func(_ *netlink.Handle, link netlink.Link) error {
		if hasXDP(link) {
			return nil
		}
		return s.stopDaemon(ctx, "agent")
	})
}

func hasXDP(link netlink.Link) bool {
	x := link.Attrs().Xdp
	return x != nil && x.Attached
}

func (s system) socket() string { return filepath.Join(s.dir, "agent.sock") }

// EnsurePage implements role.System.
func (s system) EnsurePage(ctx context.Context, p role.Page) error {
	if err := s.push(ctx, p.Program, p.Hash); err != nil {
		return err
	}
	argv := []string{
		filepath.Join(s.dir, programName), "web", "--name", p.Name, "--address", p.Address.String(), "--os", string(p.OS),
		"--tcp", listenOn(p.TCP), "--udp", listenOn(p.UDP),
	}
	return s.ensureDaemon(ctx, "web", p.Spec(), argv, func(ctx context.Context) error {
		if len(p.TCP) > 0 {
			conn, err := s.Dial(ctx, "tcp", "", netip.AddrPortFrom(p.Address, p.TCP[0]).String())
			if err != nil {
				return err
			}
			return conn.Close()
		}
		return s.askUDP(ctx, netip.AddrPortFrom(p.Address, p.UDP[0]))
	})
}

// askUDP sends one datagram to a page and waits for its answer.
func (s system) askUDP(ctx context.Context, to netip.AddrPort) error {
	conn, err := s.Dial(ctx, "udp", "", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("whoami")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 512))
	return err
}

func listenOn(ports []uint16) string {
	s := make([]string, len(ports))
	for i, p := range ports {
		s[i] = fmt.Sprintf(":%d", p)
	}
	return strings.Join(s, ",")
}

// ensureDaemon has a daemon of this spec run and answer.
func (s system) ensureDaemon(ctx context.Context, name, spec string, argv []string, answers func(context.Context) error) error {
	d, err := readDaemon(s.dir, name)
	switch {
	case err == nil && d.alive() && d.Spec == spec:
		return s.await(ctx, d, answers)
	case err == nil:
		if err := d.stop(ctx, s.dir, stopPatience); err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	if err := endStray(ctx, s.dir, name, argv); err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	err = s.enter(func(ns namespace) error {
		d, err = startDaemon(ns, s.dir, name, spec, argv)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return s.await(ctx, d, answers)
}

// await waits until a daemon answers. One that ended never will: its log says why.
func (s system) await(ctx context.Context, d daemon, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer within %s", startLimit))
	defer cancel()
	pause := time.Millisecond
	for {
		err := answers(ctx)
		if err == nil {
			return nil
		}
		if !d.alive() {
			return fmt.Errorf("%s: %s ended at once; its last words:\n%s", s.machine, d.Name, tail(logFile(s.dir, d.Name), 2000))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for %s (pid %d) to answer: %w; last: %v; see %s", s.machine, d.Name, d.PID, context.Cause(ctx), err, logFile(s.dir, d.Name))
		case <-time.After(pause):
			pause = min(pause*3/2, 50*time.Millisecond)
		}
	}
}

func (s system) push(ctx context.Context, program, hash string) error {
	return s.Push(ctx, guest.File{Path: programName, Source: program, Hash: hash, Executable: true})
}

// decapRecord is what the node's folder keeps of an attached program.
type decapRecord struct {
	Spec string    `json:"spec"`
	Hook role.Hook `json:"hook"`
}

func (s system) decapFile() string { return filepath.Join(s.dir, "decap.json") }

// EnsureDecap implements role.System: `lbagent decap` attaches, pins and exits.
func (s system) EnsureDecap(ctx context.Context, d role.Decap) error {
	if err := s.push(ctx, d.Program, d.Hash); err != nil {
		return err
	}
	if err := os.MkdirAll(s.pins, 0o700); err != nil {
		return fmt.Errorf("%s: make the folder for pins: %w", s.machine, err)
	}
	err := s.Run(ctx, guest.Command{Argv: []string{
		filepath.Join(s.dir, programName), "decap", "attach", "--interface", interfaceName, "--address", d.Address.String(),
		"--balancer", d.Balancer.String(), "--hook", string(d.Hook), "--pin-dir", s.decapPins(),
	}})
	if err != nil {
		return fmt.Errorf("%s (%s): attach decapsulation at %s: %w", s.machine, d.Address, d.Hook, err)
	}
	data, err := json.Marshal(decapRecord{Spec: d.Spec(), Hook: d.Hook})
	if err == nil {
		err = state.WriteFile(s.decapFile(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%s: remember the decapsulation program: %w", s.machine, err)
	}
	return nil
}

// DecapStatus implements role.System.
func (s system) DecapStatus(ctx context.Context) (api.DecapStatus, error) {
	var out bytes.Buffer
	var status api.DecapStatus
	err := s.Run(ctx, guest.Command{
		Argv:   []string{filepath.Join(s.dir, programName), "decap", "status", "--pin-dir", s.decapPins(), "-o", "json"},
		Stdout: &out,
	})
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &status)
	}
	if err != nil {
		return status, fmt.Errorf("%s: ask the decapsulation program: %w", s.machine, err)
	}
	return status, nil
}

func (s system) decapPins() string { return filepath.Join(s.pins, "decap") }

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

func (s system) stopDaemon(ctx context.Context, name string) error {
	d, err := readDaemon(s.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.stop(ctx, s.dir, stopPatience)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return nil
}

// Observe implements role.System.
func (s system) Observe(context.Context) (role.Facts, error) {
	var f role.Facts
	err := s.withLink("lo", func(h *netlink.Handle, lo netlink.Link) error {
		var err error
		if f.VIPs, err = loopbackVIPs(h, lo); err != nil {
			return err
		}
		eth, err := h.LinkByName(interfaceName)
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
		f.Agent, f.Page = s.observeDaemon("agent"), s.observeDaemon("web")
		if f.Agent.Spec != "" && !hasXDP(eth) {
			f.Agent.Fault = "its program is detached"
		}
		return nil
	})
	return f, err
}

func (s system) observeDaemon(name string) role.Present {
	d, err := readDaemon(s.dir, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return role.Present{}
	case err != nil:
		return role.Present{Fault: err.Error()}
	case !d.alive():
		return role.Present{PID: d.PID, Fault: "exited"}
	}
	return role.Present{Spec: d.Spec, PID: d.PID}
}

// observeDecap trusts the record only as far as the kernel bears it out: XDP
// shows on the link, TC by the pins, which EnsureNode removes with the link.
func (s system) observeDecap(eth netlink.Link) role.Present {
	data, err := os.ReadFile(s.decapFile())
	if err != nil {
		return role.Present{}
	}
	var r decapRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return role.Present{Fault: "its record cannot be read: " + err.Error()}
	}
	entries, err := os.ReadDir(s.decapPins())
	if err != nil || len(entries) == 0 {
		return role.Present{Fault: "its pins are gone"}
	}
	if r.Hook == role.XDP && !hasXDP(eth) {
		return role.Present{Fault: "detached"}
	}
	return role.Present{Spec: r.Spec}
}

// isBPFFS says whether a folder is the root of a bpf file system.
func isBPFFS(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}
