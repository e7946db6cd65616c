package powershell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// canary is the password of all tests: it may show nowhere.
const canary = "C4nary-päss'\"$`<&>word"

// Scripts of a machine that only these tests know.
var (
	echo    = powershell.Script{Name: "echo", Text: "param($value) # echo", Repeatable: true}
	once    = powershell.Script{Name: "once", Text: "param($value) # once"}
	fail    = powershell.Script{Name: "fail", Text: "param($code) # fail", Repeatable: true}
	cat     = powershell.Script{Name: "cat", Text: "param() # cat"}
	hang    = powershell.Script{Name: "hang", Text: "param() # hang", Repeatable: true}
	garbage = powershell.Script{Name: "garbage", Text: "param($text, $exit) # garbage", Repeatable: true}
)

// machine runs the scripts above, as a process with these streams.
func machine(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
	q, err := powershell.ReadRequest(stdin)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	var p struct {
		Value any    `json:"value"`
		Code  string `json:"code"`
		Text  string `json:"text"`
		Exit  int    `json:"exit"`
	}
	if err := json.Unmarshal(q.Input, &p); err != nil {
		return 2
	}
	r := powershell.NewReply(stdout, q)
	switch q.Script.Text {
	case echo.Text, once.Text:
		_ = r.End(map[string]any{"value": p.Value}, nil)
	case fail.Text:
		_ = r.End(nil, &powershell.ScriptError{Code: p.Code, Message: "it’s gone", Target: `C:\x`})
	case cat.Text:
		n, err := io.Copy(r.Stdout(), q.Stdin)
		_, _ = fmt.Fprintf(r.Stderr(), "%d bytes", n)
		_ = r.End(n, err)
	case hang.Text:
		<-ctx.Done()
		return 1
	case garbage.Text:
		_, _ = io.WriteString(stdout, p.Text)
		_, _ = io.WriteString(stderr, "#< CLIXML\r\n<Objs Version=\"1.1.0.1\" xmlns=\"http://schemas.microsoft.com/powershell/2004/04\"><S S=\"Error\">no_x0020_luck_x000D__x000A_</S></Objs>")
		return p.Exit
	}
	return 0
}

// host is a simulated machine's WinRM service.
type host struct {
	*wsman.Server
	endpoint powershell.Endpoint
}

// newHost serves on loopback, over TLS unless plain. Configure runs before.
func newHost(t testing.TB, plain bool, configure func(*wsman.Server)) host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &wsman.Server{Users: map[string]powershell.Password{"lab": canary}}
	s.Run = func(ctx context.Context, p wsman.Process) int {
		if line := strings.Join(append([]string{p.CommandLine}, p.Arguments...), " "); line != powershell.CommandLine() {
			_, _ = fmt.Fprintf(p.Stderr, "'%.40s' is not recognized as an internal or external command", line)
			return 9009
		}
		return machine(ctx, p.Stdin, p.Stdout, p.Stderr)
	}
	if configure != nil {
		configure(s)
	}
	cert, fingerprint, err := wsman.SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		if plain {
			served <- s.Serve(l)
		} else {
			served <- s.ServeTLS(l, cert)
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	h := host{s, powershell.Endpoint{
		Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Plain: plain, Fingerprint: fingerprint,
		User: "lab", Password: canary, Timeout: 5 * time.Second,
	}}
	if plain {
		h.endpoint.Fingerprint = ""
	}
	return h
}

// connect logs on, and asserts in the end that nothing is left on the host.
func (h host) connect(t testing.TB) powershell.Runner {
	t.Helper()
	r, err := powershell.Connect(t.Context(), h.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.closed(t, r) })
	return r
}

func (h host) closed(t testing.TB, r powershell.Runner) {
	t.Helper()
	if err := r.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := h.Shells(); n != 0 {
		t.Errorf("%d shells are left on the host", n)
	}
	until(t, "all processes have ended", func() bool { return h.Processes() == 0 })
}

// until waits for a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s until %s", what)
		}
	}
}

// TestMain lets the test binary stand for powershell.exe (Local).
func TestMain(m *testing.M) {
	if os.Getenv("L4LAB_TEST_POWERSHELL") != "" {
		if got := "powershell.exe " + strings.Join(os.Args[1:], " "); got != powershell.CommandLine() {
			fmt.Fprintln(os.Stderr, "unexpected arguments")
			os.Exit(3)
		}
		os.Exit(machine(context.Background(), os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

type echoed struct {
	Value any `json:"value"`
}

func runEcho(ctx context.Context, r powershell.Runner, s powershell.Script, value any) (any, error) {
	var got echoed
	err := r.Run(ctx, powershell.Call{Script: s, Input: map[string]any{"value": value}, Result: &got})
	return got.Value, err
}

// runners are all ways to run the machine's scripts.
func runners(t *testing.T) map[string]powershell.Runner {
	basic := newHost(t, false, nil)
	basic.endpoint.Auth = powershell.Basic
	t.Setenv("L4LAB_TEST_POWERSHELL", "1")
	return map[string]powershell.Runner{
		"WinRM over HTTPS with NTLM":      newHost(t, false, nil).connect(t),
		"WinRM over HTTPS with Basic":     basic.connect(t),
		"WinRM over HTTP, sealed by NTLM": newHost(t, true, nil).connect(t),
		"a local process":                 powershell.Local(powershell.LocalOptions{Program: os.Args[0]}),
	}
}

func TestHostileInputComesBackAsItWasThroughEveryRunner(t *testing.T) {
	values := map[string]any{
		"quotes":          `it's "so" ''""`,
		"dollar":          "$(Remove-Item C:\\) ${env:x} $x",
		"backticks":       "`n`0`\"",
		"semicolons":      "a; b | c & d > e < f && g || h %PATH% ^",
		"unicode":         "ü€漢字🦀\u202e\u2028\ufeff",
		"255 characters":  strings.Repeat("é", 255),
		"NUL and control": "a\x00b\x01\x1b[31m\r\n\t\x7f",
		"markup":          "]]><![CDATA[ </rsp:Arguments> &lt; #< CLIXML -----END l4lab",
		"empty":           "",
		"number":          float64(1 << 40),
		"list of one":     []any{"x"},
		"empty list":      []any{},
		"null":            nil,
	}
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			for what, v := range values {
				got, err := runEcho(t.Context(), r, echo, v)
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				if a, b := fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", v); a != b {
					t.Errorf("%s: got %s, want %s", what, a, b)
				}
			}
		})
	}
}

func TestStandardStreamsPassThroughEveryRunner(t *testing.T) {
	data := make([]byte, 600<<10+7)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	for name, r := range runners(t) {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			var n int
			err := r.Run(t.Context(), powershell.Call{Script: cat, Stdin: bytes.NewReader(data), Stdout: &out, Stderr: &errs, Result: &n})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), data) || n != len(data) || errs.String() != fmt.Sprintf("%d bytes", n) {
				t.Errorf("got %d bytes, result %d, standard error %q; want %d", out.Len(), n, errs.String(), len(data))
			}
		})
	}
}
