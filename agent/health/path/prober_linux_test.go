package path

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/health"
)

const answer200 = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes"

func TestTheWholePathIsChecked(t *testing.T) {
	l := newLab(t)
	var asked atomic.Pointer[http.Request]
	l.serve(t, 80, func(c net.Conn, r *http.Request) {
		asked.Store(r)
		saying(answer200)(c, r)
	})
	p := l.open(t)
	for _, c := range []struct {
		name   string
		target health.Target
		host   string
	}{
		{"TCP, 4in4", target4(80), ""},
		{"HTTP, 4in4", httpOf(target4(80)), vip4},
		{"TCP, 6in6", target6(80), ""},
		{"HTTP, 6in6", httpOf(target6(80)), "[" + vip6 + "]"},
		{"TCP, l2, IPv4", l2Of(target4(80)), ""},
		{"HTTP, l2, IPv4", l2Of(httpOf(target4(80))), vip4},
		{"TCP, l2, IPv6", l2Of(target6(80)), ""},
		{"HTTP, l2, IPv6", l2Of(httpOf(target6(80))), "[" + vip6 + "]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked.Store(nil)
			before := l.decap.passed.Load()
			must(t, probeWith(t, p, c.target, time.Second))
			if r := asked.Load(); c.target.HTTP && (r == nil || r.Host != c.host || r.URL.Path != "/") {
				t.Errorf("the server was asked %+v, wanted is host %s", r, c.host)
			}
			l.waitForNoConnections(t)
			if through := l.decap.passed.Load() > before; through != (c.target.Encap == "ipip") {
				t.Errorf("through the decapsulation: %t", through)
			}
		})
	}
}

func TestBrokenDecapsulationIsSeenThroughTheVIPOnly(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	direct := func(target health.Target) (err error) {
		l.Balancer.Do(t, func() { err = probeWith(t, health.Direct{}, target, time.Second) })
		return err
	}
	for _, target := range []health.Target{target4(80), httpOf(target4(80)), target6(80), httpOf(target6(80))} {
		must(t, probeWith(t, p, target, time.Second))
		must(t, direct(target))
		l.decap.off.Store(true)
		err := probeWith(t, p, target, 300*time.Millisecond)
		wantError(t, err, "through "+target.Backend.Addr().String()+" (ipip)", "no answer to the SYN", "decapsulation")
		t.Log(err)
		must(t, direct(target))
		l.decap.off.Store(false)
		must(t, probeWith(t, p, target, time.Second))
	}
}

func TestAMissingVIPIsSeenWithoutEncapsulationToo(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	must(t, probeWith(t, p, l2Of(target4(80)), time.Second))
	l.Peer.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		a, err := netlink.ParseAddr(vip4 + "/32")
		must(t, err)
		must(t, netlink.AddrDel(lo, a))
	})
	wantError(t, probeWith(t, p, l2Of(target4(80)), 200*time.Millisecond), "(l2)", "no answer to the SYN")
	wantError(t, probeWith(t, p, target4(80), 200*time.Millisecond), "(ipip)", "no answer to the SYN")
}

func TestWhatTheServerDoesWrongIsSaid(t *testing.T) {
	l := newLab(t)
	p := l.open(t)
	hang := make(chan struct{})
	defer close(hang)
	for i, c := range []struct {
		name   string
		answer func(net.Conn, *http.Request)
		status int
		words  []string // nil: it passes
	}{
		{"another status", saying("HTTP/1.1 503 Service Unavailable\r\n\r\n"), 200, []string{"GET http://40.1.1.1:", "/ through 20.1.1.10 (ipip): status 503, wanted 200"}},
		{"a failure, any success wanted", saying("HTTP/1.1 404 Not Found\r\n\r\n"), 0, []string{"status 404, wanted 200 to 399"}},
		{"a redirect, which is not followed", saying("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n"), 0, nil},
		{"the very status that is wanted", saying("HTTP/1.0 418 Teapot\r\n\r\n"), 418, nil},
		{"an interim answer first", saying("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), 0, nil},
		{"no HTTP", saying("SSH-2.0-OpenSSH_9.6\r\n"), 0, []string{"no HTTP", "SSH-2.0"}},
		{"an end before the status", saying("HTTP/1."), 0, []string{"closed after 7 bytes, before a status"}},
		{"an end at once", saying(""), 0, []string{"closed after 0 bytes, before a status"}},
		{"a reset", func(c net.Conn, _ *http.Request) { _ = c.(*net.TCPConn).SetLinger(0) }, 0, []string{"connection reset"}},
		{"silence", func(net.Conn, *http.Request) { <-hang }, 0, []string{"connected, but no status within", "after 0 bytes"}},
		{"byte after byte", func(c net.Conn, _ *http.Request) {
			_ = c.(*net.TCPConn).SetNoDelay(true)
			for _, b := range []byte("HTTP/1.1 200 OK\r\n") {
				_, _ = c.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
			<-hang
		}, 0, nil},
		{"a long answer", saying("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20)), 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := uint16(1000 + i)
			l.serve(t, int(port), c.answer)
			target := httpOf(target4(port))
			target.Status = c.status
			err := probeWith(t, p, target, 500*time.Millisecond)
			if c.words == nil {
				must(t, err)
				return
			}
			wantError(t, err, c.words...)
		})
	}
	err := probeWith(t, p, target4(999), time.Second)
	wantError(t, err, "connect to 40.1.1.1:999 through 20.1.1.10 (ipip): connection refused")
}

// The control comes first: for a port that is not held, the kernel does reset.
func TestTheKernelKeepsQuiet(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	resets := func(port uint16) (n int) {
		for _, s := range l.heard.all() {
			if s.from.Port() == port && s.flags.has(rst) {
				n++
			}
		}
		return n
	}
	const notHeld = 28900
	inject := func(port uint16) {
		t.Helper()
		s := segment{from: netip.MustParseAddrPort(vip4 + ":80"), to: netip.AddrPortFrom(netip.MustParseAddr(balancer4), port),
			seq: 1000, ack: 2000, flags: syn | ack}
		l.Peer.Do(t, func() {
			raw := rawSocket(t, 2, 255)
			defer raw.Close()
			must(t, sendTo(raw, s))
		})
	}
	inject(notHeld)
	deadline := time.Now().Add(5 * time.Second)
	for resets(notHeld) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the kernel did not reset what belongs to nobody: the test shows nothing")
		}
		time.Sleep(5 * time.Millisecond)
	}
	before := len(l.heard.all())
	for range 20 {
		must(t, probeWith(t, p, httpOf(target4(80)), time.Second))
		must(t, probeWith(t, p, httpOf(target6(80)), time.Second))
	}
	for number := range p.sides[0].ports {
		inject(number)
	}
	inject(notHeld) // what the kernel had to say to the others would have come before this
	for resets(notHeld) < 2 {
		if time.Now().After(deadline) {
			t.Fatal("the second reset did not come")
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, s := range l.heard.all()[before:] {
		if s.from.Port() != notHeld {
			t.Errorf("not encapsulated: %+v", s)
		}
	}
}

func TestLostSegmentsAreSentAgain(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	for name, is := range map[string]func(segment) bool{
		"the SYN":                func(s segment) bool { return s.flags.has(syn) },
		"the request":            func(s segment) bool { return len(s.payload) > 0 },
		"all but the last reset": func(s segment) bool { return s.flags.has(rst) },
	} {
		t.Run(name, func(t *testing.T) {
			lost := 0
			l.decap.losing(func(s segment) bool {
				if lost > 0 || !is(s) {
					return false
				}
				lost++
				return true
			})
			must(t, probeWith(t, p, httpOf(target4(80)), time.Second))
			l.waitForNoConnections(t)
			l.decap.losing(nil)
			if lost != 1 {
				t.Errorf("%d were lost", lost)
			}
		})
	}
}

// A backend that got none of the resets has the connection still when its port is
// used again; the new handshake gets past it.
func TestAConnectionLeftBehindIsNoHindrance(t *testing.T) {
	l := newLab(t)
	listener := l.listen(t, 80)
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn // never closed: the backend says nothing that would be answered by a reset
		}
	}()
	p := l.open(t)
	l.decap.losing(func(s segment) bool { return s.flags.has(rst) })
	for range len(p.sides[0].ports) {
		must(t, probeWith(t, p, target4(80), time.Second))
	}
	if left := l.connections(t); len(left) < len(p.sides[0].ports) {
		t.Fatalf("only %v are left behind", left)
	}
	l.decap.losing(nil)
	for range len(p.sides[0].ports) {
		must(t, probeWith(t, p, target4(80), time.Second))
	}
	l.waitForNoConnections(t)
}

func TestManyAtOnceShareThePorts(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	l.serve(t, 81, saying("HTTP/1.1 500 Oh\r\n\r\n"))
	p := l.open(t) // 4 ports
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			target := httpOf(target4(uint16(80 + i%2)))
			if i%4 > 1 {
				target = httpOf(target6(uint16(80 + i%2)))
			}
			err := p.Probe(ctx, target)
			if (err == nil) != (i%2 == 0) || err != nil && !strings.Contains(err.Error(), "status 500") {
				t.Errorf("probe %d of %s: %v", i, target.VIP, err)
			}
		})
	}
	all.Wait()
	l.waitForNoConnections(t)
}

func TestFaultsOfThisMachineSayNothingOfTheBackend(t *testing.T) {
	l := newLab(t)
	l.decap.off.Store(true)
	p := l.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	wantInconclusive := func(err, also error) {
		t.Helper()
		if !errors.Is(err, health.ErrInconclusive) || also != nil && !errors.Is(err, also) {
			t.Errorf("got %v", err)
		}
	}
	mixed := target4(80)
	mixed.Backend = target6(80).Backend
	wantInconclusive(p.Probe(ctx, mixed), nil)

	busy := make(chan error, 4)
	for range 4 {
		go func() { busy <- p.Probe(ctx, target4(80)) }()
	}
	for len(p.sides[0].free) > 0 {
		time.Sleep(time.Millisecond)
	}
	wantInconclusive(probeWith(t, p, target4(80), 20*time.Millisecond), nil)
	must(t, p.Close())
	for range 4 {
		wantInconclusive(<-busy, ErrClosed)
	}
	wantInconclusive(p.Probe(ctx, target4(80)), ErrClosed)
	must(t, p.Close())
}

func TestAnInterfaceThatIsDownOrGoneSaysNothingOfTheBackend(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	link := l.Balancer.Link(t)
	inconclusive := func(words string) {
		t.Helper()
		for _, target := range []health.Target{target4(80), target6(80), l2Of(target4(80))} {
			err := probeWith(t, p, target, 200*time.Millisecond)
			if !errors.Is(err, health.ErrInconclusive) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: got %v", target.Encap, err)
			}
		}
	}
	l.Balancer.Do(t, func() { must(t, netlink.LinkSetDown(link)) })
	inconclusive("the interface is down")
	l.Balancer.Do(t, func() { must(t, netlink.LinkSetUp(link)) })
	must(t, probeWith(t, p, target4(80), 3*time.Second))
	l.Balancer.Do(t, func() { must(t, netlink.LinkDel(link)) })
	inconclusive("the interface was removed")
}

// Without a route, IPv4 takes a backend for a neighbour on the socket's
// interface, where nobody answers for it; IPv6 says at once that there is none.
func TestABackendWithoutARouteFails(t *testing.T) {
	l := newLab(t)
	p := l.open(t)
	for backend, words := range map[string]string{"99.9.9.9:80": "no answer to the SYN", "[fd99::9]:80": "network is unreachable"} {
		target := target4(80)
		target.Backend = netip.MustParseAddrPort(backend)
		if target.Backend.Addr().Is6() {
			target.VIP = target6(80).VIP
		}
		wantError(t, probeWith(t, p, target, 200*time.Millisecond), words)
	}
}

func TestTheOuterSourceIsTheServices(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	p := l.open(t)
	for _, source := range []string{"", "20.1.1.200", "20.99.0.0/16"} {
		target := httpOf(target4(80))
		target.OuterSource = source
		if err := probeWith(t, p, target, time.Second); err != nil {
			t.Errorf("outer source %q: %v", source, err)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	l := newLab(t)
	own := []netip.Addr{netip.MustParseAddr(balancer4)}
	l.Balancer.Do(t, func() {
		for _, c := range []struct {
			name  string
			o     Options
			words string
		}{
			{"no interface", Options{Interface: "eth9", Addresses: own}, "find interface eth9"},
			{"no address", Options{Interface: "eth0"}, "no address"},
			{"two of a family", Options{Interface: "eth0", Addresses: append(own, own...)}, "at most one"},
			{"an address of others", Options{Interface: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("99.9.9.9")}}, "99.9.9.9"},
			{"ports the wrong way round", Options{Interface: "eth0", Addresses: own, FirstPort: 2, LastPort: 1}, "no such range"},
		} {
			if p, err := Open(c.o); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s: got %v", c.name, err)
				_ = p.Close()
			}
		}
		first, err := Open(Options{Interface: "eth0", Addresses: own, FirstPort: 20000, LastPort: 20001})
		must(t, err)
		defer first.Close()
		_, err = Open(Options{Interface: "eth0", Addresses: own, FirstPort: 20000, LastPort: 20001})
		if err == nil || !strings.Contains(err.Error(), "20000 to 20001 are in use") {
			t.Errorf("ports that are taken: got %v", err)
		}
	})
}

// The two together: decapsulation breaks, the backend goes into quarantine, and
// comes back when it is mended.
func TestACheckerSeesDecapsulationBreakAndMend(t *testing.T) {
	l := newLab(t)
	l.serve(t, 80, saying(answer200))
	reports := make(reports, 10)
	checker := health.New(health.Options{VIP: l.open(t), Reporter: reports, Log: discard()})
	must(t, checker.SetServices(serviceThroughVIP(100*time.Millisecond)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- checker.Run(ctx) }()
	for _, broken := range []bool{true, false} {
		l.decap.off.Store(broken)
		want := fmt.Sprintf("1 %s:80 healthy=%t", backend4, !broken)
		select {
		case got := <-reports:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no report of %q: %+v", want, checker.Snapshot())
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
