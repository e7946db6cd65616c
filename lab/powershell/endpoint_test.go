package powershell_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

func TestAnEndpointThatCannotBeIsRefusedBeforeAnythingIsSent(t *testing.T) {
	good := powershell.Endpoint{Host: "127.0.0.1", Port: 1, User: "u", Password: canary}
	cases := map[string]struct {
		change func(*powershell.Endpoint)
		want   string
	}{
		"no host":                     {func(e *powershell.Endpoint) { e.Host = "" }, "no host"},
		"no user":                     {func(e *powershell.Endpoint) { e.User = "" }, "no user"},
		"no password":                 {func(e *powershell.Endpoint) { e.Password = "" }, "no password"},
		"a port that is none":         {func(e *powershell.Endpoint) { e.Port = 70000 }, "port 70000"},
		"basic without TLS":           {func(e *powershell.Endpoint) { e.Plain, e.Auth = true, powershell.Basic }, "needs HTTPS"},
		"another authentication":      {func(e *powershell.Endpoint) { e.Auth = "kerberos" }, "neither ntlm nor basic"},
		"a fingerprint that is none":  {func(e *powershell.Endpoint) { e.Fingerprint = "12:34" }, "SHA-256"},
		"a fingerprint and a CA":      {func(e *powershell.Endpoint) { e.Fingerprint, e.CAFile = strings.Repeat("ab", 32), "x" }, "not both"},
		"a fingerprint without TLS":   {func(e *powershell.Endpoint) { e.Fingerprint, e.Plain = strings.Repeat("ab", 32), true }, "for HTTPS"},
		"a CA file that is not there": {func(e *powershell.Endpoint) { e.CAFile = "/nowhere/ca.pem" }, "/nowhere/ca.pem"},
		"a CA file that is none":      {func(e *powershell.Endpoint) { e.CAFile = "/dev/null" }, "no PEM certificate"},
		"an envelope that is no use":  {func(e *powershell.Endpoint) { e.EnvelopeSize = 1000 }, "envelope size"},
		"a time that has passed":      {func(e *powershell.Endpoint) { e.Timeout = -1 }, "timeout"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e := good
			c.change(&e)
			_, err := powershell.Connect(t.Context(), e)
			if err == nil || !strings.Contains(err.Error(), c.want) || isTyped(err) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			quiet(t, err)
		})
	}
}

func TestOnlyATrustedMachineGetsTheCredentials(t *testing.T) {
	h := newHost(t, false, nil)
	colons := strings.ToUpper(h.endpoint.Fingerprint)
	for i := 2; i < len(colons); i += 3 {
		colons = colons[:i] + ":" + colons[i:]
	}
	cases := map[string]struct {
		change func(*powershell.Endpoint)
		want   string
	}{
		"its pin":                  {func(*powershell.Endpoint) {}, ""},
		"its pin with colons":      {func(e *powershell.Endpoint) { e.Fingerprint = colons }, ""},
		"another pin":              {func(e *powershell.Endpoint) { e.Fingerprint = strings.Repeat("ab", 32) }, h.endpoint.Fingerprint},
		"the system's authorities": {func(e *powershell.Endpoint) { e.Fingerprint = "" }, "pin the certificate's fingerprint"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e := h.endpoint
			c.change(&e)
			before := h.Requests()
			r, err := powershell.Connect(t.Context(), e)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				h.closed(t, r)
				return
			}
			if !errors.Is(err, powershell.ErrUnreachable) || !strings.Contains(err.Error(), c.want) || h.Requests() != before {
				t.Errorf("got %v after %d requests, want it to say %q", err, h.Requests()-before, c.want)
			}
		})
	}
}

func TestAnAuthoritysFileIsTrusted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := wsman.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	s := &wsman.Server{Users: map[string]powershell.Password{"lab": canary}}
	go func() { _ = s.ServeTLS(l, cert) }()
	defer s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	e := powershell.Endpoint{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, CAFile: file, User: `HV1\lab`, Password: canary, Timeout: 5 * time.Second}
	r, err := powershell.Connect(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close(t.Context())
}

func TestWrongCredentialsAreRefusedByEveryWayToLogOn(t *testing.T) {
	for name, c := range map[string]struct {
		plain bool
		auth  powershell.Auth
	}{"NTLM": {false, powershell.NTLM}, "basic": {false, powershell.Basic}, "NTLM over HTTP": {true, powershell.NTLM}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c.plain, nil)
			h.endpoint.Auth = c.auth
			for what, change := range map[string]func(*powershell.Endpoint){
				"password": func(e *powershell.Endpoint) { e.Password += "x" },
				"user":     func(e *powershell.Endpoint) { e.User = "other" },
			} {
				e := h.endpoint
				change(&e)
				_, err := powershell.Connect(t.Context(), e)
				if !errors.Is(err, powershell.ErrAuth) || !strings.Contains(err.Error(), "check user and password") {
					t.Errorf("another %s: %v", what, err)
				}
				quiet(t, err)
			}
		})
	}
}

func TestWhatIsNoWinRMIsUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	e := powershell.Endpoint{Host: "127.0.0.1", Port: free, Plain: true, User: "u", Password: canary, Timeout: time.Second}
	if _, err := powershell.Connect(t.Context(), e); !errors.Is(err, powershell.ErrUnreachable) || !strings.Contains(err.Error(), "winrm quickconfig") {
		t.Errorf("a port where nothing listens: %v", err)
	}
}

// recorder is a listener's connection that keeps what passes.
type recorder struct {
	net.Listener
	mu   sync.Mutex
	seen bytes.Buffer
}

type recorded struct {
	net.Conn
	r *recorder
}

func (r *recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	return recorded{c, r}, err
}

func (c recorded) keep(b []byte) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.seen.Write(b)
}

func (c recorded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.keep(b[:n])
	return n, err
}

func (c recorded) Write(b []byte) (int, error) {
	c.keep(b)
	return c.Conn.Write(b)
}

func TestOverHTTPNothingIsInTheClear(t *testing.T) {
	for name, refuse := range map[string]bool{"a machine that seals": false, "one that refuses the logon": true} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			rec := &recorder{Listener: l}
			s := &wsman.Server{Users: map[string]powershell.Password{"lab": canary}, Run: func(ctx context.Context, p wsman.Process) int {
				return machine(ctx, p.Stdin, p.Stdout, p.Stderr)
			}}
			if refuse {
				s.Users["lab"] = "another"
			}
			go func() { _ = s.Serve(rec) }()
			defer s.Close()
			e := powershell.Endpoint{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Plain: true, User: "lab", Password: canary, Timeout: 5 * time.Second}
			r, err := powershell.Connect(t.Context(), e)
			if (err != nil) != refuse {
				t.Fatal(err)
			}
			if err == nil {
				var out bytes.Buffer
				// Enough bytes for any of them to look like a line of MIME.
				if err := r.Run(t.Context(), powershell.Call{Script: cat, Stdin: io.LimitReader(zero{}, 700_000), Stdout: &out}); err != nil || out.Len() != 700_000 {
					t.Errorf("%v, %d bytes", err, out.Len())
				}
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			_ = s.Close()
			rec.mu.Lock()
			defer rec.mu.Unlock()
			for _, word := range []string{"Envelope", "schemas", "powershell.exe", canary, "param() #"} {
				if bytes.Contains(rec.seen.Bytes(), []byte(word)) {
					t.Errorf("%q passed in the clear", word)
				}
			}
			if rec.seen.Len() == 0 {
				t.Error("nothing was recorded")
			}
		})
	}
}

type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }
