//go:build linux

package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l4lab/lab/guest"
)

func TestArgumentsArriveAsTheyAre(t *testing.T) {
	g, _ := connected(t)
	hostile := []string{
		"", " ", "'", `"`, `\`, "$HOME", "`id`", "$(id)", "a b", "*", "~", "-n", "--", "!!", "#", "&", "|", ";", ">x", "\n", "a\nb\n", "\t",
		"'; touch /tmp/l4lab-owned; '", `'\''`, "äöü€😀", "\x01\xff", strings.Repeat("x", 30000),
	}
	got := output(t, g, append([]string{"sh", "-c", `for a; do printf '%s\0' "$a"; done`, "sh"}, hostile...)...)
	if want := strings.Join(hostile, "\x00") + "\x00"; got != want {
		t.Errorf("arguments arrived as %q, want %q", got, want)
	}
}

func TestStreamsAreExactAndApart(t *testing.T) {
	g, _ := connected(t)
	sent := make([]byte, 50<<20)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	began := time.Now()
	err := g.Run(t.Context(), guest.Command{
		Argv: []string{"sh", "-c", "cat; echo done >&2"}, Stdin: bytes.NewReader(sent), Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("50 MB there and back in %s", time.Since(began))
	if !bytes.Equal(out.Bytes(), sent) {
		t.Errorf("%d bytes came back of %d, or others", out.Len(), len(sent))
	}
	if errs.String() != "done\n" {
		t.Errorf("error output is %q", errs.String())
	}
}

func TestEndOfACommand(t *testing.T) {
	g, _ := connected(t)
	for _, c := range []struct {
		name   string
		argv   []string
		code   int
		stderr string
	}{
		{"a failure has its code", []string{"sh", "-c", "exit 3"}, 3, ""},
		{"a failure keeps its last words", []string{"sh", "-c", "echo no luck >&2; exit 255"}, 255, "no luck\n"},
		{"a signal is 128 and its number", []string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{"a code 127 of its own is no missing program", []string{"sh", "-c", "exit 127"}, 127, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := g.Run(t.Context(), guest.Command{Argv: c.argv})
			var exit *guest.ExitError
			if !errors.As(err, &exit) || exit.Code != c.code || exit.Stderr != c.stderr {
				t.Errorf("Run = %#v, want code %d and %q", err, c.code, c.stderr)
			}
		})
	}
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"true"}}); err != nil {
		t.Errorf("true = %v", err)
	}
}

func TestWhatCannotRunIsNoExitError(t *testing.T) {
	g, _ := connected(t)
	for _, c := range []struct {
		name string
		argv []string
		is   error
	}{
		{"a program that is not there", []string{"no-such-program"}, ErrNoProgram},
		{"a path that is not there", []string{"/no/such/program"}, ErrNoProgram},
		{"a folder", []string{"/usr"}, ErrNoProgram},
		{"a builtin of the shell's", []string{"cd", "/"}, ErrNoProgram},
		{"nothing", nil, nil},
		{"an argument with a NUL", []string{"echo", "a\x00b"}, nil},
		{"a line that is too long", []string{"echo", strings.Repeat("x", maxCommand)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := g.Run(t.Context(), guest.Command{Argv: c.argv})
			var exit *guest.ExitError
			if err == nil || errors.As(err, &exit) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("Run = %v, want an error that it did not run", err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "be3: ") {
				t.Errorf("%q does not name the node", err)
			}
		})
	}
}

func TestAProgramOfTheNodesFolderComesFirst(t *testing.T) {
	g, s := connected(t)
	if err := os.MkdirAll(filepath.Join(s.dir, "node"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "node", "uname"), []byte("#!/bin/sh\necho mine\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := output(t, g, "uname"); got != "mine\n" {
		t.Errorf("uname printed %q", got)
	}
}

func TestCancellingKillsTheCommandAndItsChildren(t *testing.T) {
	g, _ := connected(t)
	for _, c := range []struct {
		name, script string
	}{
		{"one that ends at SIGINT", "echo $$; exec sleep 1000"},
		{"one that ignores SIGINT", "trap '' INT; echo $$; while :; do sleep 1; done"},
		{"one with a child", "sleep 1000 & echo $!; wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			out, found := lines()
			done := make(chan error, 1)
			go func() { done <- g.Run(ctx, guest.Command{Argv: []string{"sh", "-c", c.script}, Stdout: out}) }()
			pid := <-found
			cause := errors.New("enough of it")
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("Run = %v, want the cause", err)
			}
			gone(t, pid)
		})
	}
}

func TestSignalsArePassedOn(t *testing.T) {
	g, _ := connected(t)
	signals := make(chan os.Signal, 1)
	out, found := lines()
	done := make(chan error, 1)
	go func() {
		done <- g.Run(t.Context(), guest.Command{
			Argv:   []string{"sh", "-c", "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.05; done"},
			Stdout: out, Signals: signals,
		})
	}()
	if got := <-found; got != "ready" {
		t.Fatal(got)
	}
	signals <- syscall.SIGUSR1
	if got := <-found; got != "got it" {
		t.Errorf("it said %q", got)
	}
	var exit *guest.ExitError
	if err := <-done; !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("Run = %v, want code 7", err)
	}
}

func TestManyCommandsAtOnceAreMoreThanOneConnectionTakes(t *testing.T) {
	g, _ := connected(t, "MaxSessions 3")
	gate, open := io.Pipe()
	defer gate.Close()
	const many = 12
	var wg sync.WaitGroup
	started := make(chan string, many)
	for i := range many {
		wg.Go(func() {
			stdin, w := io.Pipe()
			out := &onWrite{do: func(p []byte) { started <- string(p); w.Close() }}
			if err := g.Run(t.Context(), guest.Command{Argv: []string{"sh", "-c", fmt.Sprintf("echo %d; cat", i)}, Stdin: stdin, Stdout: out}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	open.Close()
	if len(started) != many {
		t.Errorf("%d commands ran of %d", len(started), many)
	}
	live, err := g.live()
	if err != nil || len(live) > maxConnections {
		t.Errorf("%d connections, %v", len(live), err)
	}
}

type onWrite struct{ do func([]byte) }

func (o *onWrite) Write(p []byte) (int, error) { o.do(p); return len(p), nil }

func TestAWriterThatFailsEndsTheCommand(t *testing.T) {
	g, _ := connected(t)
	full := errors.New("disk full")
	err := g.Run(t.Context(), guest.Command{Argv: []string{"yes"}, Stdout: failing{full}})
	if !errors.Is(err, full) {
		t.Errorf("Run = %v, want the writer's error", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
func (f failing) Read([]byte) (int, error)  { return 0, f.err }

func TestACommandDoesNotWaitForInputThatNobodyReads(t *testing.T) {
	g, _ := connected(t)
	never, w := io.Pipe()
	defer w.Close()
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"true"}, Stdin: never}); err != nil {
		t.Error(err)
	}
}

func TestInputThatFailsEndsTheCommand(t *testing.T) {
	g, _ := connected(t)
	broken := errors.New("tape torn")
	if err := g.Run(t.Context(), guest.Command{Argv: []string{"sleep", "1000"}, Stdin: failing{broken}}); !errors.Is(err, broken) {
		t.Errorf("Run = %v, want the reader's error", err)
	}
}

func TestNoiseOfALoginShellIsNotTheCommands(t *testing.T) {
	mark := "l4lab-0123 "
	for _, pieces := range [][]string{
		{"Welcome!\nl4lab-0123 77\nout", "put\n"},
		{"Welcome!\nl4l", "ab-0123 7", "7\n", "output\n"},
		{strings.Repeat("noise\n", 20000), "l4lab-0123 77\noutput\n"},
	} {
		var out bytes.Buffer
		group := ""
		m := &marked{to: &out, mark: mark, found: func(g string) { group = g }}
		for _, piece := range pieces {
			if n, err := m.Write([]byte(piece)); n != len(piece) || err != nil {
				t.Fatal(n, err)
			}
		}
		if out.String() != "output\n" || group != "77" {
			t.Errorf("passed on %q of group %q", out.String(), group)
		}
	}
}
