package powershell_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"l4lab/lab/powershell"
	"l4lab/lab/provider/hyperv/hvsim/wsman"
)

// kinds are the errors that a caller may meet when a request goes wrong.
var kinds = []error{powershell.ErrAuth, powershell.ErrUnreachable, powershell.ErrQuota, powershell.ErrTimeout, powershell.ErrProtocol}

func isTyped(err error) bool {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// quiet checks that nothing of the password shows in an error.
func quiet(t *testing.T, err error) {
	t.Helper()
	for _, format := range []string{"%v", "%+v", "%#v", "%q"} {
		if s := fmt.Sprintf(format, err); strings.Contains(s, canary) {
			t.Errorf("the password shows in %s", format)
		}
	}
}

// A fault at any request of a call: what may be repeated succeeds, the rest
// succeeds or fails with an error that says what it was, and nothing is left.
func TestAFaultAtAnyRequestIsRepeatedOrHasItsName(t *testing.T) {
	faults := map[string]struct {
		fault wsman.Fault
		// once is what a script that must not be repeated may fail with.
		once error
	}{
		"connection reset before":   {wsman.Fault{Kind: wsman.Reset}, powershell.ErrUnreachable},
		"connection reset after":    {wsman.Fault{Kind: wsman.ResetAfter}, powershell.ErrUnreachable},
		"500 without a fault":       {wsman.Fault{Kind: wsman.ServerError}, powershell.ErrUnreachable},
		"slow answer":               {wsman.Fault{Kind: wsman.Slow, Delay: 50 * time.Millisecond}, nil},
		"truncated answer":          {wsman.Fault{Kind: wsman.Truncated}, powershell.ErrUnreachable},
		"logon lost":                {wsman.Fault{Kind: wsman.AuthLost}, nil},
		"quota":                     {wsman.Fault{Kind: wsman.Quota}, powershell.ErrQuota},
		"all shells of the machine": {wsman.Fault{Kind: wsman.ShellLost}, powershell.ErrUnreachable},
	}
	for name, f := range faults {
		for _, script := range []powershell.Script{echo, once} {
			t.Run(name+"/"+script.Name, func(t *testing.T) {
				t.Parallel()
				// Requests: 2 logons or so, create, command, send, receive, terminate, delete.
				for n := 1; n <= 12; n++ {
					var armed atomic.Int64 // counts down once connected
					h := newHost(t, false, func(s *wsman.Server) {
						s.Faults = func(int, string) *wsman.Fault {
							if armed.Add(-1) == 0 {
								return &f.fault
							}
							return nil
						}
					})
					armed.Store(int64(n))
					r, err := powershell.Connect(t.Context(), h.endpoint)
					if err != nil {
						if script.Repeatable && !errors.Is(err, powershell.ErrAuth) {
							t.Errorf("request %d: connect: %v", n, err)
						}
						if !isTyped(err) {
							t.Errorf("request %d: connect: error without a kind: %v", n, err)
						}
						quiet(t, err)
						continue
					}
					got, err := runEcho(t.Context(), r, script, "x")
					switch {
					case err == nil && got != "x":
						t.Errorf("request %d: got %v", n, got)
					case err != nil && (script.Repeatable && !errors.Is(err, powershell.ErrQuota) || f.once == nil || !errors.Is(err, f.once)):
						t.Errorf("request %d: %v", n, err)
					}
					quiet(t, err)
					armed.Store(0)
					h.closed(t, r)
				}
			})
		}
	}
}

func TestAFaultThatStaysIsReportedByItsKind(t *testing.T) {
	cases := map[string]struct {
		fault wsman.Fault
		want  error
		hint  string
		left  bool // the machine answers nothing any more, so that shells stay until they are idle
	}{
		"resets":       {wsman.Fault{Kind: wsman.Reset}, powershell.ErrUnreachable, "is WinRM on", true},
		"500s":         {wsman.Fault{Kind: wsman.ServerError}, powershell.ErrUnreachable, "HTTP 500", true},
		"silence":      {wsman.Fault{Kind: wsman.Slow, Delay: time.Minute}, powershell.ErrTimeout, "under load", true},
		"truncation":   {wsman.Fault{Kind: wsman.Truncated}, powershell.ErrUnreachable, "EOF", false},
		"lost logon":   {wsman.Fault{Kind: wsman.AuthLost}, powershell.ErrAuth, "accepted before", true},
		"quotas":       {wsman.Fault{Kind: wsman.Quota}, powershell.ErrQuota, "MaxShellsPerUser", true},
		"other quotas": {wsman.Fault{Kind: wsman.AuthLost}, powershell.ErrQuota, "quota", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var broken atomic.Bool
			h := newHost(t, false, func(s *wsman.Server) {
				s.Faults = func(int, string) *wsman.Fault {
					if broken.Load() {
						return &c.fault
					}
					return nil
				}
			})
			h.endpoint.Timeout = 300 * time.Millisecond
			r, err := powershell.Connect(t.Context(), h.endpoint)
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			_, err = runEcho(t.Context(), r, echo, "x")
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.hint) || !strings.Contains(fmt.Sprint(err), "127.0.0.1:") {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.hint)
			}
			quiet(t, err)
			t.Logf("%v", err)
			err = r.Close(context.Background())
			if c.left && err == nil {
				t.Error("close said nothing of the shell that it could not delete")
			}
			quiet(t, err)
			if !c.left && h.Shells() != 0 {
				t.Errorf("%d shells are left", h.Shells())
			}
		})
	}
}

func TestCancellingEndsTheProcessAndItsShell(t *testing.T) {
	h := newHost(t, false, nil)
	r := h.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- r.Run(ctx, powershell.Call{Script: hang}) }()
	until(t, "the script hangs", func() bool { return h.Processes() == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "run hang") {
		t.Errorf("got %v", err)
	}
	if n := h.Shells(); n != 0 {
		t.Errorf("%d shells after the cancellation", n)
	}
	until(t, "the process has ended", func() bool { return h.Processes() == 0 })
	if got, err := runEcho(t.Context(), r, echo, "again"); err != nil || got != "again" {
		t.Errorf("after the cancellation: %v, %v", got, err)
	}
}

func TestADeadlineIsTheContextsError(t *testing.T) {
	h := newHost(t, false, nil)
	r := h.connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.Run(ctx, powershell.Call{Script: hang}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestClosingWithACancelledContextStillDeletesTheShell(t *testing.T) {
	h := newHost(t, false, nil)
	r, err := powershell.Connect(t.Context(), h.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Close(ctx); err != nil || h.Shells() != 0 {
		t.Errorf("close: %v, %d shells left", err, h.Shells())
	}
	if _, err := runEcho(t.Context(), r, echo, 1); !errors.Is(err, powershell.ErrUnreachable) {
		t.Errorf("a call after it: %v", err)
	}
}

func TestManyCallsShareOneShellUntilItsProcessesAreUsedUp(t *testing.T) {
	h := newHost(t, false, func(s *wsman.Server) { s.Limits.ProcessesPerShell = 3; s.Limits.ShellsPerUser = 4 })
	r := h.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	for range 3 {
		go func() { done <- r.Run(ctx, powershell.Call{Script: hang}) }()
	}
	until(t, "three scripts hang", func() bool { return h.Processes() == 3 })
	if n := h.Shells(); n != 1 {
		t.Errorf("%d shells for three calls", n)
	}
	if _, err := runEcho(t.Context(), r, once, "x"); err != nil {
		t.Errorf("a fourth call, which needs a new shell: %v", err)
	}
	cancel()
	for range 3 {
		<-done
	}
}

func TestAShellThatWasIdleTooLongIsMadeAnew(t *testing.T) {
	h := newHost(t, false, func(s *wsman.Server) { s.Limits.IdleTimeout = 20 * time.Millisecond })
	r := h.connect(t)
	until(t, "the shell has gone", func() bool { return h.Shells() == 0 })
	if _, err := runEcho(t.Context(), r, once, "x"); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoEnvelopeIsShown(t *testing.T) {
	h := newHost(t, false, nil)
	r := h.connect(t)
	cases := map[string]struct{ text, want string }{
		"another program's text":    {"'x' is not recognized", "is not recognized"},
		"a secret in that text":     {"password: " + canary, "•••"},
		"an envelope that is cut":   {"-----BEGIN l4lab", "BEGIN l4lab"},
		"data that is no base64":    {"1:%%%\n", "data line"},
		"much noise":                {strings.Repeat("noise ", 100000), "[…]"},
		"another call's envelope":   {"-----BEGIN l4lab 00000000000000000000000000000000-----\n{\"ok\":true}\n-----END l4lab 00000000000000000000000000000000-----\n", "no envelope"},
		"nothing":                   {"", "no envelope"},
		"standard error as CLIXML":  {"", "standard error: no luck"},
		"the exit code of a failed": {"", "exit code 7"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := r.Run(t.Context(), powershell.Call{Script: garbage, Input: map[string]any{"text": c.text, "exit": 7}})
			if !errors.Is(err, powershell.ErrProtocol) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if len(fmt.Sprint(err)) > 3000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			quiet(t, err)
		})
	}
}

func TestAScriptsErrorKeepsItsCodeAndTarget(t *testing.T) {
	h := newHost(t, false, nil)
	err := h.connect(t).Run(t.Context(), powershell.Call{Script: fail, Input: map[string]string{"code": "notFound"}})
	var got *powershell.ScriptError
	if !errors.As(err, &got) || got.Message != "it’s gone" || got.Target != `C:\x` || !errors.Is(err, &powershell.ScriptError{Code: "notFound"}) {
		t.Errorf("got %#v", err)
	}
}

type failingStream struct{ err error }

func (f failingStream) Read([]byte) (int, error)  { return 0, f.err }
func (f failingStream) Write([]byte) (int, error) { return 0, f.err }

func TestAFaultOfTheCallersOwnStreamEndsTheCall(t *testing.T) {
	h := newHost(t, false, nil)
	r := h.connect(t)
	own := errors.New("own fault")
	for name, c := range map[string]powershell.Call{
		"reader": {Script: cat, Stdin: failingStream{own}},
		"writer": {Script: cat, Stdin: strings.NewReader("x"), Stdout: failingStream{own}},
	} {
		if err := r.Run(t.Context(), c); !errors.Is(err, own) || isTyped(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A conversation needs each word as soon as it is said.
func TestStreamsAreNotHeldBack(t *testing.T) {
	h := newHost(t, false, nil)
	r := h.connect(t)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	result := make(chan error, 1)
	go func() { result <- r.Run(t.Context(), powershell.Call{Script: cat, Stdin: inR, Stdout: outW}) }()
	for _, word := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(inW, word); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(outR, got); err != nil || string(got) != word {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	_ = inW.Close()
	go func() { _, _ = io.Copy(io.Discard, outR) }()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestThePasswordShowsNowhere(t *testing.T) {
	e := powershell.Endpoint{Host: "h", User: "u", Password: canary}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "e", e, "p", e.Password)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "e", e, "p", e.Password)
	all := log.String()
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		all += fmt.Sprintf(f, e) + fmt.Sprintf(f, &e) + fmt.Sprintf(f, e.Password)
	}
	if strings.Contains(all, "4nary") || strings.Contains(all, fmt.Sprintf("%x", "4nary")) || strings.Contains(all, fmt.Sprintf("%X", "4nary")) {
		t.Errorf("the password shows in %s", all)
	}
	_, err := powershell.Connect(t.Context(), powershell.Endpoint{Host: "127.0.0.1", Port: 1, User: "u", Password: canary})
	quiet(t, err)
}
