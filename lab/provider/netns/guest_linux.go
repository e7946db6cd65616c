package netns

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/provider/fabric"
)

// agentVariable names the socket of the node's agent to `lbagent` in the node, where there is one.
const agentVariable = "LBAGENT_SOCKET"

// cancelPatience is how long a cancelled command may take to end by itself.
const cancelPatience = 2 * time.Second

// nsGuest acts inside one namespace; its files lie in the node's folder.
type nsGuest struct {
	// name is the namespace's, machine the node's, dir its folder, store the
	// lab's pushed files by hash.
	name, machine, dir, store string
	// pushing is held while a file is pushed. A program that is written while
	// another process is being forked stays open for writing in the fork, and
	// cannot be executed (ETXTBSY); with one push at a time the copy is made
	// before anything that was pushed is started.
	pushing *sync.Mutex
}

func (g nsGuest) enter(fn func(fabric.Namespace) error) error {
	ns, err := fabric.Open(g.name)
	if err != nil {
		return err
	}
	defer ns.Close()
	return fn(ns)
}

// Run implements guest.Guest. The command dies with labctl.
func (g nsGuest) Run(ctx context.Context, c guest.Command) error {
	if len(c.Argv) == 0 {
		return errors.New("no command")
	}
	program := c.Argv[0]
	if !strings.ContainsRune(program, '/') {
		if local := filepath.Join(g.dir, program); isFile(local) {
			program = local
		}
	}
	cmd := exec.CommandContext(ctx, program, c.Argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	var stderr bytes.Buffer
	if c.Stderr == nil {
		cmd.Stderr = &stderr
	}
	// A cancelled command may end by itself, as tcpdump does with its summary.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = cancelPatience
	// By this mark down finds what a command left running in the node.
	cmd.Env = append(os.Environ(), fabric.NodeVariable+"="+g.dir)
	if socket := socketIn(g.dir); isSocket(socket) {
		cmd.Env = append(cmd.Env, agentVariable+"="+socket)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.enter(func(ns fabric.Namespace) error { return ns.Do(cmd.Start) }); err != nil {
		return fmt.Errorf("%s: run %s: %w", g.machine, strings.Join(c.Argv, " "), err)
	}
	ended := make(chan struct{})
	go forward(c.Signals, cmd.Process, ended)
	err := cmd.Wait()
	close(ended)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: run %s: %w", g.machine, strings.Join(c.Argv, " "), context.Cause(ctx))
	case !errors.As(err, &exit):
		return fmt.Errorf("%s: run %s: %w", g.machine, strings.Join(c.Argv, " "), err)
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return &guest.ExitError{Argv: c.Argv, Code: code, Stderr: stderr.String()}
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSocket != 0
}

// forward passes signals on to a process until it has ended.
func forward(signals <-chan os.Signal, p *os.Process, ended <-chan struct{}) {
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				return
			}
			_ = p.Signal(s) // it may have ended in between
		case <-ended:
			return
		}
	}
}

// path returns the host's path of a path in the node's folder.
func (g nsGuest) path(p string) (string, error) {
	if !filepath.IsLocal(p) {
		return "", fmt.Errorf("%s: %s: %w (%s)", g.machine, p, guest.ErrOutside, g.dir)
	}
	return filepath.Join(g.dir, p), nil
}

// Push implements guest.Guest. A file is copied once into the lab's store,
// under its hash, and linked into each node: 200 nodes run one program from
// one page cache, and the user may rebuild the source meanwhile.
func (g nsGuest) Push(_ context.Context, f guest.File) error {
	to, err := g.path(f.Path)
	if err != nil {
		return err
	}
	g.pushing.Lock()
	defer g.pushing.Unlock()
	stored, err := g.keep(f)
	if err != nil {
		return fmt.Errorf("%s: push %s: %w", g.machine, f.Source, err)
	}
	if a, errA := os.Stat(stored); errA == nil {
		if b, errB := os.Stat(to); errB == nil && os.SameFile(a, b) {
			return nil
		}
	}
	next := to + ".new"
	os.Remove(next)
	if err := os.Link(stored, next); err != nil {
		return fmt.Errorf("%s: push %s: %w", g.machine, f.Source, err)
	}
	if err := os.Rename(next, to); err != nil {
		return fmt.Errorf("%s: push %s: %w", g.machine, f.Source, err)
	}
	return nil
}

// keep puts a file into the store and returns its path there.
func (g nsGuest) keep(f guest.File) (string, error) {
	hash := f.Hash
	if hash == "" {
		var err error
		if hash, err = guest.HashFile(f.Source); err != nil {
			return "", err
		}
	}
	mode := os.FileMode(0o600)
	if f.Executable {
		mode = 0o700
	}
	stored := filepath.Join(g.store, hash)
	if isFile(stored) {
		return stored, nil
	}
	in, err := os.Open(f.Source)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(g.store, ".new-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != hash {
		err = fmt.Errorf("it changed meanwhile: SHA-256 %s, expected %s; try again", got, hash)
	}
	if err == nil {
		err = out.Chmod(mode)
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", err
	}
	return stored, os.Rename(out.Name(), stored)
}

// Pull implements guest.Guest.
func (g nsGuest) Pull(_ context.Context, path string) (io.ReadCloser, error) {
	from, err := g.path(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, fmt.Errorf("%s: pull %s: %w", g.machine, path, err)
	}
	return f, nil
}

// Dial implements guest.Guest: the socket is made on a thread in the namespace
// and belongs to it from then on.
func (g nsGuest) Dial(ctx context.Context, network, local, address string) (net.Conn, error) {
	var d net.Dialer
	switch {
	case network == "unix":
		path, err := g.path(address)
		if err != nil {
			return nil, err
		}
		return d.DialContext(ctx, network, path)
	case local != "":
		a, err := netip.ParseAddrPort(local)
		if err != nil {
			return nil, fmt.Errorf("%s: dial from %q: %w", g.machine, local, err)
		}
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(a)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(a)
		}
	}
	var conn net.Conn
	err := g.enter(func(ns fabric.Namespace) error {
		return ns.Do(func() (err error) {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.machine, err)
	}
	return conn, nil
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}
