package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// here runs the relay in this process.
func here(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var t Target
	args := argv[2:]
	for args[0] != "--" {
		if args[0] == "--until-closed" {
			t.UntilClosed, args = true, args[1:]
			continue
		}
		t.Local, args = args[1], args[2:]
	}
	t.Network, t.Address = args[1], args[2]
	err := Serve(ctx, t, t.Connect, stdin, stdout)
	if err != nil {
		io.WriteString(stderr, err.Error())
	}
	return err
}

func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// A request is cancelled when its client shuts its side; one that must outlast
// the end of the input keeps that open.
func TestARequestOutlastsTheEndOfTheInputUntilClosed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			w.WriteHeader(http.StatusServiceUnavailable)
		case <-time.After(500 * time.Millisecond):
		}
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	for untilClosed, want := range map[bool]string{true: "200 OK", false: "503 Service Unavailable"} {
		var out bytes.Buffer
		target := Target{Network: TCP, Address: address, UntilClosed: untilClosed}
		request := strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if err := here(t.Context(), target.Argv("lbagent"), request, &out, io.Discard); err != nil {
			t.Error(err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("until closed %t: the answer is %q, want %q", untilClosed, out.String(), want)
		}
	}
}

func TestTheEndOfWritingReachesThePeerAndItsAnswerUs(t *testing.T) {
	to := listen(t, func(conn net.Conn) {
		sent, _ := io.ReadAll(conn)
		conn.Write(bytes.ToUpper(sent))
		conn.Close()
	})
	conn, err := Dial(t.Context(), here, "lbagent", Target{Network: TCP, Address: to})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hello")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "HELLO" || conn.RemoteAddr().String() != to {
		t.Errorf("read %q, %v from %s", got, err, conn.RemoteAddr())
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close = %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close = %v", err)
	}
}

func TestWhatWasWrittenBeforeCloseArrives(t *testing.T) {
	got := make(chan string, 1)
	to := listen(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		got <- string(all)
		<-t.Context().Done()
		conn.Close()
	})
	conn, err := Dial(t.Context(), here, "lbagent", Target{Network: TCP, Address: to})
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("0123456789", 50000)
	io.WriteString(conn, sent)
	conn.Close()
	if all := <-got; all != sent {
		t.Errorf("%d bytes arrived of %d", len(all), len(sent))
	}
}

func TestDeadlinesInterruptAndNothingIsLost(t *testing.T) {
	goOn := make(chan struct{})
	to := listen(t, func(conn net.Conn) {
		io.WriteString(conn, "first")
		<-goOn
		io.WriteString(conn, "second")
		conn.Close()
	})
	conn, err := Dial(t.Context(), here, "lbagent", Target{Network: TCP, Address: to})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffer := make([]byte, 100)
	if n, err := io.ReadFull(conn, buffer[:5]); err != nil || string(buffer[:n]) != "first" {
		t.Fatal(n, err)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v, want a deadline's error", err)
	}
	conn.SetReadDeadline(time.Time{})
	close(goOn)
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "second" {
		t.Errorf("afterwards %q, %v", rest, err)
	}
}

func TestDialErrorsHaveTheirKind(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		name   string
		target Target
		is     error
	}{
		{"refused", Target{Network: TCP, Address: closed.Addr().String()}, syscall.ECONNREFUSED},
		{"no such socket", Target{Network: Unix, Address: filepath.Join(t.TempDir(), "x.sock")}, fs.ErrNotExist},
		{"no such address", Target{Network: UDP, Local: "203.0.113.9:1", Address: "127.0.0.1:9"}, syscall.EADDRNOTAVAIL},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Dial(t.Context(), here, "lbagent", c.target)
			var dial *DialError
			if !errors.Is(err, c.is) || !errors.As(err, &dial) {
				t.Errorf("Dial = %v, want %v", err, c.is)
			}
		})
	}
}

func TestErrorsOfWindowsHaveTheirKind(t *testing.T) {
	for _, c := range []struct {
		name string
		call string
		code syscall.Errno
		kind string
	}{
		{"a port that is taken", "bind", 10048, "inUse"},
		{"a port that Windows keeps for itself", "bind", 10013, "inUse"},
		{"a connection that the firewall forbids", "connectex", 10013, "other"},
		{"nobody listens", "connectex", 10061, "refused"},
		{"no answer", "connectex", 10060, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(c.call, c.code)}
			if got := kindOf(err); got != c.kind {
				t.Errorf("the kind of %v is %q, want %q", err, got, c.kind)
			}
		})
	}
}

func TestWhatIsNoRelayIsAnError(t *testing.T) {
	broken := errors.New("no such machine")
	for _, c := range []struct {
		name   string
		says   string
		fails  error
		is     error
		within string
	}{
		{"a process that says nothing", "", nil, ErrNoRelay, ""},
		{"a transport that fails", "", broken, broken, ""},
		{"another program", "usage: lbagent COMMAND\n", nil, ErrNoRelay, "usage"},
		{"a line without end", strings.Repeat("x", 10000), nil, ErrNoRelay, ""},
		{"another version", `{"relay":99}` + "\n", nil, ErrNoRelay, "99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := func(_ context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) error {
				io.WriteString(stdout, c.says)
				return c.fails
			}
			if _, err := Dial(t.Context(), run, "lbagent", Target{Network: TCP, Address: "a:1"}); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.within) {
				t.Errorf("Dial = %v, want %v", err, c.is)
			}
		})
	}
}

func TestAProcessThatFailsIsNoEndOfTheStream(t *testing.T) {
	broken := errors.New("connection lost")
	run := func(_ context.Context, _ []string, _ io.Reader, stdout, _ io.Writer) error {
		io.WriteString(stdout, `{"relay":1,"local":"1.1.1.1:1","remote":"2.2.2.2:2"}`+"\nhalf")
		return broken
	}
	conn, err := Dial(t.Context(), run, "lbagent", Target{Network: TCP, Address: "2.2.2.2:2"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "half" || !errors.Is(err, broken) {
		t.Errorf("read %q, %v; want the failure", got, err)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	ended := make(chan struct{})
	run := func(ctx context.Context, _ []string, _ io.Reader, _, _ io.Writer) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, run, "lbagent", Target{Network: TCP, Address: "a:1"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
	<-ended
}

func TestDatagramsStayApart(t *testing.T) {
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
			server.WriteTo(buffer[:n], from)
		}
	}()
	conn, err := Dial(t.Context(), here, "lbagent", Target{Network: UDP, Local: "127.0.0.1:0", Address: server.LocalAddr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.LocalAddr().(*net.UDPAddr); !ok {
		t.Errorf("LocalAddr is a %T", conn.LocalAddr())
	}
	for _, sent := range []string{"a", "bc", "", strings.Repeat("x", maxDatagram)} {
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 65535)
		if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != sent {
			t.Errorf("%d bytes came back of %d, %v", n, len(sent), err)
		}
	}
	io.WriteString(conn, "long one")
	if n, err := conn.Read(make([]byte, 4)); n != 4 || err != nil {
		t.Errorf("a short buffer got %d bytes, %v", n, err)
	}
	io.WriteString(conn, "next")
	buffer := make([]byte, 10)
	if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != "next" {
		t.Errorf("after a datagram that was cut: %q, %v", buffer[:n], err)
	}
	if _, err := conn.Write(make([]byte, maxDatagram+1)); err == nil {
		t.Error("a datagram that is too long went out")
	}
}

// FuzzFrames has sendFrames and the reading side agree on what any input means.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 0, 0, 2, 'b', 'c'})
	f.Add([]byte{0, 5, 'a'})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, input []byte) {
		var want [][]byte
		for rest := input; len(rest) >= 2; {
			n := int(binary.BigEndian.Uint16(rest))
			if len(rest) < 2+n {
				break
			}
			want = append(want, rest[2:2+n])
			rest = rest[2+n:]
		}
		var sent datagramLog
		_ = sendFrames(&sent, bytes.NewReader(input))
		c, other := newConn(true, func() {})
		go func() {
			other.stdout.Write(input)
			c.finish(nil)
			other.stdout.Close()
		}()
		for i, datagram := range want {
			buffer := make([]byte, 65535)
			n, err := c.Read(buffer)
			if err != nil || !bytes.Equal(buffer[:n], datagram) || i >= len(sent) || !bytes.Equal(sent[i], datagram) {
				t.Fatalf("datagram %d of %x: read %x, %v", i, input, buffer[:n], err)
			}
		}
		if n, err := c.Read(make([]byte, 65535)); err == nil || len(sent) != len(want) {
			t.Fatalf("after %d datagrams of %x came %d bytes; %d were sent", len(want), input, n, len(sent))
		}
	})
}

type datagramLog [][]byte

func (l *datagramLog) Write(p []byte) (int, error) {
	*l = append(*l, bytes.Clone(p))
	return len(p), nil
}
