package netnsguests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests/guestinit"
	"l4lab/topology"
)

// The words of Hyper-V for the heartbeat of a machine that is on
// (VMIntegrationService of its PowerShell module).
const (
	heartbeatNoContact = "NoContact"
	heartbeatUnknown   = "OkApplicationsUnknown"
	heartbeatHealthy   = "OkApplicationsHealthy"
)

// guest is a machine that was turned on at least once.
type guest struct {
	guests *Guests
	log    *slog.Logger
	faults Faults

	// switching is held while it is turned on or off.
	switching sync.Mutex

	mu      sync.Mutex
	machine hvsim.Machine
	state   hvsim.GuestState
	// process is its init's, 0 while there is none.
	process int
	// off is closed once it is off; kill has it begin.
	off  chan struct{}
	kill context.CancelFunc
	// ready says that a Windows machine answers verbs.
	ready   bool
	booted  time.Time
	windows *windows
	// recording is a capture that a Windows guest does itself.
	recording *guestRecording
}

// port is the machine's interface at the switch.
func (m *guest) port() string { return portName(m.machine.MAC) }

// what is the machine's part of its namespace's name.
func (m *guest) what() string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, m.machine.Name) + "-" + m.machine.ID[:min(8, len(m.machine.ID))]
}

// disk is the real folder of what the machine writes.
func (m *guest) disk() string {
	if m.faults.DiskBytes > 0 {
		return m.guests.path("disks", m.machine.ID)
	}
	return m.machine.Dir
}

// lookup returns a machine, nil for one that was never turned on.
func (g *Guests) lookup(id string) *guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m, ok := g.machines[id]; ok {
		return m
	}
	if !usable(id) {
		return nil
	}
	dir, err := os.ReadFile(g.path("known", id))
	if err != nil {
		return nil
	}
	m := &guest{guests: g, log: g.log, machine: hvsim.Machine{ID: id, Name: id, Dir: string(dir)}}
	g.machines[id] = m
	return m
}

// remember keeps where the machine's disk is for the next instance: the
// model's machines outlive this one.
func (m *guest) remember() error {
	if err := os.MkdirAll(m.guests.path("known"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(m.guests.path("known", m.machine.ID), []byte(m.machine.Dir), 0o600)
}

// usable says whether an id can be a file's name.
func usable(id string) bool { return filepath.IsLocal(id) && !strings.ContainsRune(id, '/') }

// Start implements hvsim.Guests.
func (g *Guests) Start(ctx context.Context, m hvsim.Machine) error {
	if !usable(m.ID) || len(m.MAC) != 6 || m.Dir == "" {
		return fmt.Errorf("machine %s: id %q, MAC %q and folder %q are not usable", m.Name, m.ID, m.MAC, m.Dir)
	}
	dir, err := resolve(m.Dir)
	if err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	m.Dir = dir
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return errors.New("the simulated host has ended")
	}
	vm, ok := g.machines[m.ID]
	if !ok {
		vm = &guest{guests: g, log: g.log, machine: m}
		g.machines[m.ID] = vm
	}
	g.mu.Unlock()
	vm.switching.Lock()
	defer vm.switching.Unlock()
	if vm.State().Running {
		return nil
	}
	vm.mu.Lock()
	vm.machine, vm.log, vm.faults = m, g.log.With("machine", m.Name), g.options.Faults(m.Name)
	vm.mu.Unlock()
	if err := vm.turnOn(ctx); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return nil
}

func (m *guest) turnOn(ctx context.Context) error {
	if err := m.attachDisk(); err != nil {
		return err
	}
	if err := m.connect(ctx); err != nil {
		return errors.Join(err, m.disconnect())
	}
	life, kill := context.WithCancel(context.Background())
	off := make(chan struct{})
	m.mu.Lock()
	m.state = hvsim.GuestState{Running: true, Heartbeat: heartbeatNoContact}
	m.off, m.kill = off, kill
	m.mu.Unlock()
	go func() {
		defer close(off)
		m.live(life)
	}()
	return nil
}

// attachDisk makes the folders of the disk.
func (m *guest) attachDisk() error {
	disk := m.disk()
	if err := os.MkdirAll(disk, 0o700); err != nil {
		return fmt.Errorf("make its disk: %w", err)
	}
	if m.faults.DiskBytes > 0 && !isMountPoint(disk) {
		if err := unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("mode=0700,size=%d", m.faults.DiskBytes)); err != nil {
			return fmt.Errorf("make its small disk: %w", err)
		}
	}
	if m.machine.OS == topology.Windows {
		if err := os.MkdirAll(m.drive(), 0o755); err != nil {
			return fmt.Errorf("make its drive C: %w", err)
		}
	}
	return m.remember()
}

func isMountPoint(path string) bool {
	var here, above unix.Stat_t
	return unix.Stat(path, &here) == nil && unix.Stat(filepath.Dir(path), &above) == nil && here.Dev != above.Dev
}

// connect makes the machine's namespace and its cable to the switch, new ones at
// every boot: what the last one configured is gone.
func (m *guest) connect(ctx context.Context) error {
	g := m.guests
	settings := fabric.Quiet()
	if m.machine.OS == topology.Windows {
		settings = append(settings, fabric.Unannounced()...)
	}
	node, err := g.namespace(ctx, m.what(), settings)
	if err != nil {
		return err
	}
	defer node.Close()
	if m.machine.Switch == "" {
		return nil
	}
	g.mu.Lock()
	s, ok := g.switches[m.machine.Switch]
	g.mu.Unlock()
	if !ok {
		return fmt.Errorf("there is no switch %s", m.machine.Switch)
	}
	sw, err := g.open(s.namespace)
	if err != nil {
		return err
	}
	defer sw.Close()
	p := fabric.Port{Name: m.port(), MAC: m.machine.MAC, MTU: fabric.MaxMTU, Hairpins: true, Locked: !m.machine.Spoofing}
	if err := plug(sw, node, p); err != nil {
		return err
	}
	return g.portIsNew(m.machine.ID)
}

func (m *guest) disconnect() error {
	g := m.guests
	g.mu.Lock()
	s, ok := g.switches[m.machine.Switch]
	g.mu.Unlock()
	var errs []error
	if ok {
		sw, err := g.open(s.namespace)
		if err == nil {
			h, err := sw.Netlink()
			if err == nil {
				errs = append(errs, fabric.Unplug(h, m.port()))
				h.Close()
			}
			sw.Close()
		}
	}
	return errors.Join(append(errs, g.removeIfOwn(g.namespaceName(m.what())))...)
}

// live is the machine from one turning on to the next turning off, with all
// the restarts between.
func (m *guest) live(ctx context.Context) {
	defer func() {
		if err := m.disconnect(); err != nil {
			m.log.Error("a machine that is off left something", "error", err)
		}
		m.mu.Lock()
		m.state = hvsim.GuestState{}
		m.mu.Unlock()
	}()
	if m.faults.NeverBoots {
		<-ctx.Done()
		return
	}
	for ctx.Err() == nil {
		again, err := m.boot(ctx)
		if err != nil && ctx.Err() == nil {
			// As a machine whose boot loader finds nothing: it is on, and silent.
			m.log.Error("the machine does not run", "error", err, "console", m.console())
			m.silent(ctx)
			return
		}
		if !again {
			return
		}
		if m.faults.RebootHangs {
			m.silent(ctx)
			return
		}
		if err := errors.Join(m.disconnect(), m.connect(ctx)); err != nil {
			m.log.Error("the machine does not come back", "error", err)
			m.silent(ctx)
			return
		}
	}
}

// silent is a machine that is on and does nothing.
func (m *guest) silent(ctx context.Context) {
	m.heard(heartbeatNoContact)
	<-ctx.Done()
}

func (m *guest) heard(heartbeat string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Heartbeat = heartbeat
	if heartbeat == heartbeatNoContact {
		m.ready, m.process = false, 0
	}
}

func (m *guest) console() string { return m.guests.path("machines", m.machine.ID, "console.log") }

// State returns how the machine is.
func (m *guest) State() hvsim.GuestState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// State implements hvsim.Guests.
func (g *Guests) State(id string) hvsim.GuestState {
	if m := g.lookup(id); m != nil {
		return m.State()
	}
	return hvsim.GuestState{}
}

// Stop implements hvsim.Guests. An orderly stop waits for the machine's own end
// as long as the context does, and leaves it on when that does not come.
func (g *Guests) Stop(ctx context.Context, id string, orderly bool) error {
	m := g.lookup(id)
	if m == nil {
		return nil
	}
	if err := m.stop(ctx, orderly); err != nil {
		return fmt.Errorf("machine %s: %w", m.machine.Name, err)
	}
	return nil
}

func (m *guest) stop(ctx context.Context, orderly bool) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	running, off, kill := m.state.Running, m.off, m.kill
	m.mu.Unlock()
	if !running {
		return nil
	}
	if orderly {
		if _, err := m.ask(ctx, guestinit.Request{Down: true}); err != nil {
			return fmt.Errorf("shut it down: %w", err)
		}
	} else {
		kill()
	}
	select {
	case <-off:
		kill()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until it is off: %w", context.Cause(ctx))
	}
}

// ask sends a request to the machine's init.
func (m *guest) ask(ctx context.Context, r guestinit.Request, files ...*os.File) (guestinit.Reply, error) {
	m.mu.Lock()
	pid := m.process
	m.mu.Unlock()
	if pid == 0 {
		return guestinit.Reply{}, hvsim.ErrGuestNotReady
	}
	reply, err := guestinit.Ask(ctx, fmt.Sprintf("/proc/%d/root%s", pid, guestinit.Socket), r, files...)
	if errors.Is(err, guestinit.ErrGone) {
		err = fmt.Errorf("%w: %w", hvsim.ErrGuestNotReady, err)
	}
	return reply, err
}
