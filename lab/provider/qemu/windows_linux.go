package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/guest/answer"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/role/windows"
	"l4lab/topology"
)

// winrmPort is where Windows guests serve WinRM over HTTPS.
const winrmPort = 5986

// windowsPassword is the name under which a lab keeps its guests' password.
const windowsPassword = "windows-password"

// windowsGuest is the way into a real Windows guest.
type windowsGuest struct {
	*windows.Machine
	runner powershell.Runner
}

// windowsGuest returns the way into a node. Its one logon is kept.
func (p *Provider) windowsGuest(lab provider.Lab, name string) (*windowsGuest, error) {
	address := lab.Topology.Nodes[name].Address
	ebpf := topology.FilledQEMU(lab.Topology.Providers.QEMU).Windows.EBPF
	key := guestKey(lab, name) + address.String() + " " + string(ebpf.Profile)
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.windows[key]; w != nil {
		return w, nil
	}
	client, err := p.base.Machine(lab, lab.Topology.Client.Name)
	if err != nil {
		return nil, err
	}
	runner := powershell.Later(func(ctx context.Context) (powershell.Runner, error) {
		server, err := keys.Server(lab.Dir, name)
		if err != nil {
			return nil, err
		}
		password, err := keys.Password(lab.Dir, windowsPassword)
		if err != nil {
			return nil, err
		}
		return powershell.Connect(ctx, powershell.Endpoint{
			Host: address.String(), Port: winrmPort, Fingerprint: server.Fingerprint(),
			User: answer.Administrator, Password: powershell.Password(password),
			// The client is the one machine of labctl's own on the switch.
			Dial: func(ctx context.Context, network, to string) (net.Conn, error) {
				return client.Guest.Dial(ctx, network, "", to)
			},
		})
	})
	m, err := windows.New(windows.Options{
		Machine: name, Address: address, MAC: fabric.MACOf(address), Runner: runner, Profile: ebpf.Profile, Changing: &sync.Mutex{},
		Upload: windows.Uploader(runner),
	})
	if err != nil {
		return nil, err
	}
	w := &windowsGuest{m, runner}
	p.windows[key] = w
	return w, nil
}

// takeWindows forgets the logon to a node and returns it; nil when there is none.
func (p *Provider) takeWindows(lab provider.Lab, name string) (taken []*windowsGuest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, w := range p.windows {
		if strings.HasPrefix(key, guestKey(lab, name)) {
			delete(p.windows, key)
			taken = append(taken, w)
		}
	}
	return taken
}

// dropWindows forgets the logon to a node that is about to end, or has. The shell goes
// with the guest: nobody waits for one that does not answer.
func (p *Provider) dropWindows(lab provider.Lab, name string) {
	for _, w := range p.takeWindows(lab, name) {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
			defer cancel()
			_ = w.runner.Close(ctx)
		}()
	}
}

// hangUp ends what labctl has in a guest that goes on without it, or it would keep a
// session that nobody ends.
func (p *Provider) hangUp(ctx context.Context, lab provider.Lab, name string) error {
	var errs *multierror.Error
	for _, w := range p.takeWindows(lab, name) {
		errs = multierror.Append(errs, w.runner.Close(ctx))
	}
	p.drop(lab, name)
	return errs.ErrorOrNil()
}

// windowsDisc is the disc that tells a guest who it is: as secret as what is in it.
func (b *build) windowsDisc() ([]byte, error) {
	server, err := keys.Server(b.lab.Dir, b.name)
	if err != nil {
		return nil, err
	}
	password, err := keys.Password(b.lab.Dir, windowsPassword)
	if err != nil {
		return nil, fmt.Errorf("the password of the Windows guests: %w", err)
	}
	var disc bytes.Buffer
	err = answer.Write(&disc, answer.Disc{
		Name: b.name, Password: powershell.Password(password), MAC: port(b.lab, b.name).MAC, Address: b.design.windows.Address, Certificate: server,
	})
	return disc.Bytes(), err
}

// enlightenments are what of Hyper-V's interface QEMU offers a Windows guest in place of
// hardware whose emulation leaves the processor's virtualisation each time (QEMU's
// docs/system/i386/hyperv.rst). KVM alone has them.
const enlightenments = "host,hv_relaxed,hv_vapic,hv_spinlocks=0x1fff,hv_time"

// forWindows gives a machine the devices that Windows has drivers for. Its clock is UTC,
// like a Linux guest's, and not this machine's local time: Windows takes the clock for
// the time of its own zone, and the answer file makes that UTC.
func (b *build) forWindows(c *vm.Config) {
	c.VGA = true
	if c.Accel == vm.KVM {
		c.CPUModel = enlightenments
	}
	c.NIC.Model = string(b.design.windows.Machine.NIC)
	c.Disks[systemDisk].Bus = vm.SATA
	c.Disks[seedDisk] = vm.Disk{Bus: vm.CD}
	if _, err := os.Stat(b.seed()); err == nil {
		c.Disks[seedDisk] = vm.Disk{Path: b.seed(), Format: "raw", ReadOnly: true, Bus: vm.CD}
	}
}

// outfit gives a machine that answers what every role needs, and takes away the disc
// that told it who it is. A Linux guest has all of that from its image and its roles.
func (b *build) outfit(ctx context.Context, v *vm.VM) error {
	if b.design.windows == nil {
		return nil
	}
	w, err := b.windowsGuest(b.lab, b.name)
	if err != nil {
		return err
	}
	t := b.lab.Topology
	err = w.SetUp(ctx, windows.Outfit{
		PrefixLength: t.Switch.Subnet.Bits(), MTU: t.Switch.MTU, Balancer: b.name == t.LoadBalancer(),
		EBPF: b.design.windows.Machine.EBPF, Block: "providers.qemu.windows.ebpf", Program: b.o.WindowsProgram,
		Restart: windows.Restart{Way: "WinRM", Hint: b.windowsHint(), Limit: b.o.Limits.Windows, Say: b.o.Say},
	})
	if err != nil {
		return b.explain(ctx, v, err)
	}
	if err := v.Eject(ctx, seedDisk); err != nil {
		return err
	}
	if err := os.Remove(b.seed()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the disc with its password: %w", err)
	}
	return nil
}

// settleWindows has a guest that goes on from a kept state answer, and sets its clock,
// which stood still.
func (b *build) settleWindows(ctx context.Context, v *vm.VM) error {
	if err := b.reviveWindows(ctx, v); err != nil {
		return err
	}
	w, err := b.windowsGuest(b.lab, b.name)
	if err != nil {
		return err
	}
	if err := w.EnsureClock(ctx); err != nil {
		return err
	}
	return b.noteReady()
}

// lookWindows asks a Windows guest.
func (p *Provider) lookWindows(ctx context.Context, lab provider.Lab, name string, m *provider.MachineState) error {
	w, err := p.windowsGuest(lab, name)
	if err != nil {
		return err
	}
	f, err := w.Facts(ctx)
	if err != nil {
		return err
	}
	mtu, faults := w.Differences(f, lab.Topology.Switch.Subnet.Bits(), lab.Topology.Switch.MTU)
	if m.Faults = append(m.Faults, faults...); mtu != 0 {
		m.MTU = mtu
	}
	m.Facts, err = w.FactsOf(ctx, f)
	return err
}

// captureWindows records in a guest, by Windows' own tool; what it recorded can be read
// after the end alone.
func (p *Provider) captureWindows(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	w, err := p.windowsGuest(lab, place.Machine)
	if err != nil {
		return nil, err
	}
	if err := w.StartCapture(ctx); err != nil {
		return nil, err
	}
	return capture.Late(place.String(), func() ([]capture.Frame, uint64, error) {
		// Also when the caller's time is over: a guest records once at a time.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), captureLimit, fmt.Errorf("the capture was not ended and fetched within %s", captureLimit))
		defer cancel()
		path, dropped, err := w.StopCapture(ctx)
		if err != nil {
			return nil, 0, err
		}
		var file bytes.Buffer
		if err := transfer.Download(ctx, w.runner, transfer.NewVerbs(), path, &file, nil); err != nil {
			return nil, 0, fmt.Errorf("fetch the capture from %s: %w", place.Machine, err)
		}
		got, err := pcapng.Read(&file, place, w.MAC)
		return got.Frames, got.Dropped + dropped, err
	}), nil
}

// windowsSystem is a Windows node's, whose console is one of its logs.
type windowsSystem struct {
	*windows.Machine
	dir string
}

// Logs returns what the machine's daemons and its console wrote.
func (s windowsSystem) Logs(ctx context.Context) (map[string]io.ReadCloser, error) {
	logs, err := s.Machine.Logs(ctx)
	return withConsole(logs, err, s.dir)
}
