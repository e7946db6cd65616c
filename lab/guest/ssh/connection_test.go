//go:build linux

package ssh

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
)

func TestAServerWithAnotherHostKeyIsNeverSpokenTo(t *testing.T) {
	s := newServer(t)
	other, err := keys.Host(s.dir, "be4")
	if err != nil {
		t.Fatal(err)
	}
	c := s.config(t)
	c.HostKey = other.Public()
	_, err = Connect(t.Context(), c)
	if !errors.Is(err, ErrHostKey) {
		t.Fatalf("Connect = %v, want ErrHostKey", err)
	}
	for _, want := range []string{s.host.Fingerprint(), other.Fingerprint(), "be3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := g.AwaitReady(t.Context(), time.Minute); !errors.Is(err, ErrHostKey) || !errors.Is(err, guest.ErrNever) {
		t.Errorf("AwaitReady = %v, want ErrHostKey without waiting", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it waited %s for a key that will not change", took)
	}
}

func TestAServerThatDoesNotKnowUsIsErrAuth(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	stranger, err := keys.Client(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Key = stranger
	if _, err := Connect(t.Context(), c); !errors.Is(err, ErrAuth) || errors.Is(err, ErrUnreachable) {
		t.Errorf("Connect = %v, want ErrAuth", err)
	}
}

func TestNobodyThereIsErrUnreachable(t *testing.T) {
	s := newServer(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, c := range []struct{ name, address string }{
		{"a port where nobody listens", freePort(t)},
		{"a server that says nothing", silent.Addr().String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := s.config(t)
			config.Address, config.Handshake = c.address, 300*time.Millisecond
			_, err := Connect(t.Context(), config)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), c.address) {
				t.Errorf("Connect = %v, want ErrUnreachable with the address", err)
			}
			g, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			err = g.AwaitReady(t.Context(), 500*time.Millisecond)
			var wait *guest.AwaitError
			if !errors.As(err, &wait) || !errors.Is(err, guest.ErrLimit) || !errors.Is(err, ErrUnreachable) {
				t.Fatalf("AwaitReady = %v, want its limit and the last error", err)
			}
			if !strings.Contains(err.Error(), "answers SSH at "+c.address) || !strings.Contains(err.Error(), "console") {
				t.Errorf("%q does not say what it waited for and how to look", err)
			}
		})
	}
}

func TestAGuestThatRestartedIsFoundAgain(t *testing.T) {
	g, s := connected(t)
	if got := output(t, g, "echo", "1"); got != "1\n" {
		t.Fatal(got)
	}
	lost := make(chan error, 1)
	out, found := lines()
	go func() {
		lost <- g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "echo ready; exec sleep 1000"}, Stdout: out})
	}()
	<-found
	s.stop()
	if err := <-lost; !errors.Is(err, ErrUnreachable) {
		t.Errorf("a command that was cut off = %v, want ErrUnreachable", err)
	}
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"true"}}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("while it is off, Run = %v, want ErrUnreachable", err)
	}
	ready := make(chan error, 1)
	go func() { ready <- g.AwaitReady(t.Context(), time.Minute) }()
	s.start(t)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if got := output(t, g, "echo", "2"); got != "2\n" {
		t.Error(got)
	}
}

// gate is a dialler whose connections a test can hold up.
type gate struct {
	conns chan *heldConn
}

type heldConn struct {
	net.Conn
	held chan struct{}
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	h := &heldConn{Conn: conn, held: make(chan struct{})}
	g.conns <- h
	return h, nil
}

// Read hands nothing on once held, as a cable that was pulled.
func (h *heldConn) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	select {
	case <-h.held:
		if err != nil {
			return 0, err
		}
		return h.Read(p)
	default:
		return n, err
	}
}

func TestAConnectionThatHasGoneSilentIsGivenUp(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	wire := &gate{conns: make(chan *heldConn, 10)}
	c.Dial, c.KeepAlive = wire.dial, 100*time.Millisecond
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	done := make(chan error, 1)
	out, found := lines()
	go func() {
		done <- g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "echo ready; exec sleep 1000"}, Stdout: out})
	}()
	<-found
	close((<-wire.conns).held)
	if err := <-done; !errors.Is(err, ErrUnreachable) {
		t.Errorf("Run = %v, want ErrUnreachable", err)
	}
	if got := output(t, g, "echo", "again"); got != "again\n" {
		t.Error(got)
	}
}

func TestCloseEndsWhatRuns(t *testing.T) {
	g, _ := connected(t)
	done := make(chan error, 1)
	out, found := lines()
	go func() {
		done <- g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", "echo ready; exec cat"}, Stdout: out})
	}()
	<-found
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("the command ended well")
	}
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"true"}}); !errors.Is(err, ErrClosed) {
		t.Errorf("Run = %v, want ErrClosed", err)
	}
}

func TestAJumpHostLeadsToAGuest(t *testing.T) {
	jump, _ := connected(t)
	s := newServer(t)
	c := s.config(t)
	c.Dial = jump.Forward
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	fields := strings.Fields(output(t, g, "sh", "-c", "echo $SSH_CONNECTION"))
	if len(fields) != 4 || fields[3] != s.address[strings.LastIndex(s.address, ":")+1:] {
		t.Errorf("the guest's connection is %q", fields)
	}
}

func TestAConfigThatCannotWorkIsRefused(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"no host key", func(c *Config) { c.HostKey = "" }},
		{"no login", func(c *Config) { c.Key = keys.Key{} }},
		{"a relative folder", func(c *Config) { c.Folder = "node" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := s.config(t)
			c.change(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), "be3") {
				t.Errorf("New = %v, want an error that names the node", err)
			}
		})
	}
}
