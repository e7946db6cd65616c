package powershell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// LocalOptions say how PowerShell is started on this machine.
type LocalOptions struct {
	// Program is powershell.exe when empty; pwsh is PowerShell 7.
	Program string
}

// Local returns a Runner that starts a PowerShell process on this machine for
// each call, and talks to it as Connect's does over WinRM: all input on its
// standard input, the same bootstrap in its arguments.
func Local(o LocalOptions) Runner {
	if o.Program == "" {
		o.Program = "powershell.exe"
	}
	return local{o.Program}
}

type local struct{ program string }

// endDelay is how long a cancelled process may take to end before its streams
// are taken from it.
const endDelay = 5 * time.Second

const here = "this machine"

func (l local) Close(context.Context) error { return nil }

func (l local) Run(ctx context.Context, c Call) error {
	nonce := newNonce()
	first, err := opening(nonce, c)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, l.program, arguments()...)
	cmd.WaitDelay = endDelay
	a := newAnswer(nonce, c)
	out := &stickyWriter{w: a}
	var stderr bounded
	cmd.Stdout, cmd.Stderr = out, &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return l.failed(c, err)
	}
	if err := cmd.Start(); err != nil {
		return l.failed(c, err)
	}
	// The process may end before it read everything: a pipe's error is then no
	// fault, and a reader of the caller's that waits is left behind.
	inputFault := make(chan error, 1)
	go func() { inputFault <- feed(in, first, c.Stdin) }()
	err = cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: run %s: cancelled: %w", here, c.Script.Name, context.Cause(ctx))
	}
	select {
	case fault := <-inputFault:
		if fault != nil {
			return fmt.Errorf("%s: run %s: %w", here, c.Script.Name, fault)
		}
	default:
	}
	if out.err != nil {
		return a.errorOf(here, out.err, cmd.ProcessState.ExitCode(), stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return l.failed(c, err)
	}
	return a.errorOf(here, a.result(), cmd.ProcessState.ExitCode(), stderr.String())
}

func (l local) failed(c Call, err error) error {
	return &failure{kind: ErrUnreachable, where: here, doing: "run " + c.Script.Name, got: err.Error(),
		todo: fmt.Sprintf("is %s installed and in PATH?", l.program), cause: err}
}

// feed writes a call's input. It returns only faults of the caller's reader.
func feed(w io.WriteCloser, first []byte, stdin io.Reader) error {
	defer w.Close()
	if _, err := w.Write(first); err != nil || stdin == nil {
		return nil
	}
	var fault *streamError
	if errors.As(copyLines(w, stdin), &fault) {
		return fault
	}
	return nil // the process reads no more, as it may
}

// stickyWriter remembers why a writer failed; exec.Cmd only says that one did.
// It goes on to take bytes, so that the process does not stall.
type stickyWriter struct {
	w   io.Writer
	err error
}

func (s *stickyWriter) Write(b []byte) (int, error) {
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
	return len(b), nil
}

// bounded keeps the beginning of a stream that is only for errors.
type bounded struct{ b bytes.Buffer }

const boundedLength = 64 * 1024

func (w *bounded) Write(b []byte) (int, error) {
	w.b.Write(b[:min(len(b), boundedLength-w.b.Len())])
	return len(b), nil
}

func (w *bounded) String() string { return w.b.String() }
