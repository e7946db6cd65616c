package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/role"
	"l4lab/topology"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}

// newLab returns a provider and a lab of the demo's topology that goes with the test.
func newLab(t *testing.T, name string) (provider.Driver, provider.Lab) {
	t.Helper()
	needRoot(t)
	root, err := os.MkdirTemp("/tmp", "l4lab-")
	if err != nil {
		t.Fatal(err)
	}
	pl := provider.Lab{Topology: topology.Default(), Dir: filepath.Join(root, name)}
	pl.Topology.Name = name
	d := New()
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), pl); err != nil {
			t.Error(err)
		}
		if left, _ := fabric.Names(name); len(left) > 0 {
			t.Errorf("namespaces left: %v", left)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return d, pl
}

func bringUp(t *testing.T, d provider.Driver, pl provider.Lab) {
	t.Helper()
	if err := d.EnsureSwitch(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	for _, name := range pl.Topology.MachineNames() {
		if err := d.EnsureNode(t.Context(), pl, name); err != nil {
			t.Fatal(err)
		}
	}
}

func machine(t *testing.T, d provider.Driver, pl provider.Lab, name string) provider.Machine {
	t.Helper()
	m, err := d.Machine(pl, name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func faults(t *testing.T, d provider.Driver, pl provider.Lab) map[string][]string {
	t.Helper()
	actual, err := d.Observe(t.Context(), pl)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for name, m := range actual.Machines {
		if len(m.Faults) > 0 {
			found[name] = m.Faults
		}
	}
	return found
}

func TestMachinesReachEachOtherAndNothingElse(t *testing.T) {
	d, pl := newLab(t, "tnreach")
	bringUp(t, d, pl)
	if found := faults(t, d, pl); len(found) > 0 {
		t.Fatalf("a new lab has faults: %v", found)
	}
	be3 := machine(t, d, pl, "be3")
	client := machine(t, d, pl, "client")
	if err := be3.System.EnsureVIPs(t.Context(), []netip.Addr{netip.MustParseAddr("40.1.1.1")}); err != nil {
		t.Fatal(err)
	}
	listener := listenIn(t, pl, "be3", "20.1.1.30:80")
	defer listener.Close()
	conn, err := client.Guest.Dial(t.Context(), "tcp", "20.1.1.100:40000", "20.1.1.30:80")
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.LocalAddr().String(); got != "20.1.1.100:40000" {
		t.Errorf("the connection came from %s", got)
	}
	conn.Close()
	_, err = client.Guest.Dial(t.Context(), "tcp", "", "192.0.2.1:80")
	if err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("a way out of the lab: %v", err)
	}
}

func listenIn(t *testing.T, pl provider.Lab, name, address string) net.Listener {
	t.Helper()
	ns, err := openOwn(pl, name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEnsureNodeMendsWhatWasBroken(t *testing.T) {
	d, pl := newLab(t, "tnmend")
	bringUp(t, d, pl)
	in := func(name string, fn func(h *netlink.Handle, link netlink.Link) error) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			m := machine(t, d, pl, name)
			if err := m.System.(system).withLink(fabric.InterfaceName, fn); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name, machine, fault string
		breakIt              func(*testing.T)
	}{
		{"an interface that is down", "be1", "eth0 is down", in("be1", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) })},
		{"an interface that was deleted", "be2", "eth0 is missing", in("be2", func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) })},
		{"another MTU", "be3", "mtu 1400 -> 1500", in("be3", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1400) })},
		{"a further address", "be4", "a further address 20.1.1.99/24", in("be4", func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrAdd(l, &netlink.Addr{IPNet: fabric.IPNet(netip.MustParsePrefix("20.1.1.99/24"))})
		})},
		{"a neighbour that is gone", "client", "neighbours: 1 missing", in("client", func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: netlink.FAMILY_V4, IP: net.IPv4(20, 1, 1, 1)})
		})},
		{"a namespace that was deleted", "lb", "", func(t *testing.T) {
			if err := fabric.Delete("tnmend-lb"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.breakIt(t)
			if found := faults(t, d, pl); c.fault != "" && !strings.Contains(strings.Join(found[c.machine], "; "), c.fault) {
				t.Errorf("faults of %s: %v, expected %q", c.machine, found[c.machine], c.fault)
			}
			if err := d.EnsureNode(t.Context(), pl, c.machine); err != nil {
				t.Fatal(err)
			}
			if found := faults(t, d, pl); len(found) > 0 {
				t.Errorf("faults afterwards: %v", found)
			}
		})
	}
}

func TestForeignNamespaceIsRefusedAndLeftAlone(t *testing.T) {
	d, pl := newLab(t, "tnforeign")
	if err := fabric.EnsureRunDir(t.Context(), filepath.Dir(pl.Dir)); err != nil {
		t.Fatal(err)
	}
	ns, err := fabric.Create("tnforeign-be1", "somebody else's", nil)
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
	defer fabric.Delete("tnforeign-be1")
	if err := d.EnsureSwitch(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	if err := d.EnsureNode(t.Context(), pl, "be1"); !errors.Is(err, provider.ErrForeign) {
		t.Errorf("EnsureNode: %v, expected ErrForeign", err)
	}
	if _, err := d.Observe(t.Context(), pl); !errors.Is(err, provider.ErrForeign) {
		t.Errorf("Observe: %v, expected ErrForeign", err)
	}
	if err := d.RemoveNode(t.Context(), pl, "be1"); !errors.Is(err, provider.ErrForeign) {
		t.Errorf("RemoveNode: %v, expected ErrForeign", err)
	}
	if err := d.Destroy(t.Context(), pl); err != nil {
		t.Error(err)
	}
	if left, _ := fabric.Names("tnforeign"); !slices.Equal(left, []string{"tnforeign-be1"}) {
		t.Errorf("after destroy there is %v, expected the foreign one alone", left)
	}
}

func TestTwoLabsRunSideBySideWithTheSameAddresses(t *testing.T) {
	d, one := newLab(t, "tnone")
	_, two := newLab(t, "tntwo")
	bringUp(t, d, one)
	bringUp(t, d, two)
	l := listenIn(t, one, "be1", "20.1.1.10:80")
	defer l.Close()
	if conn, err := machine(t, d, one, "client").Guest.Dial(t.Context(), "tcp", "", "20.1.1.10:80"); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if _, err := machine(t, d, two, "client").Guest.Dial(t.Context(), "tcp", "", "20.1.1.10:80"); err == nil {
		t.Error("the second lab's client reached the first lab's backend")
	}
	if err := d.Destroy(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if found := faults(t, d, two); len(found) > 0 {
		t.Errorf("removing one lab broke the other: %v", found)
	}
}

func TestGuestKeepsToItsFolder(t *testing.T) {
	d, pl := newLab(t, "tnguest")
	bringUp(t, d, pl)
	g := machine(t, d, pl, "be1").Guest
	for _, path := range []string{"/etc/passwd", "../be2/x", "a/../../x", ""} {
		if err := g.Push(t.Context(), guest.File{Path: path, Source: "/bin/true"}); !errors.Is(err, guest.ErrOutside) {
			t.Errorf("push to %q: %v, expected ErrOutside", path, err)
		}
		if _, err := g.Pull(t.Context(), path); !errors.Is(err, guest.ErrOutside) {
			t.Errorf("pull %q: %v, expected ErrOutside", path, err)
		}
	}
	if err := g.Push(t.Context(), guest.File{Path: "x", Source: "/bin/true", Hash: strings.Repeat("0", 64)}); err == nil {
		t.Error("a source with another hash was pushed")
	}
	if err := g.Push(t.Context(), guest.File{Path: "prog", Source: "/bin/true", Executable: true}); err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"prog"}}); err != nil {
		t.Errorf("run what was pushed: %v", err)
	}
}

// `lbagent status` in the balancer's node asks the node's own agent.
func TestRunNamesTheSocketOfTheNodesAgent(t *testing.T) {
	d, pl := newLab(t, "tnsocket")
	bringUp(t, d, pl)
	g := machine(t, d, pl, "be1").Guest
	said := func() string {
		t.Helper()
		var out strings.Builder
		if err := g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "echo $LBAGENT_SOCKET"}, Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	if got := said(); got != "" {
		t.Errorf("without an agent it is %q", got)
	}
	path := filepath.Join(g.(nsGuest).dir, "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if got := said(); got != path {
		t.Errorf("with an agent it is %q, want %q", got, path)
	}
}

func TestRunPassesStreamsAndCodes(t *testing.T) {
	d, pl := newLab(t, "tnrun")
	bringUp(t, d, pl)
	g := machine(t, d, pl, "be1").Guest
	var out strings.Builder
	err := g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "cat; echo bad >&2; exit 7"}, Stdin: strings.NewReader("in"), Stdout: &out})
	var exit *guest.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || strings.TrimSpace(exit.Stderr) != "bad" || out.String() != "in" {
		t.Errorf("got %v with output %q", err, out.String())
	}
	err = g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "kill -9 $$"}})
	if !errors.As(err, &exit) || exit.Code != 137 {
		t.Errorf("killed by signal 9: %v, expected code 137", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.Run(ctx, guest.Command{Argv: []string{"sleep", "60"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cut off: %v", err)
	}
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"no-such-program"}}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("missing program: %v", err)
	}
}

func TestVerbsTakeWholeSets(t *testing.T) {
	d, pl := newLab(t, "tnverbs")
	bringUp(t, d, pl)
	s := machine(t, d, pl, "client").System
	vip := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{40, 1, 1, byte(i)}) }
	route := func(i, mtu int) role.Route {
		return role.Route{Destination: vip(i), Via: netip.MustParseAddr("20.1.1.1"), MTU: mtu}
	}
	for i, c := range []struct {
		vips   []netip.Addr
		routes []role.Route
	}{
		{[]netip.Addr{vip(1), vip(2)}, []role.Route{route(1, 1480), route(2, 1480)}},
		{[]netip.Addr{vip(2), vip(3)}, []role.Route{route(2, 1400), route(3, 1480)}},
		{nil, nil},
	} {
		if err := errors.Join(s.EnsureVIPs(t.Context(), c.vips), s.EnsureRoutes(t.Context(), c.routes)); err != nil {
			t.Fatal(err)
		}
		f, err := s.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(f.VIPs, netip.Addr.Compare)
		slices.SortFunc(f.Routes, func(a, b role.Route) int { return a.Destination.Compare(b.Destination) })
		if !slices.Equal(f.VIPs, c.vips) || !slices.Equal(f.Routes, c.routes) {
			t.Errorf("round %d: got %v %v, expected %v %v", i, f.VIPs, f.Routes, c.vips, c.routes)
		}
	}
}

func TestTooLongStateFolderIsRefused(t *testing.T) {
	_, err := markOf(provider.Lab{Dir: "/" + strings.Repeat("x", 300)}, "be1")
	if err == nil || !strings.Contains(err.Error(), "LABCTL_STATE_DIR") {
		t.Errorf("got %v", err)
	}
}
