package path

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/agent/api"
	"l4lab/agent/health"
	"l4lab/agent/testnet"
)

// The lab is a balancer and a backend on one cable. The balancer's route to the
// VIP leads over that cable too: what its kernel sends there would arrive.
const (
	balancer4, backend4, vip4 = "20.1.1.1", "20.1.1.10", "40.1.1.1"
	balancer6, backend6, vip6 = "fd20::1", "fd20::10", "fd40::1"
)

type lab struct {
	testnet.Pair
	decap *decapsulator
	mac   net.HardwareAddr
	// heard are the TCP packets that came to the backend's eth0 from the balancer as
	// they were: not encapsulated, so by the kernel or with encapsulation l2.
	heard *ear
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Pair: testnet.NewPair(t, balancer4+"/24", backend4+"/24")}
	addAddress(t, l.Balancer, "eth0", balancer6+"/64")
	addAddress(t, l.Peer, "eth0", backend6+"/64")
	addAddress(t, l.Peer, "lo", vip4+"/32")
	addAddress(t, l.Peer, "lo", vip6+"/128")
	l.Balancer.Do(t, func() {
		for _, route := range [][2]string{{vip4 + "/32", backend4}, {vip6 + "/128", backend6}} {
			_, dst, _ := net.ParseCIDR(route[0])
			must(t, netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(route[1])}))
		}
	})
	l.mac = l.Peer.Link(t).Attrs().HardwareAddr
	introduce(t, l.Balancer, l.mac, backend4, backend6)
	introduce(t, l.Peer, l.Balancer.Link(t).Attrs().HardwareAddr, balancer4, balancer6)
	l.decap = startDecapsulator(t, l.Peer)
	l.heard = listenOnWire(t, l.Peer)
	return l
}

func addAddress(t *testing.T, n testnet.Namespace, iface, address string) {
	t.Helper()
	n.Do(t, func() {
		link, err := netlink.LinkByName(iface)
		must(t, err)
		a, err := netlink.ParseAddr(address)
		must(t, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // no second of waiting for others to object
		}
		must(t, netlink.AddrAdd(link, a))
	})
}

// introduce waits until the cable carries packets and tells a namespace the
// other's MAC. While the link-local address of a new interface is being tested for duplicates, which
// takes a second, IPv6 could not ask for it.
func introduce(t *testing.T, n testnet.Namespace, mac net.HardwareAddr, addresses ...string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for n.Link(t).Attrs().OperState != netlink.OperUp {
		if time.Now().After(deadline) {
			t.Fatal("the cable is not up")
		}
		time.Sleep(time.Millisecond)
	}
	index := n.Link(t).Attrs().Index
	n.Do(t, func() {
		for _, a := range addresses {
			must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(a), HardwareAddr: mac}))
		}
	})
}

// open opens the prober on the balancer.
func (l *lab) open(t *testing.T) *Prober {
	t.Helper()
	var p *Prober
	l.Balancer.Do(t, func() {
		var err error
		p, err = Open(Options{
			Interface: "eth0",
			Addresses: []netip.Addr{netip.MustParseAddr(balancer4), netip.MustParseAddr(balancer6)},
			NextHop:   func(netip.Addr) (net.HardwareAddr, error) { return l.mac, nil },
			// Few ports, so that they are used again soon.
			Concurrency: 4,
		})
		must(t, err)
	})
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// listen makes a listener on the backend, for both families.
func (l *lab) listen(t *testing.T, port int) net.Listener {
	t.Helper()
	var listener net.Listener
	l.Peer.Do(t, func() {
		var err error
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		must(t, err)
	})
	t.Cleanup(func() { listener.Close() })
	return listener
}

// serve answers every request in the raw words of answer, which ends the connection.
func (l *lab) serve(t *testing.T, port int, answer func(net.Conn, *http.Request)) {
	t.Helper()
	listener := l.listen(t, port)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					answer(conn, request)
				}
			}()
		}
	}()
}

func saying(text string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) { _, _ = c.Write([]byte(text)) }
}

func target4(port uint16) health.Target {
	return health.Target{Encap: "ipip", Path: "/",
		VIP:     netip.AddrPortFrom(netip.MustParseAddr(vip4), port),
		Backend: netip.AddrPortFrom(netip.MustParseAddr(backend4), port)}
}

func target6(port uint16) health.Target {
	return health.Target{Encap: "ipip", Path: "/",
		VIP:     netip.AddrPortFrom(netip.MustParseAddr(vip6), port),
		Backend: netip.AddrPortFrom(netip.MustParseAddr(backend6), port)}
}

func httpOf(t health.Target) health.Target {
	t.HTTP = true
	return t
}

func l2Of(t health.Target) health.Target {
	t.Encap = "l2"
	return t
}

// probeWith makes one check with a time limit.
func probeWith(t *testing.T, p health.Prober, target health.Target, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return p.Probe(ctx, target)
}

// decapsulator does on the backend what the decapsulation program does, with the
// sockets that any kernel has: outer packets come in on a raw socket, and what is in
// them goes out through a TUN device. It stands here for agent/decap, which the lab's end-to-end tests
// attach; lose makes it do what no program would.
type decapsulator struct {
	tun    *os.File
	off    atomic.Bool
	passed atomic.Int64
	mu     sync.Mutex
	lose   func(segment) bool
}

func startDecapsulator(t *testing.T, n testnet.Namespace) *decapsulator {
	t.Helper()
	d := &decapsulator{}
	var raws []*os.File
	n.Do(t, func() {
		for _, name := range []string{"all", "default"} { // the way back is eth0, not the TUN device
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0))
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Skipf("needs /dev/net/tun: %v", err)
		}
		request, err := unix.NewIfreq("decap0")
		must(t, err)
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
		d.tun = os.NewFile(uintptr(fd), "decap0")
		link, err := netlink.LinkByName("decap0")
		must(t, err)
		must(t, netlink.LinkSetUp(link))
		raws = append(raws, rawSocket(t, unix.AF_INET, protocolIPIP), rawSocket(t, unix.AF_INET6, protocolIPv6))
	})
	var running sync.WaitGroup
	for i, raw := range raws {
		outer := []int{ipv4Header, 0}[i] // an IPv6 raw socket gives no header
		running.Go(func() { d.run(raw, outer) })
	}
	t.Cleanup(func() {
		for _, raw := range raws {
			raw.Close()
		}
		running.Wait()
		d.tun.Close()
	})
	return d
}

func rawSocket(t *testing.T, family, protocol int) *os.File {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	must(t, err)
	return os.NewFile(uintptr(fd), "raw")
}

func (d *decapsulator) run(raw *os.File, outer int) {
	buffer := make([]byte, 2048)
	for {
		n, err := raw.Read(buffer)
		if err != nil {
			return
		}
		inner := buffer[outer:n]
		s, ok := parse(inner, true)
		if !ok || d.off.Load() || d.loses(s) {
			continue
		}
		d.passed.Add(1)
		_, _ = d.tun.Write(inner)
	}
}

func (d *decapsulator) loses(s segment) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lose != nil && d.lose(s)
}

// losing has the decapsulator lose what f says.
func (d *decapsulator) losing(f func(segment) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lose = f
}

// ear hears TCP on an interface.
type ear struct {
	mu       sync.Mutex
	segments []segment
}

func listenOnWire(t *testing.T, n testnet.Namespace) *ear {
	t.Helper()
	e := &ear{}
	var on *tap
	n.Do(t, func() {
		var err error
		on, err = openTap("eth0", 1, 65535)
		must(t, err)
	})
	var running sync.WaitGroup
	running.Go(func() {
		_ = on.read(func(s segment) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.segments = append(e.segments, s)
		})
	})
	t.Cleanup(func() {
		on.close()
		running.Wait()
	})
	return e
}

func (e *ear) all() []segment {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]segment(nil), e.segments...)
}

// connections are the backend's TCP sockets that are not listening, as
// /proc/net/tcp has them: local, remote, state.
func (l *lab) connections(t *testing.T) []string {
	t.Helper()
	var found []string
	l.Peer.Do(t, func() {
		for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			text, err := os.ReadFile(file)
			must(t, err)
			for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
				if f := strings.Fields(line); f[3] != "0A" {
					found = append(found, strings.Join(f[1:4], " "))
				}
			}
		}
	})
	return found
}

// waitForNoConnections waits until the backend has forgotten every connection.
func (l *lab) waitForNoConnections(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := l.connections(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the backend still has %v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it passed; wanted is an error with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got %q, which has no %q", err, w)
		}
	}
	if errors.Is(err, health.ErrInconclusive) {
		t.Errorf("%q says nothing of the backend", err)
	}
}

func sendTo(raw *os.File, s segment) error {
	control, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	var fault error
	err = control.Control(func(fd uintptr) {
		fault = unix.Sendto(int(fd), s.marshal(), 0, socketAddress(netip.AddrPortFrom(s.to.Addr(), 0)))
	})
	return errors.Join(err, fault)
}

// reports hears what a Checker reports.
type reports chan string

func (r reports) SetHealth(_ context.Context, service uint32, changes []health.Change) error {
	for _, c := range changes {
		r <- fmt.Sprintf("%d %s healthy=%t", service, c.Backend, c.Healthy)
	}
	return nil
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func serviceThroughVIP(interval time.Duration) []api.Service {
	return []api.Service{{
		ID: 1, Frontend: netip.MustParseAddrPort(vip4 + ":80"), Protocol: "tcp", Mode: "dsr",
		Backends:    []api.Backend{{Address: netip.MustParseAddrPort(backend4 + ":80")}},
		HealthCheck: &api.HealthCheck{Type: "http", Via: "vip", Interval: api.Duration(interval)},
	}}
}
