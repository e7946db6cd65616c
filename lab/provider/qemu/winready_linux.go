package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/provider/qemu/vm"
)

// captureLimit bounds ending a capture in a guest and fetching it.
const captureLimit = 5 * time.Minute

// reviveFactor is how much longer a Windows guest may take to answer again than a
// Linux one.
const reviveFactor = 4

// awaitWindows waits, stage by stage, until a guest that starts can be worked in.
func (b *build) awaitWindows(ctx context.Context, v *vm.VM, limit time.Duration) error {
	return b.awaitWinRM(ctx, v, limit, b.o.Limits.Refused)
}

// reviveWindows has a guest that ran before answer. One that refuses labctl, or shows
// another certificate, was changed by somebody: starting it again mends nothing.
func (b *build) reviveWindows(ctx context.Context, v *vm.VM) error {
	err := b.awaitWinRM(ctx, v, reviveFactor*b.o.Limits.Revive, 0)
	if errors.Is(err, powershell.ErrAuth) || errors.Is(err, powershell.ErrCertificate) {
		return fmt.Errorf("%w; its administrator's password or its WinRM certificate were changed: put them back, or have `labctl up --fresh-node %s --name %s` make the machine anew", err, b.name, b.lab.Topology.Name)
	}
	return err
}

func (b *build) awaitWinRM(ctx context.Context, v *vm.VM, limit, refused time.Duration) error {
	address := net.JoinHostPort(b.lab.Topology.Nodes[b.name].Address.String(), strconv.Itoa(winrmPort))
	client, err := b.base.Machine(b.lab, b.lab.Topology.Client.Name)
	if err != nil {
		return err
	}
	w, err := b.windowsGuest(b.lab, b.name)
	if err != nil {
		return err
	}
	began := time.Now()
	listens := guest.Requirement{
		Description: "has its set-up done and WinRM listen at " + address, Hint: b.windowsHint(), Limit: limit, Pause: b.o.Limits.Pause,
		Check: whileRunning(v, func(ctx context.Context) error {
			c, err := client.Guest.Dial(ctx, "tcp", "", address)
			if err == nil {
				err = c.Close()
			}
			return err
		}),
	}
	if err := guest.Await(ctx, b.name, listens); err != nil {
		return b.explain(ctx, v, b.pictured(ctx, v, err))
	}
	answers := guest.Requirement{
		Description: "lets labctl in over WinRM", Hint: b.windowsHint(), Limit: max(limit-time.Since(began), b.o.Limits.Revive), Pause: b.o.Limits.Pause,
		Check: whileRunning(v, patient(refused, func(ctx context.Context) error {
			_, err := w.Facts(ctx)
			return err
		})),
	}
	if err := guest.Await(ctx, b.name, answers); err != nil {
		return b.explain(ctx, v, b.pictured(ctx, v, err))
	}
	return nil
}

// patient ends a wait when the guest shows a certificate that is not its own, and when
// it has refused labctl for longer than it may.
func patient(refused time.Duration, look func(context.Context) error) func(context.Context) error {
	var since time.Time
	return func(ctx context.Context) error {
		err := look(ctx)
		switch {
		case errors.Is(err, powershell.ErrCertificate):
			return fmt.Errorf("%w: %w", guest.ErrNever, err)
		case !errors.Is(err, powershell.ErrAuth):
			since = time.Time{}
		case since.IsZero() && refused > 0:
			since = time.Now()
		case since.IsZero() || time.Since(since) > refused:
			return fmt.Errorf("%w: %w", guest.ErrNever, err)
		}
		return err
	}
}

// windowsHint says how to look at a guest that says nothing.
func (b *build) windowsHint() string {
	return fmt.Sprintf("a first start after sysprep takes minutes; what its set-up says is in %s, what is on its screen in %s (kept with --keep-on-failure)",
		filepath.Join(b.dir, "console.log"), b.picture())
}

func (b *build) picture() string { return filepath.Join(b.dir, "screen.png") }

// pictured leaves a picture of the screen of a guest that did not come: Windows says
// there what it waits for.
func (b *build) pictured(ctx context.Context, v *vm.VM, err error) error {
	if ctx.Err() != nil || !v.Alive() {
		return err
	}
	if failed := v.Screen(ctx, b.picture()); failed != nil {
		return fmt.Errorf("%w (there is no picture of its screen: %w)", err, failed)
	}
	return err
}
