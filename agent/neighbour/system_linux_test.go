package neighbour

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/datapath"
	"l4lab/agent/testnet"
)

// The tracker's netlink sockets belong to the namespace of the thread that
// opens them, so the tests that need the kernel run in a process of their own,
// which is started in the namespace: this test binary again.
const inNamespace = "L4LAB_TEST_IN_NAMESPACE"

func TestTrackerFollowsTheKernel(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		t.Skip("this is the child")
	}
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24", "20.1.1.254/24", "fd00::10/64")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestInNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	pair.Balancer.Start(t, cmd)
	// The child asks for what only the other side can do.
	requests := make(chan string)
	go func() {
		defer close(requests)
		readLines(out, requests)
	}()
	for line := range requests {
		switch line {
		case "peer: change MAC":
			pair.Peer.SetMAC(t, "02:00:00:00:00:bb")
			announce(t, pair.Peer)
		case "peer: change MAC in silence":
			pair.Peer.SetMAC(t, "02:00:00:00:00:cc")
		default:
			t.Log(line)
			continue
		}
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("in the namespace: %v", err)
	}
}

func TestInNamespace(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("runs in the namespace that TestTrackerFollowsTheKernel makes")
	}
	done := make(chan os.Signal, 1)
	signal.Notify(done, syscall.SIGUSR1)
	peer := func(request string) {
		t.Helper()
		// Standard output goes to the parent.
		_, _ = os.Stdout.WriteString("peer: " + request + "\n")
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody did %q", request)
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	testnet.AddAddress(t, link, "fd00::1/64")
	table := &fakeTable{macs: make(map[netip.Addr]datapath.MAC)}
	tracker, err := New(NewSystem(link.Attrs().Index), table, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tracker.Run(ctx) }()
	direct, routed, silent := netip.MustParseAddr("20.1.1.10"), netip.MustParseAddr("30.1.1.1"), netip.MustParseAddr("20.1.1.99")
	_, dst, _ := net.ParseCIDR("30.1.1.0/24")
	route := &netlink.Route{Dst: dst, Gw: net.ParseIP("20.1.1.254")}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}

	begin := time.Now()
	if err := tracker.Want(ctx, []netip.Addr{direct, routed}); err != nil {
		t.Fatal(err)
	}
	t.Logf("resolved two next hops in %s", time.Since(begin))
	first := table.of(direct)
	if (first == datapath.MAC{}) || table.of(routed) != first {
		t.Fatalf("the peer has one MAC; the map says %s and %s", first, table.of(routed))
	}

	if err := tracker.Want(ctx, []netip.Addr{direct, routed, silent}); err != nil {
		t.Fatal(err)
	}
	if (table.of(silent) != datapath.MAC{}) {
		t.Errorf("nobody has %s; the map says %s", silent, table.of(silent))
	}

	// Until its link-local address has passed its check, about two seconds,
	// the kernel asks no IPv6 neighbour.
	direct6, routed6 := netip.MustParseAddr("fd00::10"), netip.MustParseAddr("fd00:30::1")
	_, dst6, _ := net.ParseCIDR("fd00:30::/64")
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst6, Gw: net.ParseIP("fd00::10")}); err != nil {
		t.Fatal(err)
	}
	if err := tracker.Want(ctx, []netip.Addr{direct6, routed6}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the IPv6 neighbour", func() bool { return table.of(direct6) == first && table.of(routed6) == first })

	peer("change MAC")
	waitFor(t, "the announced MAC", func() bool { return table.of(direct).String() == "02:00:00:00:00:bb" })

	peer("change MAC in silence")
	n, err := tracker.Refresh(ctx, direct)
	if err != nil || n.MAC != "02:00:00:00:00:cc" || table.of(direct).String() != n.MAC {
		t.Errorf("refresh: got %+v, %v; the map has %s", n, err, table.of(direct))
	}

	if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.ParseIP("20.1.1.10"), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0xdd}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the permanent entry", func() bool { return table.of(direct).String() == "02:00:00:00:00:dd" })
	if n, err := tracker.Refresh(ctx, direct); err != nil || n.MAC != "02:00:00:00:00:dd" {
		t.Errorf("refresh of a permanent entry: got %+v, %v", n, err)
	}

	n, err = tracker.Refresh(ctx, direct6)
	if err != nil || n.MAC != "02:00:00:00:00:cc" || table.of(direct6).String() != n.MAC {
		t.Errorf("refresh of the IPv6 neighbour: got %+v, %v; the map has %s", n, err, table.of(direct6))
	}
	lost6 := &netlink.Route{Dst: dst6}
	if err := netlink.RouteDel(lost6); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the lost IPv6 route", func() bool { return table.of(routed6) == datapath.MAC{} })

	if err := netlink.RouteDel(route); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the lost route", func() bool { return table.of(routed) == datapath.MAC{} })
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the route again", func() bool { return table.of(routed) != datapath.MAC{} })

	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("Run does not end")
	}
}

func TestNextHopRefusesWhatTheInterfaceCannotReach(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	index := pair.Balancer.Link(t).Attrs().Index
	pair.Balancer.Do(t, func() {
		for _, c := range []struct {
			name    string
			index   int
			backend string
		}{
			{"an address of this machine", index, "20.1.1.1"},
			{"no route", index, "99.1.1.1"},
			{"another interface", index + 1000, "20.1.1.10"},
			{"no IPv6 route", index, "fd99::1"},
		} {
			if next, err := NewSystem(c.index).NextHop(netip.MustParseAddr(c.backend)); err == nil {
				t.Errorf("%s: got %s", c.name, next)
			}
		}
		if next, err := NewSystem(index).NextHop(netip.MustParseAddr("20.1.1.10")); err != nil || next.String() != "20.1.1.10" {
			t.Errorf("on the link: got %s, %v", next, err)
		}
	})
}

// announce sends a packet from the peer's new MAC: the ARP request for the
// balancer makes the balancer's kernel learn it.
func announce(t *testing.T, peer testnet.Namespace) {
	t.Helper()
	peer.Do(t, func() {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP("20.1.1.1"), State: netlink.NUD_NONE}); err != nil {
			t.Error(err)
		}
		if err := NewSystem(link.Attrs().Index).Resolve(netip.MustParseAddr("20.1.1.1")); err != nil {
			t.Error(err)
		}
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func readLines(r io.Reader, lines chan<- string) {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		lines <- scanner.Text()
	}
}

func TestEntriesThatSomebodySetAreTold(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	pair.Balancer.Do(t, func() {
		link := pair.Balancer.Link(t)
		testnet.AddAddress(t, link, "fd00::1/64")
		for _, c := range []struct {
			address string
			state   int // 0: there is no entry
			set     bool
		}{
			{"20.1.1.20", netlink.NUD_PERMANENT, true},
			{"20.1.1.21", netlink.NUD_REACHABLE, false},
			{"20.1.1.22", netlink.NUD_NOARP, true},
			{"20.1.1.23", 0, false},
			{"fd00::20", netlink.NUD_PERMANENT, true},
			{"fd00::21", netlink.NUD_STALE, false},
			{"fd00::22", 0, false},
		} {
			a := netip.MustParseAddr(c.address)
			if c.state != 0 {
				n := netlink.Neigh{LinkIndex: link.Attrs().Index, Family: familyOf(a), State: c.state, IP: a.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
				if err := netlink.NeighSet(&n); err != nil {
					t.Errorf("%s: %v", c.address, err)
				}
			}
			if set, err := (system{link.Attrs().Index}).isSet(a); err != nil || set != c.set {
				t.Errorf("%s in state %#x: got %t, %v", c.address, c.state, set, err)
			}
		}
	})
}
