package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/agent/testnet"
)

var (
	vip6      = netip.MustParseAddr("fd00:40::1")
	balancer6 = netip.MustParseAddr("fd00::1")
	client6   = netip.MustParseAddr("fd00::100")
	hooks6    = map[string]netip.Addr{"xdp": netip.MustParseAddr("fd00::10"), "tc": netip.MustParseAddr("fd00::20")}
)

// network6 is client, balancer and a backend for each hook of decapsulation, on one switch.
type network6 struct {
	rig
	from     testnet.Namespace
	backends map[string]testnet.Namespace // by hook
}

func newNetwork6(t *testing.T) *network6 {
	t.Helper()
	dir := shortDir(t)
	sw := testnet.NewSwitch(t)
	n := &network6{rig: rig{
		socket: filepath.Join(dir, "agent.sock"), pins: filepath.Join(testnet.BPFFS(t), "lbagent"),
	}, backends: map[string]testnet.Namespace{}}
	n.client = api.NewUnixClient(n.socket)
	n.Balancer = sw.Plug(t, "lb", balancer6.String()+"/64")
	sw.CompleteChecksums(t, "lb")
	attachPass(t, sw.Namespace, "lb") // without it the port discards what its peer sends with XDP_TX
	n.from = sw.Plug(t, "client", client6.String()+"/64")
	n.from.Do(t, func() {
		to := &net.IPNet{IP: vip6.AsSlice(), Mask: net.CIDRMask(128, 128)}
		if err := netlink.RouteAdd(&netlink.Route{Dst: to, Gw: balancer6.AsSlice()}); err != nil {
			t.Error(err)
		}
	})
	n.start(t)
	for hook, address := range hooks6 {
		be := sw.Plug(t, hook, address.String()+"/64")
		be.Do(t, func() {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				t.Error(err)
				return
			}
			testnet.AddAddress(t, lo, vip6.String()+"/128")
		})
		n.decapsulate(t, be, hook, address)
		n.backends[hook] = be
		for _, a := range []netip.Addr{vip6, address} {
			serveHTTP(t, be, netip.AddrPortFrom(a, 80), hook)
			echoUDP(t, be, netip.AddrPortFrom(a, 53), hook)
		}
	}
	return n
}

// decapsulate runs `lbagent decap` in a backend, and detaches at the end.
func (n *network6) decapsulate(t *testing.T, be testnet.Namespace, hook string, address netip.Addr) {
	t.Helper()
	pins := filepath.Join(filepath.Dir(n.pins), "decap-"+hook)
	in := func(args ...string) {
		cmd := command(append([]string{"decap"}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		be.Start(t, cmd)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("lbagent decap %v: %v: %s", args, err, &out)
		}
	}
	in("attach", "--interface", "eth0", "--address", address.String(), "--balancer", balancer6.String(), "--hook", hook, "--pin-dir", pins)
	t.Cleanup(func() { in("detach", "--pin-dir", pins) })
}

// listening calls listen in a namespace and closes what it returns at the end.
func listening[L io.Closer](t *testing.T, n testnet.Namespace, listen func() (L, error)) (l L) {
	t.Helper()
	var err error
	n.Do(t, func() { l, err = listen() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveHTTP answers GET with the server's name and whom it sees, POST with the body's hash.
func serveHTTP(t *testing.T, n testnet.Namespace, address netip.AddrPort, name string) {
	t.Helper()
	l := listening(t, n, func() (net.Listener, error) { return net.Listen("tcp6", address.String()) })
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			hash := sha256.New()
			_, _ = io.Copy(hash, r.Body) // what is missing shows in the hash
			fmt.Fprint(w, hex.EncodeToString(hash.Sum(nil)))
			return
		}
		fmt.Fprint(w, name, " ", netip.MustParseAddrPort(r.RemoteAddr).Addr())
	})}
	go func() { _ = server.Serve(l) }()
}

// echoUDP answers datagrams with the server's name before what was sent.
func echoUDP(t *testing.T, n testnet.Namespace, address netip.AddrPort, name string) {
	t.Helper()
	socket := listening(t, n, func() (net.PacketConn, error) { return net.ListenPacket("udp6", address.String()) })
	go func() {
		buffer := make([]byte, 65536)
		for {
			k, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(append([]byte(name+" "), buffer[:k]...), from)
		}
	}()
}

// dial connects from the client until the test ends.
func (n *network6) dial(t *testing.T, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn := listening(t, n.from, func() (net.Conn, error) { return net.DialTimeout(network, to.String(), 5*time.Second) })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends a request over a connection of its own and returns the answer.
func (n *network6) ask(t *testing.T, r *http.Request) (answer string, conn net.Conn) {
	t.Helper()
	conn = n.dial(t, "tcp", netip.MustParseAddrPort(r.URL.Host))
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), conn
}
