package netnsguests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/topology"
)

// boot runs the machine once, from its kernel's start to its end, and says
// whether it is to begin again.
func (m *guest) boot(ctx context.Context) (again bool, err error) {
	m.heard(heartbeatNoContact)
	cmd, parent, err := m.startInit()
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	m.process, m.booted = cmd.Process.Pid, time.Now()
	m.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	down, failed := false, ""
	events := json.NewDecoder(parent)
	for {
		var e guestinit.Event
		if err := events.Decode(&e); err != nil {
			break // its end closes the socket
		}
		if e.Stage == guestinit.StageDown {
			down, again, failed = true, e.Reboot, e.Error
			continue
		}
		m.advance(ctx, e)
	}
	err = cmd.Wait()
	parent.Close()
	m.heard(heartbeatNoContact)
	m.endGuestRecording()
	switch {
	case failed != "":
		return false, errors.New(failed)
	case !down && ctx.Err() == nil:
		return false, fmt.Errorf("its init ended: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return again, nil
}

// advance notes how far the machine has come.
func (m *guest) advance(ctx context.Context, e guestinit.Event) {
	if e.Stage == guestinit.StageUp {
		m.heard(heartbeatUnknown)
		return
	}
	if m.machine.OS == topology.Windows {
		if err := m.bootWindows(ctx); err != nil {
			m.log.Error("Windows stays in its set-up", "error", err)
			return
		}
	}
	m.mu.Lock()
	m.ready = true
	m.mu.Unlock()
	m.heard(heartbeatHealthy)
	m.log.Info("the machine is ready")
}

// startInit starts the machine's first process in namespaces of its own.
func (m *guest) startInit() (*exec.Cmd, *os.File, error) {
	root := m.guests.path("machines", m.machine.ID, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, nil, err
	}
	console, err := os.OpenFile(m.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer console.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to its first process: %w", err)
	}
	parent, child := os.NewFile(uintptr(ends[0]), "machine"), os.NewFile(uintptr(ends[1]), "parent")
	defer child.Close()
	// The child reads and writes its end as an ordinary, blocking file.
	if err := unix.SetNonblock(ends[1], false); err != nil {
		parent.Close()
		return nil, nil, err
	}
	self := m.guests.options.Self
	cmd := exec.Command(self[0], append(append([]string{}, self[1:]...), "boot")...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", console, console, []*os.File{child}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", guestinit.Mark + "=" + m.guests.options.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Setsid: true,
	}
	ns, err := m.guests.open(m.what())
	if err == nil {
		err = ns.Do(cmd.Start)
		ns.Close()
	}
	if err == nil {
		err = json.NewEncoder(parent).Encode(m.config(root))
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	if err != nil {
		parent.Close()
		return nil, nil, fmt.Errorf("start its first process: %w", err)
	}
	return cmd, parent, nil
}

// config is what the machine's first process is told.
func (m *guest) config(root string) guestinit.Config {
	c := guestinit.Config{
		Machine: m.machine.Name, Root: root, Self: m.guests.options.Self, BootTime: m.guests.options.BootTime,
	}
	if m.machine.OS == topology.Windows {
		c.Binds = []guestinit.Bind{{From: m.drive(), To: driveMount}}
		if m.guests.options.Program != "" {
			c.Binds = append(c.Binds, guestinit.Bind{From: m.guests.options.Program, To: agentMount, ReadOnly: true})
		}
		return c
	}
	c.Services, c.Disk = true, m.disk()
	if isFile(m.machine.Seed) { // the disc may have been taken out since
		c.Seed = m.machine.Seed
	}
	return c
}

// drive is the real folder of a Windows machine's drive C.
func (m *guest) drive() string { return filepath.Join(m.disk(), "c") }
