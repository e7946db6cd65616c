package main

import (
	"context"

	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/agent/testnet"
)

// lan is a balancer, a client and two backends that serve pages, each in a
// namespace of its own, on one switch.
type lan struct {
	*rig
	testnet.LAN
	bpffs string
	pages map[string]*page
}

// page is a backend's web server, which says the backend's name.
type page struct {
	namespace testnet.Namespace
	name      string
	mu        sync.Mutex
	server    *http.Server
}

// The names of the backends, in the order of the variable backends.
var backendNames = []string{"b1", "b2"}

func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{LAN: testnet.NewLAN(t, map[string]string{
		"lb": "20.1.1.1/24", "client": "20.1.1.100/24", "b1": "20.1.1.10/24", "b2": "20.1.1.20/24",
	}), bpffs: testnet.BPFFS(t), pages: make(map[string]*page)}
	dir := shortDir(t)
	l.rig = &rig{
		Pair:   testnet.Pair{Balancer: l.Member("lb"), Peer: l.Member("client")},
		socket: filepath.Join(dir, "agent.sock"), pins: filepath.Join(l.bpffs, "lbagent"),
	}
	l.client = api.NewUnixClient(l.socket)
	attachPass(t, l.Switch, "lb")
	l.Peer.Do(t, func() {
		_, to, _ := net.ParseCIDR(vip.Addr().String() + "/32")
		if err := netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP("20.1.1.1")}); err != nil {
			t.Error(err)
		}
	})
	for _, name := range backendNames {
		n := l.Member(name)
		n.Do(t, func() {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				t.Error(err)
				return
			}
			testnet.AddAddress(t, lo, vip.Addr().String()+"/32")
		})
		l.decapsulate(t, name)
		l.pages[name] = &page{namespace: n, name: name}
		l.pages[name].start(t)
	}
	return l
}

func (l *lan) decapPins(name string) string { return filepath.Join(l.bpffs, "decap_"+name) }

// lbagentIn runs lbagent in a namespace to its end.
func lbagentIn(t *testing.T, n testnet.Namespace, args ...string) {
	t.Helper()
	cmd := command(args...)
	stderr := &syncBuffer{}
	cmd.Stderr = stderr
	n.Start(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("lbagent %v: %v: %s", args, err, stderr)
	}
}

// decapsulate attaches a backend's program, disable takes it away.
func (l *lan) decapsulate(t *testing.T, name string) {
	t.Helper()
	address := backends[map[string]int{"b1": 0, "b2": 1}[name]].Addr().String()
	lbagentIn(t, l.Member(name), "decap", "--interface", "eth0", "--address", address, "--balancer", "20.1.1.1", "--hook", "tc", "--pin-dir", l.decapPins(name))
}

func (l *lan) disable(t *testing.T, name string) {
	t.Helper()
	lbagentIn(t, l.Member(name), "decap", "detach", "--pin-dir", l.decapPins(name))
}

func (p *page) start(t *testing.T) {
	t.Helper()
	var listener net.Listener
	p.namespace.Do(t, func() {
		var err error
		if listener, err = net.Listen("tcp4", ":80"); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, p.name) })}
	p.mu.Lock()
	p.server = server
	p.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func (p *page) kill(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.server.Close(); err != nil {
		t.Error(err)
	}
}

// connection is a client's that stays open.
type connection struct {
	http  *http.Client
	dials int
}

// connect makes a client in a namespace; it keeps its connection when keep is set.
func connect(t *testing.T, n testnet.Namespace, keep bool) *connection {
	c := &connection{}
	transport := &http.Transport{DisableKeepAlives: !keep, MaxConnsPerHost: 1,
		DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
			c.dials++
			n.Do(t, func() { conn, err = net.DialTimeout(network, address, 2*time.Second) })
			return conn, err
		}}
	t.Cleanup(transport.CloseIdleConnections)
	c.http = &http.Client{Transport: transport, Timeout: 3 * time.Second}
	return c
}

func (c *connection) get(url string) (string, error) {
	response, err := c.http.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return string(text), err
}

var pageURL = "http://" + vip.String() + "/"

// answers asks for the page by n new connections and counts who answers.
func (l *lan) answers(t *testing.T, n int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for range n {
		name, err := connect(t, l.Peer, false).get(pageURL)
		if err != nil {
			name = "error: " + err.Error()
		}
		got[name]++
	}
	return got
}

// held is a connection to a backend that stays open.
func (l *lan) heldBy(t *testing.T, name string) *connection {
	t.Helper()
	for range 50 {
		c := connect(t, l.Peer, true)
		got, err := c.get(pageURL)
		if err != nil {
			t.Fatal(err)
		}
		if got == name {
			return c
		}
	}
	t.Fatalf("no connection comes to %s", name)
	return nil
}

// serve makes the service with the check, and waits until both backends answer.
func (l *lan) serve(t *testing.T, check api.HealthCheck) {
	t.Helper()
	if _, err := l.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 251, HealthCheck: &check}); err != nil {
		t.Fatal(err)
	}
	l.resolved(t, backends...)
	until(t, "the first checks", func() bool {
		all, err := l.client.Health(t.Context())
		return err == nil && len(all) == 2 && all[0].Result == "passed" && all[1].Result == "passed"
	})
	l.wantBoth(t)
}

func (l *lan) wantBoth(t *testing.T) {
	t.Helper()
	if got := l.answers(t, 20); got["b1"] == 0 || got["b2"] == 0 || got["b1"]+got["b2"] != 20 {
		t.Fatalf("answers came from %v", got)
	}
}

// becomes waits until a backend's health is this, and says how long that took.
func (l *lan) becomes(t *testing.T, backend netip.AddrPort, health string) time.Duration {
	t.Helper()
	begin := time.Now()
	until(t, backend.String()+" "+health, func() bool {
		s, err := l.client.Service(t.Context(), 1)
		if err != nil {
			return false
		}
		for _, b := range s.Backends {
			if b.Address == backend {
				return b.Health == health
			}
		}
		return false
	})
	return time.Since(begin)
}
