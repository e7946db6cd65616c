package guestinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/lab/guest/seed/apply"
)

// machine is what a machine's init has and does.
type machine struct {
	config   Config
	log      *slog.Logger
	children *children
	services *manager
	// seeded is closed when the seed is applied and all is started.
	seeded chan struct{}
	// down gets the wish to end, and whether to begin anew.
	down chan bool
}

// tell tells the parent how far the machine has come. A parent that is gone is
// noticed elsewhere.
func tell(e Event) {
	text, err := json.Marshal(e)
	if err == nil {
		_, _ = unix.Write(parentFD, append(text, '\n'))
	}
}

// runInit is the second half of the boot and the machine's whole life.
func runInit(log *slog.Logger) error {
	m := &machine{log: log, children: newChildren(), seeded: make(chan struct{}), down: make(chan bool, 1)}
	if err := json.Unmarshal([]byte(os.Getenv("GUESTINIT")), &m.config); err != nil {
		return fmt.Errorf("read the machine's configuration: %w", err)
	}
	if os.Getpid() != 1 {
		return errors.New("this is not the first process of a PID namespace")
	}
	if err := os.Unsetenv("GUESTINIT"); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(parentFD, unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return err
	}
	go m.watchParent()
	go m.children.reap()
	if err := raiseLoopback(); err != nil {
		return err
	}
	m.services = newManager(m)
	if err := installCommands(m.config.Self[1:]); err != nil {
		return err
	}
	if err := m.listen(); err != nil {
		return err
	}
	if !m.sleep(m.config.BootTime) {
		m.shutDown(<-m.down)
		return nil
	}
	tell(Event{Stage: StageUp})
	if m.config.Services {
		m.start()
	}
	close(m.seeded)
	tell(Event{Stage: StageReady})
	log.Info("the machine is ready", "machine", m.config.Machine)
	m.shutDown(<-m.down)
	return nil
}

// watchParent ends the machine when its parent does: nothing of it is left.
func (m *machine) watchParent() {
	_, _ = io.Copy(io.Discard, os.NewFile(parentFD, "parent"))
	m.log.Warn("the simulated host is gone; so is this machine")
	os.Exit(0)
}

// sleep waits, and says whether that was all that happened.
func (m *machine) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case again := <-m.down:
		m.down <- again
		return false
	}
}

// start brings a Linux machine from its kernel to its services. What fails is
// in the log, and the machine goes on, as with cloud-init and systemd.
func (m *machine) start() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := makeSystemFiles(apply.Here(m.log)); err != nil {
		m.log.Error("the image's own files", "error", err)
	}
	after := m.applySeed(ctx)
	if err := m.services.reload(); err != nil {
		m.log.Error("units", "error", err)
	}
	if err := m.services.start("ssh.service"); err != nil {
		m.log.Error("the SSH server did not start", "error", err)
	}
	for _, name := range m.services.enabled() {
		if err := m.services.start(name); err != nil {
			m.log.Error("an enabled unit did not start", "unit", name, "error", err)
		}
	}
	after()
}

// shutDown ends all that runs, the services in order first.
func (m *machine) shutDown(again bool) {
	m.services.stopAll()
	_ = unix.Kill(-1, unix.SIGTERM)
	m.children.awaitNone(2 * time.Second)
	_ = unix.Kill(-1, unix.SIGKILL)
	m.children.awaitNone(2 * time.Second)
	unix.Sync()
	tell(Event{Stage: StageDown, Reboot: again})
}

// wishDown asks for the end; the first wish counts.
func (m *machine) wishDown(again bool) {
	select {
	case m.down <- again:
	default:
	}
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// standIns are the machine's commands that ask its init.
var standIns = map[string]string{
	"/usr/bin/systemctl": "systemctl", "/usr/bin/journalctl": "journalctl", "/usr/bin/cloud-init": "cloud-init",
	"/usr/sbin/reboot": "systemctl reboot", "/usr/sbin/poweroff": "systemctl poweroff",
}

// installCommands writes the stand-ins where the commands that they stand for are.
func installCommands(self []string) error {
	for path, command := range standIns {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("install a stand-in for %s: %w", path, err)
		}
		line := Program
		for _, a := range self {
			line += " '" + a + "'"
		}
		text := fmt.Sprintf("#!/bin/sh\n# A stand-in of the simulated host, which speaks to this machine's init.\nexec %s %s \"$@\"\n", line, command)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return fmt.Errorf("install a stand-in for %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}
