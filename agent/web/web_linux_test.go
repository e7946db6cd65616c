package web

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"l4lab/agent/testnet"
)

// serveIn runs be1 in a namespace until the test ends, and returns where it listens.
func serveIn(t *testing.T, n testnet.Namespace, tcp, udp string) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var server *Server
	var err error
	n.Do(t, func() {
		server, err = Listen(ctx, Options{
			Identity: Identity{Name: "be1", Address: netip.MustParseAddr("fd00::1"), OS: "linux"},
			TCP:      []string{tcp}, UDP: []string{udp}, Log: slog.New(slog.DiscardHandler),
		})
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return server.Addresses()
}

// dial connects from a local address, "" for the kernel's choice, in a namespace.
func dial(t *testing.T, n testnet.Namespace, network, from, to string) net.Conn {
	t.Helper()
	var dialer net.Dialer
	if from != "" {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	var conn net.Conn
	var err error
	n.Do(t, func() { conn, err = dialer.Dial(network, to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestBothFamiliesAreServed(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24", "fd00::10/64")
	pair.Balancer.Do(t, func() {
		testnet.AddAddress(t, pair.Balancer.Link(t), "fd00::1/64")
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		testnet.AddAddress(t, lo, "fd40::1/128")
	})
	if got, want := serveIn(t, pair.Balancer, ":80", ":53"), []string{"tcp 0.0.0.0:80", "tcp [::]:80", "udp 0.0.0.0:53", "udp [::]:53"}; !slices.Equal(got, want) {
		t.Fatalf("it listens on %q, want %q", got, want)
	}
	for _, to := range []string{"20.1.1.1:80", "[fd00::1]:80"} {
		conn := dial(t, pair.Peer, "tcp", "", to)
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
		response, err := client.Get("http://" + to + "/whoami")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		wantWhoami(t, response.Body, conn)
	}
	// From ::1 the kernel itself would answer as ::1, whichever address was asked.
	for _, c := range []struct{ network, from, to string }{
		{"udp4", "", "20.1.1.1:53"},
		{"udp6", "[::1]:0", "[fd40::1]:53"},
		{"udp6", "[::1]:0", "[::1]:53"},
	} {
		conn := dial(t, pair.Balancer, c.network, c.from, c.to)
		if _, err := conn.Write([]byte("who?")); err != nil {
			t.Fatal(err)
		}
		// A connected socket takes answers from the address it sent to, and no other.
		wantWhoami(t, conn, conn)
	}
}

func wantWhoami(t *testing.T, answer io.Reader, conn net.Conn) {
	t.Helper()
	var got Whoami
	if err := json.NewDecoder(answer).Decode(&got); err != nil || got.Name != "be1" || got.Client.String() != conn.LocalAddr().String() {
		t.Errorf("%s answered %+v (%v), asked from %s", conn.RemoteAddr(), got, err, conn.LocalAddr())
	}
}

func TestAnIPv6AddressAloneIsServed(t *testing.T) {
	pair := testnet.NewPair(t, "fd00::1/64", "fd00::10/64")
	if got, want := serveIn(t, pair.Balancer, "[fd00::1]:80", "[fd00::1]:53"), []string{"tcp [fd00::1]:80", "udp [fd00::1]:53"}; !slices.Equal(got, want) {
		t.Errorf("it listens on %q, want %q", got, want)
	}
}
