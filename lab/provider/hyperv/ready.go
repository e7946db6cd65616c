package hyperv

import (
	"context"
	"fmt"
	"strings"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/windows"
	"l4lab/topology"
)

func (h *host) limits() Limits { return h.target.Limits.or(h.p.o.Limits) }

// await waits, stage by stage, until the machine can be worked in. One that was
// ready before gets little time.
func (b *build) await(ctx context.Context, before bool) error {
	l := b.limits()
	answer := l.SSH
	if b.node.OS == topology.Windows {
		answer = l.Direct
	}
	heartbeat := l.Heartbeat
	if before {
		heartbeat, answer = min(l.Revive, heartbeat), min(l.Revive, answer)
	}
	ready, err := b.answers(answer)
	if err != nil {
		return err
	}
	return guest.Await(ctx, b.name, b.isRunning(l.Running), b.isHeardOf(heartbeat), ready)
}

// console says how to look at a machine that says nothing.
func (b *build) console() string {
	name := vmName(b.lab.Topology.Name, b.name)
	return fmt.Sprintf("on the host, look at its console (vmconnect localhost %s) and at `Get-VM %s`", name, name)
}

func (b *build) isRunning(limit time.Duration) guest.Requirement {
	return guest.Requirement{
		Description: "runs", Hint: b.console(), Limit: limit, Pause: b.limits().Pause,
		Check: func(ctx context.Context) error {
			s, err := b.verbs.VMState.Run(ctx, b.runner, scripts.VMParams{ID: b.id, Mark: b.mark})
			if err == nil && s.State != running {
				err = fmt.Errorf("its state is %s", s.State)
			}
			return windows.Lasting(err)
		},
	}
}

func (b *build) isHeardOf(limit time.Duration) guest.Requirement {
	return guest.Requirement{
		Description: "has its system started (Hyper-V's heartbeat)",
		Hint:        b.console() + "; an image without Hyper-V's integration services has no heartbeat", Limit: limit, Pause: b.limits().Pause,
		Check: func(ctx context.Context) error {
			s, err := b.verbs.VMState.Run(ctx, b.runner, scripts.VMParams{ID: b.id, Mark: b.mark})
			switch {
			case err != nil:
				return windows.Lasting(err)
			case s.State != running:
				return fmt.Errorf("%w: its state is %s", guest.ErrNever, s.State)
			case !strings.HasPrefix(s.Heartbeat, "Ok"):
				return fmt.Errorf("its heartbeat is %q", s.Heartbeat)
			}
			return nil
		},
	}
}

// answers is the last stage: SSH or PowerShell Direct.
func (b *build) answers(limit time.Duration) (guest.Requirement, error) {
	if b.node.OS == topology.Linux {
		g, err := b.linuxGuest(b.lab, b.name)
		if err != nil {
			return guest.Requirement{}, err
		}
		r := g.Ready(limit)
		r.Pause = b.limits().Pause
		r.Hint = fmt.Sprintf("%s; %s; the way there is %s", r.Hint, b.console(), b.target.Reach)
		return r, nil
	}
	w, err := b.windowsMachine(b.lab, b.name)
	if err != nil {
		return guest.Requirement{}, err
	}
	return guest.Requirement{
		Description: "answers PowerShell Direct",
		Hint:        b.console() + ": a first start after sysprep takes minutes, and a password that the answer file did not set is refused",
		Limit:       limit, Pause: b.limits().Pause,
		Check: func(ctx context.Context) error {
			_, err := w.Facts(ctx)
			return windows.Lasting(err)
		},
	}, nil
}
