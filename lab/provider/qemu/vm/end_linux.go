package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/go-multierror"
)

// The limits of an end: for QEMU to take the order to quit, to carry it out and
// write out its disks, to end on SIGTERM otherwise; for the console's keeper to
// write the last of it; and in all, where nobody else sets one.
const (
	quitLimit      = time.Second
	quitPatience   = time.Second
	termPatience   = time.Second
	keeperPatience = time.Second
	endLimit       = 15 * time.Second
)

// End ends the machine and forgets it; the logs stay. With patience the guest
// is first asked to shut down and given that long; one that is not running
// cannot be asked. A machine that has ended already is no error.
func (v *VM) End(ctx context.Context, patience time.Duration) error {
	if patience > 0 && v.Alive() {
		v.shutDown(ctx, patience)
	}
	if err := v.quit(ctx); err != nil {
		return fmt.Errorf("%s: end the virtual machine (pid %d): %w", v.record.Name, v.PID(), err)
	}
	var errs *multierror.Error
	for _, path := range []string{socketFile(v.dir), recordFile(v.dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = multierror.Append(errs, err)
		}
	}
	return errs.ErrorOrNil()
}

// shutDown asks the guest to switch itself off, and waits until it has or
// patience is over; the machine is ended either way.
func (v *VM) shutDown(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = v.connect(ctx, "shut down", func(ctx context.Context, m *monitor) error {
		status, err := m.status(ctx)
		if err != nil || stateOf(status) != Running {
			return err
		}
		if err := m.execute(ctx, "system_powerdown", nil, nil); err != nil {
			return err
		}
		return m.awaitStatus(ctx, func(status string) bool { return stateOf(status) != Running })
	})
}

// quit ends QEMU, by its own command if it takes it, and waits for the end of
// what keeps the console: it must not write into a folder that is being removed.
func (v *VM) quit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if v.Alive() {
		limited, cancel := context.WithTimeout(ctx, quitLimit)
		defer cancel()
		asked := v.connect(limited, "quit", func(ctx context.Context, m *monitor) error { return m.execute(ctx, "quit", nil, nil) })
		if asked == nil {
			if _, err := v.record.QEMU.Await(ctx, quitPatience); err != nil {
				return err
			}
		}
		// One that did not take the order, or does not get done, is made to end.
		if err := v.record.QEMU.End(ctx, termPatience); err != nil {
			return err
		}
	}
	if gone, err := v.record.Keeper.Await(ctx, keeperPatience); gone || err != nil {
		return err
	}
	return v.record.Keeper.End(ctx, 0)
}
