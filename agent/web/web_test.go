package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/agent/web/pattern"
)

// syncBuffer is a log that a test reads while a server writes.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// served is a running server.
type served struct {
	tcp, udp string
	log      *syncBuffer
	stop     context.CancelFunc
	done     chan error
}

// serve runs be1 on free ports of every address until the test ends.
func serve(t *testing.T) *served {
	t.Helper()
	log := &syncBuffer{}
	ctx, cancel := context.WithCancel(t.Context())
	server, err := Listen(ctx, Options{
		Identity: Identity{Name: "be1", Address: netip.MustParseAddr("20.1.1.10"), OS: "windows"},
		TCP:      []string{"127.0.0.1:0"},
		UDP:      []string{":0"},
		Log:      slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &served{log: log, stop: cancel, done: make(chan error, 1)}
	for _, a := range server.Addresses() {
		network, address, _ := strings.Cut(a, " ")
		switch {
		case network == "tcp":
			s.tcp = address
		case strings.HasPrefix(address, "0.0.0.0:"):
			s.udp = address
		}
	}
	go func() { s.done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err, open := <-s.done:
			if open && err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server did not stop within 10 seconds")
		}
	})
	return s
}

// ask sends one request on a connection of its own and returns the answer and its body.
func (s *served) ask(t *testing.T, method, path string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.tcp+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, got
}

func TestEveryAnswerNamesTheBackend(t *testing.T) {
	s := serve(t)
	cases := map[string]struct {
		method, path string
		status       int
	}{
		"the page":                  {"GET", "/", 200},
		"the page's header":         {"HEAD", "/", 200},
		"whoami":                    {"GET", "/whoami", 200},
		"no bytes":                  {"GET", "/bytes?n=0", 200},
		"a path that is not there":  {"GET", "/favicon.ico", 404},
		"a method that is wrong":    {"DELETE", "/whoami", 405},
		"bytes without a number":    {"GET", "/bytes", 400},
		"fewer than no bytes":       {"GET", "/bytes?n=-1", 400},
		"more bytes than allowed":   {"GET", "/bytes?n=4294967297", 400},
		"a seed that is no number":  {"GET", "/bytes?n=1&seed=x", 400},
		"the header of many bytes":  {"HEAD", "/bytes?n=4294967296", 200},
		"a query with odd escaping": {"GET", "/bytes?n=%zz", 400},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			response, body := s.ask(t, c.method, c.path, nil)
			if response.StatusCode != c.status || response.Header.Get("X-Backend") != "be1" {
				t.Errorf("status %d, X-Backend %q, body %s; want status %d from be1",
					response.StatusCode, response.Header.Get("X-Backend"), body, c.status)
			}
		})
	}
}

func TestThePageNamesBackendAddressSystemAndClient(t *testing.T) {
	response, body := serve(t).ask(t, "GET", "/", nil)
	for _, want := range []string{"<h1>be1</h1>", "<dd>20.1.1.10</dd>", "<dd>windows</dd>", "<dd>127.0.0.1:", `http-equiv="refresh"`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the page lacks %s:\n%s", want, body)
		}
	}
	if strings.Contains(string(body), "://") {
		t.Error("the page asks for something of another server")
	}
	if !response.Close {
		t.Error("the page keeps its connection: a refresh would use the same source port")
	}
}

func TestThePageEscapesWhatTheClientSent(t *testing.T) {
	s := serve(t)
	conn, err := net.Dial("tcp", s.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\nHost: <b>'x'\r\n\r\n")
	body, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), "<b>") {
		t.Errorf("the page repeats markup:\n%s", body)
	}
}

func TestWhoamiShowsTheClientAsTheServerSeesIt(t *testing.T) {
	s := serve(t)
	conn, err := net.Dial("tcp", s.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /whoami HTTP/1.1\r\nHost: x\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"name": "be1", "address": "20.1.1.10", "os": "windows", "client": conn.LocalAddr().String()}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBytesAreThePatternAndSinkHashesWhatArrived(t *testing.T) {
	s := serve(t)
	const n, seed = 3_000_001, 7
	want, err := pattern.SHA256(n, seed)
	if err != nil {
		t.Fatal(err)
	}
	response, body := s.ask(t, "GET", fmt.Sprintf("/bytes?n=%d&seed=%d", n, seed), nil)
	if response.ContentLength != n || len(body) != n {
		t.Fatalf("Content-Length %d, %d bytes; want %d", response.ContentLength, len(body), n)
	}
	var sink Sink
	_, answer := s.ask(t, "POST", "/sink", bytes.NewReader(body))
	if err := json.Unmarshal(answer, &sink); err != nil {
		t.Fatal(err)
	}
	if sink != (Sink{n, want}) {
		t.Errorf("got %+v, want %d bytes with hash %s", sink, n, want)
	}
}

func TestTheServerClosesFirstWhenTheClientAsksForIt(t *testing.T) {
	s := serve(t)
	conn, err := net.Dial("tcp", s.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	// ReadAll ends at the server's FIN; this side has not closed.
	if text, err := io.ReadAll(conn); err != nil || !strings.Contains(string(text), "Connection: close") {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestADatagramIsAnsweredFromTheAddressThatItWasSentTo(t *testing.T) {
	s := serve(t)
	_, port, err := net.SplitHostPort(s.udp)
	if err != nil {
		t.Fatal(err)
	}
	// A connected socket takes answers from the address it sent to, and no other.
	for _, address := range []string{"127.0.0.1", "127.0.0.2"} {
		conn, err := net.Dial("udp4", net.JoinHostPort(address, port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("who?")); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		buffer := make([]byte, 1500)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		var got Whoami
		if err := json.Unmarshal(buffer[:n], &got); err != nil || got.Name != "be1" || got.Client.String() != conn.LocalAddr().String() {
			t.Errorf("%s answered %s (%v), asked from %s", address, buffer[:n], err, conn.LocalAddr())
		}
	}
}

func TestADatagramThatIsAnAnswerGetsNone(t *testing.T) {
	s := serve(t)
	conn, err := net.Dial("udp4", strings.Replace(s.udp, "0.0.0.0", "127.0.0.1", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Datagrams keep their order on the loopback: the one answer must be the second's.
	for _, text := range []string{`{"name":"be2"}`, "who?"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	close(s.done)
	if answered := strings.Count(s.log.String(), "msg=datagram"); answered != 1 {
		t.Errorf("%d datagrams answered, want 1:\n%s", answered, s.log)
	}
}

func TestTheLogHasOneBoundedLineARequest(t *testing.T) {
	s := serve(t)
	s.ask(t, "GET", "/whoami", nil)
	s.ask(t, "GET", "/"+strings.Repeat("a", 8000), nil)
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	close(s.done)
	var requests []string
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "msg=request") {
			requests = append(requests, line)
		}
	}
	if len(requests) != 2 || !strings.Contains(requests[0], "method=GET url=/whoami status=200") || len(requests[1]) > 500 {
		t.Errorf("got %q", requests)
	}
}

func TestAStoppedServerFinishesTheRequestInFlight(t *testing.T) {
	s := serve(t)
	body, send := io.Pipe()
	answered := make(chan Sink, 1)
	go func() {
		defer close(answered)
		response, err := http.Post("http://"+s.tcp+"/sink", "application/octet-stream", body)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		var sink Sink
		if err := json.NewDecoder(response.Body).Decode(&sink); err != nil {
			t.Error(err)
		}
		answered <- sink
	}()
	// More than the sockets' buffers hold: once it is written, the handler is
	// reading.
	const megabytes = 32
	for range megabytes {
		if _, err := send.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	// The listener closes at once, before the request ends.
	for deadline := time.Now().Add(4 * time.Second); ; {
		conn, err := net.Dial("tcp", s.tcp)
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("a stopping server still takes connections")
		}
	}
	send.Close()
	if sink := <-answered; sink.Bytes != megabytes<<20 {
		t.Errorf("%d bytes arrived, want %d", sink.Bytes, megabytes<<20)
	}
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	close(s.done)
}

func TestListenRefuses(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := Identity{Name: "be1", Address: netip.MustParseAddr("20.1.1.10")}
	cases := map[string]struct {
		options Options
		want    string
		code    int
	}{
		"no name":                  {Options{Identity: Identity{Address: good.Address}, TCP: []string{":0"}}, "--name: is missing", 2},
		"a name with a line break": {Options{Identity: Identity{Name: "a\nb", Address: good.Address}, TCP: []string{":0"}}, "cannot stand in a header", 2},
		"no address":               {Options{Identity: Identity{Name: "be1"}, TCP: []string{":0"}}, "--address: is missing", 2},
		"nothing to listen on":     {Options{Identity: good}, "neither --tcp nor --udp", 2},
		"a port alone":             {Options{Identity: good, TCP: []string{"80"}}, `"80" is not [ADDRESS]:PORT`, 2},
		"a port that is too large": {Options{Identity: good, UDP: []string{":65536"}}, "not between 0 and 65535", 2},
		"a host name":              {Options{Identity: good, TCP: []string{"localhost:80"}}, "is no address", 2},
		"a mapped address":         {Options{Identity: good, TCP: []string{"[::ffff:127.0.0.1]:80"}}, "is no address", 2},
		"a port that is taken":     {Options{Identity: good, TCP: []string{taken.Addr().String()}}, "address already in use", 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Listen(t.Context(), c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var coded interface{ ExitCode() int }
			code := 0
			if errors.As(err, &coded) {
				code = coded.ExitCode()
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
		})
	}
}
