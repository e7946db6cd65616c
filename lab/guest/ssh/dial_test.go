//go:build linux

package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo answers each connection with the caller's address and what it sent, once
// the caller has ended.
func echo(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				sent, _ := io.ReadAll(conn)
				fmt.Fprintf(conn, "%s sent ", conn.RemoteAddr())
				conn.Write(sent)
			}()
		}
	}()
	return l.Addr()
}

func TestDialStream(t *testing.T) {
	g, s := connected(t)
	folder := filepath.Join(s.dir, "node")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	tcp := echo(t, "tcp", "127.0.0.1:0").String()
	echo(t, "unix", filepath.Join(folder, "agent.sock"))
	local := freePort(t)
	closed, _ := connected(t, "AllowTcpForwarding no", "AllowStreamLocalForwarding no", "DisableForwarding yes")
	for _, c := range []struct {
		name, network, local, address string
		through                       *Guest
		from                          string
	}{
		{"TCP", "tcp", "", tcp, g, "127.0.0.1:"},
		{"TCP from a port", "tcp", local, tcp, g, local},
		{"a unix socket in the node's folder", "unix", "", "agent.sock", g, ""},
		{"a unix socket anywhere", "unix", "", filepath.Join(folder, "agent.sock"), g, ""},
		{"TCP where the server forwards nothing", "tcp", "", tcp, closed, "127.0.0.1:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := c.through.Dial(t.Context(), c.network, c.local, c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			sent := bytes.Repeat([]byte("0123456789"), 30000)
			go func() {
				conn.Write(sent)
				conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			from, answer, _ := strings.Cut(string(got), " sent ")
			if answer != string(sent) || !strings.HasPrefix(from, c.from) {
				t.Errorf("%d bytes came back of %d, to %s", len(answer), len(sent), from)
			}
			if c.local != "" && conn.LocalAddr().String() != c.local {
				t.Errorf("LocalAddr is %s, want %s", conn.LocalAddr(), c.local)
			}
		})
	}
}

func TestDialDatagrams(t *testing.T) {
	g, _ := connected(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, from, err := server.ReadFrom(buffer)
			if err != nil {
				return
			}
			server.WriteTo(append([]byte(from.String()+" "), buffer[:n]...), from)
		}
	}()
	local := freePort(t)
	conn, err := g.Dial(t.Context(), "udp", local, server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, sent := range []string{"one", "", strings.Repeat("x", 9000)} {
		if _, err := conn.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 65535)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(buffer)
		if err != nil || string(buffer[:n]) != local+" "+sent {
			t.Errorf("%.20q was answered with %.60q, %v", sent, buffer[:n], err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read of nothing = %v, want a deadline's error", err)
	}
}

func TestDialThatFailsSaysWhyAsADialDoes(t *testing.T) {
	g, s := connected(t)
	nobody := freePort(t)
	taken := echo(t, "tcp", "127.0.0.1:0").String()
	for _, c := range []struct {
		name, network, local, address string
		is                            error
	}{
		{"a port where nobody listens", "tcp", "", nobody, syscall.ECONNREFUSED},
		{"the same from a port", "tcp", freePort(t), nobody, syscall.ECONNREFUSED},
		{"from a port that is taken", "tcp", taken, nobody, syscall.EADDRINUSE},
		{"from an address that is not the guest's", "tcp", "203.0.113.9:0", nobody, syscall.EADDRNOTAVAIL},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := g.Dial(t.Context(), c.network, c.local, c.address); !errors.Is(err, c.is) || !strings.Contains(err.Error(), "be3") {
				t.Errorf("Dial = %v, want %v", err, c.is)
			}
		})
	}
	if _, err := g.Dial(t.Context(), "unix", "", "no.sock"); err == nil {
		t.Error("Dial of a socket that is not there went well")
	}
	c := s.config(t)
	c.Agent = "/no/such/lbagent"
	without, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if _, err := without.Dial(t.Context(), "udp", "", nobody); !errors.Is(err, ErrNoProgram) {
		t.Errorf("Dial without the agent there = %v, want ErrNoProgram", err)
	}
}

func TestDialEndsWithItsContextAndTheConnectionDoesNot(t *testing.T) {
	g, _ := connected(t)
	to := echo(t, "tcp", "127.0.0.1:0").String()
	for _, local := range []string{"", "127.0.0.1:0"} {
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := g.Dial(ctx, "tcp", local, to)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		conn.Write([]byte("still here"))
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "still here") {
			t.Errorf("after the context's end: %q, %v", got, err)
		}
		conn.Close()
		if _, err := g.Dial(ctx, "tcp", local, to); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial with an ended context = %v", err)
		}
	}
}
