package ssh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"l4lab/lab/guest"
)

// authPatience is how long a guest that starts may refuse our key: its server
// can be there before its seed has been applied.
const authPatience = 30 * time.Second

// Ready is the requirement that the guest answers SSH and runs commands. A wrong
// host key fails it at once.
func (g *Guest) Ready(limit time.Duration) guest.Requirement {
	var refusedSince time.Time
	return guest.Requirement{
		Description: fmt.Sprintf("answers SSH at %s", g.config.Address),
		Hint:        "look at the guest's console: did it boot, has it its address, and what do `systemctl status ssh` and `cloud-init status --long` say?",
		Limit:       limit,
		Check: func(ctx context.Context) error {
			_, err := g.bootID(ctx)
			switch {
			case errors.Is(err, ErrHostKey), errors.Is(err, ErrClosed):
				return fmt.Errorf("%w: %w", guest.ErrNever, err)
			case !errors.Is(err, ErrAuth):
				refusedSince = time.Time{}
			case refusedSince.IsZero():
				refusedSince = time.Now()
			case time.Since(refusedSince) > authPatience:
				return fmt.Errorf("%w: refused for %s: %w", guest.ErrNever, authPatience, err)
			}
			return err
		},
	}
}

// AwaitReady waits until the guest answers.
func (g *Guest) AwaitReady(ctx context.Context, limit time.Duration) error {
	return guest.Await(ctx, g.config.Machine, g.Ready(limit))
}

// Reboot restarts the guest and waits until it answers again, from another boot.
func (g *Guest) Reboot(ctx context.Context, limit time.Duration) error {
	before, err := g.bootID(ctx)
	if err != nil {
		return err
	}
	// The connection may be gone before the command has ended.
	err = g.Run(ctx, guest.Command{Argv: []string{"systemctl", "reboot"}})
	if err != nil && !errors.Is(err, ErrUnreachable) {
		return err
	}
	ready := g.Ready(limit)
	return guest.Await(ctx, g.config.Machine, guest.Requirement{
		Description: "has restarted and answers SSH again", Hint: ready.Hint, Limit: limit,
		Check: func(ctx context.Context) error {
			if err := ready.Check(ctx); err != nil {
				return err
			}
			now, err := g.bootID(ctx)
			if err == nil && now == before {
				err = errors.New("it has not restarted yet")
			}
			return err
		},
	})
}

// bootID names the guest's boot (random(4)).
func (g *Guest) bootID(ctx context.Context) (string, error) {
	var out strings.Builder
	err := g.Run(ctx, guest.Command{Argv: []string{"cat", "/proc/sys/kernel/random/boot_id"}, Stdout: &out})
	return strings.TrimSpace(out.String()), err
}
