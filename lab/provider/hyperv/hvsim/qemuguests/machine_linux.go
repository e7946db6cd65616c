package qemuguests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"l4lab/lab/guest/seed"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/qemu/vm"
)

// The words of Hyper-V for the heartbeat of a machine that is on. Of the
// applications in a Linux guest Hyper-V knows nothing.
const (
	heartbeatNoContact = "NoContact"
	heartbeatUnknown   = "OkApplicationsUnknown"
)

const (
	// lookPause is between two looks at a machine.
	lookPause = 500 * time.Millisecond
	// answerLimit is how long a guest's kernel may take to answer a connection.
	answerLimit = time.Second
	// buttonPatience is how long a guest may take to switch itself off once the
	// power button was pressed.
	buttonPatience = 30 * time.Second
	// endLimit bounds the end of a QEMU.
	endLimit = 15 * time.Second
)

// closedPort is one that nothing listens at: that the kernel refuses the connection
// is answer enough, and no program of the guest has to work for it.
const closedPort = "9"

// guest is a machine that was turned on at least once.
type guest struct {
	guests *Guests
	log    *slog.Logger

	// switching is held while it is turned on or off, and while its disk is changed.
	switching sync.Mutex

	mu      sync.Mutex
	machine hvsim.Machine
	state   hvsim.GuestState
	vm      *vm.VM
	// off is closed once it is off; kill has it begin.
	off  chan struct{}
	kill context.CancelFunc
}

func (m *guest) now() hvsim.GuestState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *guest) heard(heartbeat string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Running {
		m.state.Heartbeat = heartbeat
	}
}

func (m *guest) start(ctx context.Context, machine hvsim.Machine) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	if m.now().Running {
		return nil
	}
	m.mu.Lock()
	m.machine, m.log = machine, m.guests.log.With("machine", machine.Name)
	m.mu.Unlock()
	if machine.SecureBoot {
		m.log.Warn("Secure Boot is on, and is not enforced here: a real host starts signed systems alone")
	}
	d, err := m.attachDisk(ctx)
	if err != nil {
		return err
	}
	v, err := m.launch(ctx, d)
	if err != nil {
		return errors.Join(err, m.guests.DisconnectTap(machine))
	}
	life, kill := context.WithCancel(context.Background())
	off := make(chan struct{})
	m.mu.Lock()
	m.state = hvsim.GuestState{Running: true, Heartbeat: heartbeatNoContact}
	m.vm, m.off, m.kill = v, off, kill
	m.mu.Unlock()
	go func() {
		defer close(off)
		m.live(life, v, d.Address)
	}()
	return nil
}

// launch connects the machine to its switch and starts its QEMU there.
func (m *guest) launch(ctx context.Context, d disk) (*vm.VM, error) {
	g := m.guests
	nic := vm.NIC{MAC: m.machine.MAC.String()}
	if m.machine.Switch != "" {
		tap, err := g.ConnectTap(m.machine)
		if err != nil {
			return nil, err
		}
		nic.Tap = tap
	}
	disks := []vm.Disk{{Path: filepath.Join(m.machine.Dir, d.Top), Format: "qcow2", Bus: vm.SCSI, Serial: "disk"}}
	if m.machine.Seed != "" {
		disks = append(disks, vm.Disk{Path: m.machine.Seed, Format: "raw", Bus: vm.DVD, Serial: "seed"})
	}
	firmware := vm.UEFI
	if m.machine.Generation == 1 {
		firmware = vm.BIOS
	}
	return vm.Start(ctx, vm.Config{
		Name: m.machine.Name, Dir: g.runDir(m.machine.ID), Accel: g.accel,
		MemoryMB: int(m.machine.MemoryMB), CPUs: m.machine.Processors, Firmware: firmware, Disks: disks, NIC: nic,
		Environment: g.Environment(),
		Start:       func(cmd *exec.Cmd) error { return g.InSwitch(m.machine.Switch, cmd.Start) },
	})
}

// live is the machine from one turning on to the next turning off; restarts
// between are QEMU's own.
func (m *guest) live(ctx context.Context, v *vm.VM, address string) {
	defer m.end(v)
	again := time.NewTicker(lookPause)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		switch s, err := v.State(ctx); {
		case err != nil:
			// A busy QEMU; one that has ended is no error.
		case s == vm.Shutdown:
			m.log.Info("the machine has switched itself off")
			return
		case s == vm.Gone:
			m.log.Error("the machine's QEMU has ended", "log", filepath.Join(m.guests.runDir(m.machine.ID), "qemu.log"))
			return
		case s != vm.Running:
			m.heard(heartbeatNoContact) // it panicked, say; a host shows it as on
		case m.now().Heartbeat == heartbeatNoContact && m.answers(ctx, address):
			m.heard(heartbeatUnknown)
			m.log.Info("the machine's kernel answers")
		}
	}
}

// end takes away what a machine that is off needs no longer.
func (m *guest) end(v *vm.VM) {
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	if err := errors.Join(v.End(ctx, 0), m.guests.DisconnectTap(m.machine)); err != nil {
		m.log.Error("a machine that is off left something", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.vm = hvsim.GuestState{}, nil
}

// answers says whether the guest's kernel answers at the address that its seed gave.
func (m *guest) answers(ctx context.Context, address string) bool {
	if address == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := m.guests.HostDial(ctx, "tcp", net.JoinHostPort(address, closedPort))
	if err == nil {
		conn.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// stop turns the machine off, by its power button when orderly is set.
func (m *guest) stop(ctx context.Context, orderly bool) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	running, off, kill, v := m.state.Running, m.off, m.kill, m.vm
	m.mu.Unlock()
	if !running {
		return nil
	}
	if orderly {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, buttonPatience, fmt.Errorf("its system did not act on the power button within %s", buttonPatience))
		defer cancel()
		if err := v.PowerDown(ctx); err != nil {
			return err
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

// remove forgets a machine that is off, with its disk.
func (m *guest) remove() error {
	m.switching.Lock()
	defer m.switching.Unlock()
	if m.now().Running {
		return errors.New("it is on")
	}
	g := m.guests
	return errors.Join(os.RemoveAll(m.machine.Dir), os.RemoveAll(g.runDir(m.machine.ID)), os.RemoveAll(g.knownFile(m.machine.ID)))
}

// seedAddress returns the address that a seed disc gives, "" when it is no seed
// that is known.
func seedAddress(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	c, err := seed.Read(f)
	if err != nil {
		return ""
	}
	for _, e := range c.NetworkConfig.Ethernets {
		for _, a := range e.Addresses {
			if ip, _, err := net.ParseCIDR(a); err == nil {
				return ip.String()
			}
		}
	}
	return ""
}
