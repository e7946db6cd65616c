package windows

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/role/windows/guestscripts"
)

// setupFolder is where installers are put.
const setupFolder = Folder + `\setup`

// EnsureAdapter gives the machine's adapter its address and MTU.
func (m *Machine) EnsureAdapter(ctx context.Context, prefixLength, mtu int) error {
	_, err := m.verbs.AdapterEnsure.Run(ctx, m.Runner, guestscripts.AdapterEnsureParams{
		MAC: MACText(m.MAC), Address: m.Address.String(), PrefixLength: prefixLength, MTU: mtu,
	})
	if err != nil {
		return m.errorf("give its adapter the address: %w", err)
	}
	return nil
}

// EnsureSourcePorts has the machine take the source ports of its own traffic
// from first to last, both inclusive.
func (m *Machine) EnsureSourcePorts(ctx context.Context, first, last uint16) error {
	p := guestscripts.PortsEnsureParams{First: int(first), Count: int(last) - int(first) + 1}
	if _, err := m.verbs.PortsEnsure.Run(ctx, m.Runner, p); err != nil {
		return m.errorf("have it take its source ports from %d-%d: %w", first, last, err)
	}
	return nil
}

// EnsureTestSigning has the machine load test-signed images from its next start on.
func (m *Machine) EnsureTestSigning(ctx context.Context) (reboot bool, err error) {
	r, err := m.verbs.TestSigningEnsure.Run(ctx, m.Runner, guestscripts.None{})
	if err != nil {
		return false, m.errorf("turn test signing on: %w", err)
	}
	return r.Reboot, nil
}

// EnsureMSI installs a package of this machine's silently.
func (m *Machine) EnsureMSI(ctx context.Context, msi, product string, properties []string) (reboot bool, err error) {
	hash, err := guest.HashFile(msi)
	if err != nil {
		return false, err
	}
	path := setupFolder + `\` + filepath.Base(msi)
	if err := m.Upload(ctx, msi, hash, path); err != nil {
		return false, m.errorf("push %s: %w", msi, err)
	}
	r, err := m.verbs.MSIEnsure.Run(ctx, m.Runner, guestscripts.MSIEnsureParams{Path: path, SHA256: hash, Product: product, Properties: properties})
	if err != nil {
		return false, m.errorf("install %s: %w", product, err)
	}
	return r.Reboot, nil
}

// EnsureXDP installs XDP for Windows from a folder of this machine's.
func (m *Machine) EnsureXDP(ctx context.Context, folder string) (reboot bool, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		source := filepath.Join(folder, e.Name())
		hash, err := guest.HashFile(source)
		if err != nil {
			return false, err
		}
		if err := m.Upload(ctx, source, hash, setupFolder+`\xdp\`+e.Name()); err != nil {
			return false, m.errorf("push %s: %w", source, err)
		}
	}
	r, err := m.verbs.XDPEnsure.Run(ctx, m.Runner, guestscripts.XDPEnsureParams{Folder: setupFolder + `\xdp`})
	if err != nil {
		return false, m.errorf("install XDP for Windows: %w", err)
	}
	return r.Reboot, nil
}

// PushProgram brings lbagent.exe into the machine. Services that run another one
// are ended first.
func (m *Machine) PushProgram(ctx context.Context, program string) error {
	hash, err := guest.HashFile(program)
	if err != nil {
		return fmt.Errorf("find lbagent.exe: %w", err)
	}
	m.Changing.Lock()
	defer m.Changing.Unlock()
	if err := m.release(ctx, hash); err != nil {
		return err
	}
	return m.push(ctx, program, hash)
}

// CleanSetup removes what a set-up left that holds a password.
func (m *Machine) CleanSetup(ctx context.Context) error {
	if _, err := m.verbs.SetupClean.Run(ctx, m.Runner, guestscripts.None{}); err != nil {
		return m.errorf("remove the answer file: %w", err)
	}
	return nil
}

// Restart asks the machine to restart, which it does after its answer.
func (m *Machine) Restart(ctx context.Context) error {
	if _, err := m.verbs.Restart.Run(ctx, m.Runner, guestscripts.None{}); err != nil {
		return m.errorf("restart it: %w", err)
	}
	return nil
}

// EnsureClock sets the machine's clock to this one's time: a machine that goes on from a
// kept state has its time stand still meanwhile.
func (m *Machine) EnsureClock(ctx context.Context) error {
	p := guestscripts.ClockEnsureParams{Seconds: time.Now().Unix()}
	if _, err := m.verbs.ClockEnsure.Run(ctx, m.Runner, p); err != nil {
		return m.errorf("set its clock: %w", err)
	}
	return nil
}

// captureFile is where a capture's file goes.
const captureFile = Folder + `\capture.pcapng`

// StartCapture begins to record what the machine's adapters see.
func (m *Machine) StartCapture(ctx context.Context) error {
	if _, err := m.verbs.GuestCaptureStart.Run(ctx, m.Runner, guestscripts.None{}); err != nil {
		return m.errorf("begin to record: %w", err)
	}
	return nil
}

// StopCapture ends the recording and says where its file is, and how many
// frames were lost.
func (m *Machine) StopCapture(ctx context.Context) (path string, dropped uint64, err error) {
	r, err := m.verbs.GuestCaptureStop.Run(ctx, m.Runner, guestscripts.GuestCaptureStopParams{Path: captureFile})
	if err != nil {
		return "", 0, m.errorf("end the recording: %w", err)
	}
	return captureFile, uint64(max(0, r.Dropped)), nil
}
