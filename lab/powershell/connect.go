package powershell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// tries is how often a call is made in all where that is safe.
	tries = 3
	// firstPause is before the second try; each further one is twice as long.
	firstPause = 200 * time.Millisecond
	// cleanUpWithin bounds what ends things on the machine; it has to happen
	// when the call's own time is over, too.
	cleanUpWithin = 10 * time.Second
	// grace is how long a script may take to end itself after Ctrl-C.
	grace = 2 * time.Second
)

// Connect logs on to a machine's WinRM service and returns a Runner over one
// kept shell. Calls may run in it side by side.
func Connect(ctx context.Context, e Endpoint) (Runner, error) {
	e, err := e.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("WinRM endpoint of %s: %w", e.Host, err)
	}
	t, err := newTransport(e)
	if err != nil {
		return nil, fmt.Errorf("WinRM endpoint of %s: %w", e.Host, err)
	}
	r := &remote{shells: newShellKeeper(service{t})}
	sh, err := r.shells.acquire(ctx)
	for try := 1; err != nil && try < tries && (isLost(err) || errors.Is(err, ErrQuota)) && pause(ctx, try); try++ {
		sh, err = r.shells.acquire(ctx)
	}
	if err != nil {
		_ = r.shells.close(ctx)
		return nil, public(err)
	}
	r.shells.release(ctx, sh)
	return r, nil
}

// pause waits before a try; false when the context ends.
func pause(ctx context.Context, try int) bool {
	select {
	case <-time.After(firstPause << (try - 1)):
		return true
	case <-ctx.Done():
		return false
	}
}

// isLost says what another try may mend: there was no answer or a 5xx one, or
// the command went with its shell.
func isLost(err error) bool {
	if errors.Is(err, errShellLost) || errors.Is(err, errAborted) {
		return true
	}
	var lost *exchangeError
	return errors.As(err, &lost) && errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrCertificate) && !errors.Is(err, errClosed)
}

// remote is the Runner of Connect.
type remote struct {
	shells *shellKeeper
}

func (r *remote) Close(ctx context.Context) error { return public(r.shells.close(ctx)) }

// outcome is what is known of a try that failed.
type outcome struct {
	// started: the command may run, or may have run.
	started bool
	// consumed: the caller's readers and writers saw something of it.
	consumed bool
}

func (r *remote) Run(ctx context.Context, c Call) error {
	renewed := false
	for try := 1; ; {
		o, err := r.once(ctx, c)
		var script *ScriptError
		if err == nil || errors.As(err, &script) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: run %s: cancelled: %w", r.shells.service.t.e.address(), c.Script.Name, context.Cause(ctx))
		}
		quota := errors.Is(err, ErrQuota) || errors.Is(err, errRefused) && r.shells.service.t.loggedOn.Load()
		switch {
		case !o.started && !renewed && (errors.Is(err, errShellLost) || quota):
			renewed = true // the shell was given up: once more in a new one, at once
		case isLost(err) && try < tries && !o.consumed && (!o.started || c.Script.Repeatable) && pause(ctx, try):
			try++
		default:
			return final(err, c, o, renewed)
		}
	}
}

// final is the error of the last try, as callers get it.
func final(err error, c Call, o outcome, renewed bool) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	e := *public(f)
	if run := "run " + c.Script.Name; !strings.HasPrefix(e.doing, run) {
		e.doing = run + ": " + e.doing
	}
	if errors.Is(err, errRefused) && renewed {
		e.kind = errRefusedOrQuota
	}
	if o.started && !c.Script.Repeatable && isLost(err) {
		e.todo = "it is not known whether it ran; look at the machine before you run it again"
	}
	return &e
}

// errRefusedOrQuota: credentials that were accepted before are refused, for a
// new shell, too. WinRM answers so to some used-up quotas.
var errRefusedOrQuota = fmt.Errorf("%w, or %w", ErrAuth, ErrQuota)

// public gives an error one of the Err values in place of those that only this
// package knows.
func public[E error](err E) E {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	for inner, outer := range map[error]error{errShellLost: ErrUnreachable, errAborted: ErrUnreachable, errNoOutput: ErrTimeout, errPipeClosed: ErrProtocol} {
		if f.kind == inner {
			f.kind, f.got = outer, inner.Error()+": "+f.got
		}
	}
	return err
}

// once runs a call in the kept shell.
func (r *remote) once(ctx context.Context, c Call) (outcome, error) {
	nonce := newNonce()
	first, err := opening(nonce, c)
	if err != nil {
		return outcome{}, err
	}
	sh, err := r.shells.acquire(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer r.shells.release(ctx, sh)
	s := r.shells.service
	id, err := s.command(ctx, sh.id)
	if err != nil {
		r.shells.retire(sh) // whatever it was: perhaps the command was started
		return outcome{started: isSent(err)}, err
	}
	x := &execution{s: s, shell: sh.id, id: id, answer: newAnswer(nonce, c)}
	x.input = newInput(first, c.Stdin, chunkSize(s.t.e.EnvelopeSize))
	exitCode, err := x.run(ctx)
	x.input.abandon()
	o := outcome{started: true, consumed: x.answer.delivered || c.Stdin != nil}
	if err != nil {
		// The shell's end ends what the signal may have missed.
		x.end(ctx)
		r.shells.retire(sh)
		return o, x.explain(err)
	}
	x.forget(ctx, r.shells, sh)
	err = x.answer.errorOf(s.t.e.address(), x.answer.result(), exitCode, x.stderr.String())
	var f *failure
	if errors.As(err, &f) {
		f.got = s.t.e.Password.without(f.got)
	}
	return o, err
}

// isSent says that a request may have reached the machine though no answer came.
func isSent(err error) bool {
	var lost *exchangeError
	if errors.As(err, &lost) {
		return lost.sent
	}
	return errors.Is(err, ErrTimeout) || errors.Is(err, ErrProtocol)
}

// chunkSize is how much standard input one request takes: what is left of an
// envelope, in base64.
func chunkSize(envelope int) int { return (envelope - 4096) / 4 * 3 }

// explain makes a failure of what is none yet: lines that cannot be understood.
func (x *execution) explain(err error) error {
	var f *failure
	var own *streamError
	if errors.As(err, &f) || errors.As(err, &own) {
		return err
	}
	return x.s.failure(ErrProtocol, "run "+x.answer.call.Script.Name, err.Error(), err)
}

// execution is one command on the machine.
type execution struct {
	s         service
	shell, id string
	input     *input
	answer    *answer
	stderr    bounded
}

// run sends and receives side by side until the command is done.
func (x *execution) run(ctx context.Context) (exitCode int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sent := make(chan error, 1)
	go func() {
		err := x.sendAll(ctx)
		if err != nil {
			cancel(err) // nothing more will come: the receiver need not wait
		}
		sent <- err
	}()
	exitCode, err = x.receiveAll(ctx)
	cancel(nil)
	// The first of both ends the other; a command that is done needs no more input.
	if fault := <-sent; err != nil && fault != nil && !errors.Is(fault, context.Canceled) {
		return 0, fault
	}
	return exitCode, err
}

func (x *execution) sendAll(ctx context.Context) error {
	for {
		data, end, err := x.input.next(ctx)
		if err != nil {
			return err
		}
		err = x.s.send(ctx, x.shell, x.id, data, end)
		if errors.Is(err, errPipeClosed) {
			return nil // it ended before it read everything, as programs may
		}
		if err != nil || end {
			return err
		}
	}
}

func (x *execution) receiveAll(ctx context.Context) (exitCode int, err error) {
	for {
		got, err := x.s.receive(ctx, x.shell, x.id)
		if errors.Is(err, errNoOutput) {
			continue
		}
		if err != nil {
			return 0, err
		}
		_, _ = x.stderr.Write(got.stderr)
		if _, err := io.Copy(x.answer, bytes.NewReader(got.stdout)); err != nil {
			return 0, err
		}
		if got.done {
			return got.exitCode, nil
		}
	}
}

// end makes a command end: Ctrl-C first, so that a script can tidy up.
func (x *execution) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	if x.s.signal(ctx, x.shell, x.id, "ctrl_c") == nil {
		wait, stop := context.WithTimeout(ctx, grace)
		for {
			got, err := x.s.receive(wait, x.shell, x.id)
			if err != nil && !errors.Is(err, errNoOutput) || got.done {
				break
			}
		}
		stop()
	}
	_ = x.s.signal(ctx, x.shell, x.id, "terminate")
}

// forget tells the machine that a command that is done is of no more interest;
// it would count against the shell's processes.
func (x *execution) forget(ctx context.Context, k *shellKeeper, sh *keptShell) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	if x.s.signal(ctx, x.shell, x.id, "terminate") != nil {
		k.retire(sh)
	}
}
