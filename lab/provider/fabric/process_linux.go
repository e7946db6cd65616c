package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"
)

// NodeVariable is in the environment of what a lab runs for one of its nodes and
// what is no program of the lab's own: the node's folder.
const NodeVariable = "LABCTL_NODE"

// End sends SIGTERM, and SIGKILL when patience is over, and waits for the end.
func End(ctx context.Context, pidfd int, patience time.Duration) error {
	if patience > 0 {
		if err := unix.PidfdSendSignal(pidfd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		if gone, err := waitEnd(ctx, pidfd, patience); gone || err != nil {
			return err
		}
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	gone, err := waitEnd(ctx, pidfd, 5*time.Second)
	if err == nil && !gone {
		err = errors.New("still there 5 s after SIGKILL: it hangs in the kernel; see /proc/PID/stack")
	}
	return err
}

// waitEnd waits until the process is gone; a pidfd becomes readable then.
func waitEnd(ctx context.Context, pidfd int, d time.Duration) (bool, error) {
	deadline := time.Now().Add(d)
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		left := min(time.Until(deadline), 50*time.Millisecond)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, max(int(left.Milliseconds()), 0))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
		if time.Now().After(deadline) {
			return false, nil
		}
	}
}

// EndAll kills every process of a kind and waits for its end.
func EndAll(ctx context.Context, kind func(pid int) bool) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	var errs *multierror.Error
	var pidfds []int
	defer func() {
		for _, fd := range pidfds {
			unix.Close(fd)
		}
	}()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !kind(pid) {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone meanwhile
		}
		pidfds = append(pidfds, pidfd)
		if !kind(pid) {
			continue // another process got the pid before the pidfd was open
		}
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = multierror.Append(errs, fmt.Errorf("end process %d: %w", pid, err))
			continue
		}
	}
	for _, fd := range pidfds {
		if gone, err := waitEnd(ctx, fd, 5*time.Second); err != nil || !gone {
			errs = multierror.Append(errs, fmt.Errorf("a process of the lab is still there 5 s after SIGKILL: %w", errors.Join(err, os.ErrDeadlineExceeded)))
		}
	}
	return errs.ErrorOrNil()
}

// ProgramOf returns the path of a process's program, "" when it has ended.
func ProgramOf(pid int) string {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return target
}

// Environment returns the value of a variable that a process was started with,
// "" when it has none.
func Environment(pid int, variable string) string {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for entry := range strings.SplitSeq(string(environ), "\x00") {
		if value, ok := strings.CutPrefix(entry, variable+"="); ok {
			return value
		}
	}
	return ""
}
