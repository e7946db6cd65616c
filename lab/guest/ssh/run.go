package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"l4lab/lab/guest"
)

const (
	// cancelPatience is how long a cancelled command may take to end by itself.
	cancelPatience = 2 * time.Second
	// killPatience is how long the server may take to say that it ended.
	killPatience = 3 * time.Second
	// signalLimit bounds the sending of one signal.
	signalLimit = 10 * time.Second
	// stderrKept is how much of a command's last words an error holds, in bytes.
	stderrKept = 8 << 10
)

// Run implements guest.Guest. A cancelled command is sent SIGINT, and SIGKILL
// when it has not ended 2 s later, with all of its process group. A command
// that another machine's failure cuts off from us goes on until it reads the
// end of its input.
func (g *Guest) Run(ctx context.Context, c guest.Command) error {
	return g.run(ctx, strings.Join(c.Argv, " "), c)
}

// run is Run of a command that errors call by another name.
func (g *Guest) run(ctx context.Context, name string, c guest.Command) error {
	line, mark, err := g.commandLine(c.Argv)
	if err != nil {
		return g.errorf("run %s: %w", name, err)
	}
	session, err := g.session(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	r := &running{guest: g, session: session, group: make(chan string, 1), failed: make(chan struct{})}
	if err := r.start(line, mark, c); err != nil {
		return g.errorf("run %s: %w: %w", name, ErrUnreachable, err)
	}
	if err := r.wait(ctx, c); err != nil {
		var exit *guest.ExitError
		if errors.As(err, &exit) {
			return exit
		}
		return g.errorf("run %s: %w", name, err)
	}
	return nil
}

// session opens a session on a connection that takes one.
func (g *Guest) session(ctx context.Context) (*ssh.Session, error) {
	do := func(c *connection) (*ssh.Session, error) {
		s, err := c.NewSession()
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) {
			err = fmt.Errorf("%w: %w", errFull, err)
		}
		return s, err
	}
	s, _, err := open(ctx, g, "open a session", do, func(s *ssh.Session) { s.Close() })
	return s, err
}

// running is a command that was started.
type running struct {
	guest   *Guest
	session *ssh.Session
	stderr  tail
	// group gets the command's process group once it is known.
	group  chan string
	copies sync.WaitGroup

	once   sync.Once
	failed chan struct{} // closed when a stream of ours failed
	err    error         // why
}

// fail notes that one of the caller's streams does not work.
func (r *running) fail(err error) {
	r.once.Do(func() {
		r.err = err
		close(r.failed)
	})
}

func (r *running) start(line, mark string, c guest.Command) error {
	stdin, err := r.session.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := r.session.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := r.session.StderrPipe()
	if err != nil {
		return err
	}
	if err := r.session.Start(line); err != nil {
		return err
	}
	if c.Stdin == nil {
		stdin.Close()
	} else {
		// Nobody waits for this: the caller's reader may have nothing to read for ever.
		go func() {
			defer stdin.Close()
			from := &source{Reader: c.Stdin}
			if _, err := io.Copy(stdin, from); from.err != nil {
				r.fail(fmt.Errorf("read its standard input: %w", err))
			}
		}()
	}
	into := c.Stderr
	if into == nil {
		into = &r.stderr
	}
	r.copy("output", stdout, &marked{to: c.Stdout, mark: mark + " "})
	r.copy("error output", stderr, &marked{to: into, mark: mark + " ", found: func(group string) { r.group <- group }})
	return nil
}

// source remembers a reader's error, to tell it from the writer's.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// copy hands a stream on. When the caller's writer fails, the rest is read
// and thrown away, so that the command can end.
func (r *running) copy(what string, from io.Reader, to *marked) {
	r.copies.Go(func() {
		if _, err := io.Copy(to, from); err != nil {
			r.fail(fmt.Errorf("write its standard %s: %w", what, err))
			_, _ = io.Copy(io.Discard, from)
		}
	})
}

func (r *running) wait(ctx context.Context, c guest.Command) error {
	ended := make(chan error, 1)
	go func() {
		r.copies.Wait()
		ended <- r.session.Wait()
	}()
	var group string
	var pending []os.Signal
	groups, signals := r.group, c.Signals
	for {
		select {
		case err := <-ended:
			select { // what came last of all is known now
			case group = <-groups:
			default:
			}
			return r.outcome(ctx, c, group, err)
		case group = <-groups:
			groups = nil
			for _, s := range pending {
				r.signal(group, s)
			}
		case s, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if group == "" {
				pending = append(pending, s)
				continue
			}
			r.signal(group, s)
		case <-ctx.Done():
			r.end(group, groups, ended)
			return context.Cause(ctx)
		case <-r.failed:
			r.end(group, groups, ended)
			return r.err
		}
	}
}

// signal sends a signal without keeping the command's streams waiting.
func (r *running) signal(group string, s os.Signal) {
	number, ok := s.(syscall.Signal)
	if !ok || group == missing {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), signalLimit)
		defer cancel()
		if err := r.guest.kill(ctx, group, number); err != nil {
			r.guest.config.Log.Warn("a signal did not reach the guest", "machine", r.guest.config.Machine, "signal", s, "error", err)
		}
	}()
}

// kill signals a process group. A group that is gone is fine.
func (g *Guest) kill(ctx context.Context, group string, number syscall.Signal) error {
	session, err := g.session(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	line := fmt.Sprintf("kill -%d -- -%s 2>/dev/null || true", int(number), group)
	if g.config.Sudo {
		line = "sudo -n -- sh -c " + quote(line)
	}
	_, err = within(ctx, func() (struct{}, error) { return struct{}{}, session.Run(line) }, func(struct{}) {})
	return err
}

// end ends a command that nobody waits for any more.
func (r *running) end(group string, groups <-chan string, ended <-chan error) {
	for _, step := range []struct {
		signal   syscall.Signal
		patience time.Duration
	}{{syscall.SIGINT, cancelPatience}, {syscall.SIGKILL, killPatience}} {
		deadline := time.NewTimer(step.patience)
		defer deadline.Stop()
		if group == "" {
			select {
			case group = <-groups:
			case <-ended:
				return
			case <-deadline.C:
				continue
			}
		}
		r.signal(group, step.signal)
		select {
		case <-ended:
			return
		case <-deadline.C:
		}
	}
	r.guest.config.Log.Warn("a cancelled command may still run in the guest", "machine", r.guest.config.Machine, "processGroup", group)
}

// outcome says how a command ended.
func (r *running) outcome(ctx context.Context, c guest.Command, group string, err error) error {
	select {
	case <-r.failed:
		return r.err
	default:
	}
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil && err != nil:
		return context.Cause(ctx)
	case group == missing:
		return fmt.Errorf("%w: %s is neither in %s nor in the PATH", ErrNoProgram, c.Argv[0], r.guest.config.Folder)
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("%w: the connection was lost while it ran: %w", ErrUnreachable, err)
	case group == "":
		// The login shell or sudo refused before the command was reached.
		return fmt.Errorf("it was not started: exit code %d: %s", exit.ExitStatus(), strings.TrimSpace(r.stderr.String()))
	}
	return &guest.ExitError{Argv: c.Argv, Code: exit.ExitStatus(), Stderr: r.stderr.String()}
}

// missing stands in the place of a process group when there is no such program.
const missing = "missing"

// marked passes on what comes after the line with the mark.
type marked struct {
	to    io.Writer // nil: nowhere
	mark  string
	found func(group string) // nil: nobody asks

	passing bool
	head    []byte
}

// headLimit bounds what may come before the mark.
const headLimit = 64 << 10

func (m *marked) Write(p []byte) (int, error) {
	if m.passing {
		return m.pass(p)
	}
	m.head = append(m.head, p...)
	at := bytes.Index(m.head, []byte(m.mark))
	if at < 0 {
		if len(m.head) > headLimit {
			m.head = append([]byte(nil), m.head[len(m.head)-len(m.mark):]...)
		}
		return len(p), nil
	}
	group, rest, whole := bytes.Cut(m.head[at+len(m.mark):], []byte("\n"))
	if !whole {
		return len(p), nil
	}
	m.passing, m.head = true, nil
	if m.found != nil {
		m.found(string(group))
	}
	if _, err := m.pass(rest); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *marked) pass(p []byte) (int, error) {
	if m.to == nil || len(p) == 0 {
		return len(p), nil
	}
	return m.to.Write(p)
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - stderrKept; extra > 0 {
		t.kept = append([]byte(nil), t.kept[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.kept) }
