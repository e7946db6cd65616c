package windows

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/role/windows/guestscripts"
	"l4lab/topology"
)

// Outfit is what a machine gets before it has a role.
type Outfit struct {
	PrefixLength, MTU int
	// Balancer has the machine's own source ports leave those alone that SNAT takes.
	Balancer bool
	// EBPF is what it loads programs with; Block is where that stands in the
	// topology, for errors: "providers.hyperv.ebpf".
	EBPF  topology.EBPF
	Block string
	// Program is lbagent.exe; "" brings none.
	Program string
	// Restart bounds each restart that the set-up wants.
	Restart Restart
}

// Restart says how to wait for a machine that restarts.
type Restart struct {
	// Way is by what it answers: "PowerShell Direct"; Hint says how to look at one
	// that does not.
	Way, Hint string
	// Limit is until it answers again, Pause between two looks.
	Limit, Pause time.Duration
	// Say is told that it restarts.
	Say func(text string)
}

// The balancer's own source ports. Windows' default, 49152-65535 (RFC 6335), lies
// in 32768-65535, from which SNAT takes ports; 1025 is the least that Windows takes.
const firstSourcePort, lastSourcePort = 1025, 32767

// SetUp gives a machine that answers what every role needs. Doing it again
// changes nothing.
func (m *Machine) SetUp(ctx context.Context, o Outfit) error {
	if err := m.EnsureAdapter(ctx, o.PrefixLength, o.MTU); err != nil {
		return err
	}
	if o.Balancer {
		if err := m.EnsureSourcePorts(ctx, firstSourcePort, lastSourcePort); err != nil {
			return err
		}
	}
	if err := m.installEBPF(ctx, o); err != nil {
		return err
	}
	for _, f := range o.EBPF.Programs {
		_, err := os.Stat(f)
		if err == nil {
			err = m.Push(ctx, guest.File{Path: filepath.Base(f), Source: f})
		}
		if err != nil {
			return fmt.Errorf("push the compiled data path: %w", err)
		}
	}
	if o.Program != "" {
		if err := m.PushProgram(ctx, o.Program); err != nil {
			return err
		}
	}
	return m.CleanSetup(ctx)
}

// The installed products' names, as Windows lists them.
const (
	ebpfProduct = "eBPF for Windows"
	ebpfFeature = "ADDLOCAL=eBPF_Runtime_Components,eBPF_Runtime_Components_JIT"
)

// installEBPF turns test signing on, installs what the profile needs, restarts
// as often as that wants, and looks whether it worked.
func (m *Machine) installEBPF(ctx context.Context, o Outfit) error {
	e := o.EBPF
	steps := []func(context.Context) (reboot bool, err error){m.EnsureTestSigning}
	if e.MSI != "" {
		steps = append(steps, func(ctx context.Context) (bool, error) {
			return m.EnsureMSI(ctx, e.MSI, ebpfProduct, []string{ebpfFeature})
		})
	}
	if e.Profile == topology.ProfileXDP && e.XDP != "" {
		steps = append(steps, func(ctx context.Context) (bool, error) { return m.EnsureXDP(ctx, e.XDP) })
	}
	for _, step := range steps {
		reboot, err := step(ctx)
		if err != nil {
			return err
		}
		if reboot {
			if err := m.RestartAndAwait(ctx, o.Restart); err != nil {
				return err
			}
		}
	}
	return m.verifyEBPF(ctx, o)
}

func (m *Machine) verifyEBPF(ctx context.Context, o Outfit) error {
	f, err := m.Facts(ctx)
	switch {
	case err != nil:
		return err
	case !f.TestSigning:
		return fmt.Errorf("test signing is off after its restart: is Secure Boot on, or does a policy forbid it? See `bcdedit` in the guest")
	case f.EBPF == "":
		return fmt.Errorf("eBPF for Windows is not installed: name its installer as %s.msi, or take an image that has it", o.Block)
	case o.EBPF.Profile == topology.ProfileXDP && f.XDP == "":
		return fmt.Errorf("XDP for Windows is not installed: name its folder as %s.xdp, or take an image that has it", o.Block)
	}
	return nil
}

// RestartAndAwait restarts the machine and waits until it answers from another start.
func (m *Machine) RestartAndAwait(ctx context.Context, r Restart) error {
	before, err := m.Facts(ctx)
	if err != nil {
		return err
	}
	if r.Say != nil {
		r.Say(m.Machine + " restarts")
	}
	// Its answer may get lost with its system.
	asked := m.Restart(ctx)
	if errors.Is(asked, powershell.ErrAuth) || ctx.Err() != nil {
		return asked
	}
	err = guest.Await(ctx, m.Machine, guest.Requirement{
		Description: "has restarted and answers " + r.Way + " again", Hint: r.Hint, Limit: r.Limit, Pause: r.Pause,
		Check: func(ctx context.Context) error {
			now, err := m.Facts(ctx)
			if err == nil && now.BootTime == before.BootTime {
				err = errors.New("it has not restarted yet")
			}
			return Lasting(err)
		},
	})
	if err != nil && asked != nil {
		err = fmt.Errorf("%w; asked to restart it said: %w", err, asked)
	}
	return err
}

// Lasting marks what no waiting mends: a machine that lets us in no more.
func Lasting(err error) error {
	if errors.Is(err, powershell.ErrAuth) {
		return fmt.Errorf("%w: %w", guest.ErrNever, err)
	}
	return err
}

// Differences says what of the machine's adapter is not as wanted, and what its MTU
// is; 0 when it has no such adapter.
func (m *Machine) Differences(f guestscripts.FactsResult, prefixLength, mtu int) (has int, faults []string) {
	a, err := m.adapter(f)
	if err != nil {
		return 0, nil
	}
	if a.MTU != mtu {
		faults = append(faults, fmt.Sprintf("mtu %d -> %d", a.MTU, mtu))
	}
	if want := fmt.Sprintf("%s/%d", m.Address, prefixLength); !slices.Contains(a.Addresses, want) {
		faults = append(faults, fmt.Sprintf("address %s -> %s", strings.Join(a.Addresses, ", "), want))
	}
	return a.MTU, faults
}
