package fabric

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what tells a process from any other that gets its pid later. It
// is written down with what the process is for, and read by a later labctl.
type Process struct {
	PID int `json:"pid"`
	// Start is the process's start time in clock ticks since boot (field 22 of
	// /proc/PID/stat); with Boot it makes a pid unique.
	Start uint64 `json:"start"`
	// Boot names the boot of this machine (random(4)).
	Boot string `json:"boot"`
}

// Identify describes a process that runs; os.ErrProcessDone when it has ended.
func Identify(pid int) (Process, error) {
	boot, err := bootID()
	if err != nil {
		return Process{}, err
	}
	start, err := startTime(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start, Boot: boot}, nil
}

// Alive says whether the very process still runs; a zombie does not.
func (p Process) Alive() bool {
	now, err := Identify(p.PID)
	return err == nil && now == p
}

// End ends the process, first asking when patience is not zero. A process
// that has ended, or whose pid another has, is no error.
func (p Process) End(ctx context.Context, patience time.Duration) error {
	pidfd, err := p.Pidfd()
	if err != nil || pidfd < 0 {
		return err
	}
	defer unix.Close(pidfd)
	return End(ctx, pidfd, patience)
}

// Await waits until the process has ended by itself, and says whether it has.
func (p Process) Await(ctx context.Context, d time.Duration) (bool, error) {
	pidfd, err := p.Pidfd()
	if err != nil || pidfd < 0 {
		return err == nil, err
	}
	defer unix.Close(pidfd)
	return waitEnd(ctx, pidfd, d)
}

// Pidfd opens a pidfd for the process, to be closed by the caller; -1 when it
// has ended. The identity is checked after the pidfd is open: from there on it
// cannot come to mean another process.
func (p Process) Pidfd() (int, error) {
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	// EINVAL: there is no such pid and cannot be, in a record that was damaged.
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if !p.Alive() {
		unix.Close(pidfd)
		return -1, nil
	}
	return pidfd, nil
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// startTime returns field 22 of /proc/PID/stat. The second field, the name,
// may hold blanks and brackets; the last bracket ends it.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, os.ErrProcessDone
	}
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(data[max(strings.LastIndexByte(string(data), ')'), 0):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("read /proc/%d/stat: %q is not of its form", pid, data)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
