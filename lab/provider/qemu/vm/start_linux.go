package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"l4lab/lab/provider/fabric"
)

// The limits of a start: until QEMU answers, and until it has read a saved state.
const (
	answerLimit = 30 * time.Second
	loadLimit   = 5 * time.Minute
)

// Start starts a machine and returns when QEMU answers and the machine is
// written down. With Incoming it is paused when Start returns, its state
// loaded; Continue lets it run. An error says what QEMU said.
func Start(ctx context.Context, c Config) (*VM, error) {
	v, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%s: start the virtual machine: %w", c.Name, err)
	}
	return v, nil
}

func start(ctx context.Context, c Config) (*VM, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	program, err := binary(c.Binary)
	if err != nil {
		return nil, err
	}
	if err := forgetOld(ctx, c.Dir); err != nil {
		return nil, err
	}
	if err := makePrivate(c.Dir); err != nil {
		return nil, err
	}
	var uefi string
	if c.Kernel == "" && c.Firmware == UEFI {
		if uefi, err = uefiCode(c.Dir); err != nil {
			return nil, err
		}
	}
	v := &VM{dir: c.Dir, record: record{Name: c.Name, Writable: []int{}}}
	for i, d := range c.Disks {
		if d.writable() {
			v.record.Writable = append(v.record.Writable, i)
		}
	}
	ended, err := v.launch(c, exec.Command(program, c.arguments(uefi)...))
	if err != nil {
		return nil, err
	}
	if err := v.await(ctx, c.Incoming != nil); err != nil {
		return nil, v.abandon(err, ended)
	}
	return v, nil
}

// forgetOld removes what is left of a machine that ended without being told
// to; one that runs is an error.
func forgetOld(ctx context.Context, dir string) error {
	old, err := Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.Alive() {
		return fmt.Errorf("it runs already, as pid %d", old.PID())
	}
	return old.End(ctx, 0)
}

func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// launch starts QEMU, and what keeps its console, and writes both down. The
// channel tells of QEMU's end.
func (v *VM) launch(c Config, cmd *exec.Cmd) (<-chan error, error) {
	socket, err := listen(socketFile(c.Dir))
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	log, err := os.OpenFile(logFile(c.Dir), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	environment := append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.Environment...)
	console, keeper, err := keepConsole(c.Dir, log, environment)
	if err != nil {
		return nil, err
	}
	// QEMU's end closes the last copy of this, and so ends the keeper.
	defer console.Close()

	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, environment, log, log
	cmd.ExtraFiles = []*os.File{socket, console}
	if c.Incoming != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, c.Incoming)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	run := c.Start
	if run == nil {
		run = (*exec.Cmd).Start
	}
	if err := run(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it, should it end before we do
	v.record.Keeper = keeper
	v.record.QEMU, err = fabric.Identify(cmd.Process.Pid)
	if err == nil {
		err = v.record.write(c.Dir)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil, v.abandon(errEnded, ended)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, v.abandon(err, ended)
	}
	return ended, nil
}

// listen makes the socket that QEMU will answer at, for its owner alone.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// await waits until QEMU answers and, where there is one, has read the saved state.
func (v *VM) await(ctx context.Context, incoming bool) error {
	limit, what := answerLimit, fmt.Errorf("QEMU did not answer within %s", answerLimit)
	if incoming {
		limit, what = loadLimit, fmt.Errorf("QEMU did not read the saved state within %s", loadLimit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, what)
	defer cancel()
	m, err := dial(ctx, socketFile(v.dir))
	if err != nil {
		return err
	}
	defer m.Close()
	if !incoming {
		return nil
	}
	return m.awaitStatus(ctx, func(status string) bool { return status != "inmigrate" })
}

// abandon removes what a start that failed has made, and adds to its error
// what QEMU said.
func (v *VM) abandon(err error, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	// What it says when it ends by itself comes a moment after it stops answering.
	if errors.Is(err, errEnded) {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	if end := v.End(ctx, 0); end != nil {
		err = errors.Join(err, end)
	}
	if said := v.words(); said != "" {
		return fmt.Errorf("%w; QEMU said:\n%s", err, said)
	}
	return err
}

// words returns the end of what QEMU itself wrote.
func (v *VM) words() string {
	const limit = 2000
	data, _ := tail(logFile(v.dir), limit)
	return strings.TrimSpace(strings.ToValidUTF8(string(data), "?"))
}
