package guestinit

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// children are the processes that init started and waits for by itself. All
// others that end without a parent fall to init, which collects them.
type children struct {
	mu   sync.Mutex
	pids map[int]bool
}

func newChildren() *children { return &children{pids: map[int]bool{}} }

// start starts a process in a session of its own. wait must be called, once.
func (c *children) start(cmd *exec.Cmd) (wait func() error, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	c.pids[pid] = true
	return func() error {
		err := cmd.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pids, pid)
		return err
	}, nil
}

// run runs a process to its end and returns what it printed.
func (c *children) run(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	wait, err := c.start(cmd)
	if err == nil {
		err = wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), err
}

// reap collects orphans for as long as the machine lives. It does not wait for
// whatever comes (wait4(-1)), which would take the ends of start's processes.
func (c *children) reap() {
	ended := make(chan os.Signal, 16)
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		c.mu.Lock()
		for _, pid := range zombies() {
			if !c.pids[pid] {
				var status unix.WaitStatus
				_, _ = unix.Wait4(pid, &status, unix.WNOHANG, nil)
			}
		}
		c.mu.Unlock()
	}
}

// process returns a process's parent and state (field 3 of /proc/PID/stat).
func process(pid int) (parent int, state string) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ""
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 2 {
		return 0, ""
	}
	parent, _ = strconv.Atoi(fields[1])
	return parent, fields[0]
}

func zombies() []int {
	var found []int
	for _, pid := range pids() {
		if parent, state := process(pid); parent == 1 && state == "Z" {
			found = append(found, pid)
		}
	}
	return found
}

func pids() []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	found := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// awaitNone waits until nothing but init runs, at most d.
func (c *children) awaitNone(d time.Duration) {
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		left := 0
		for _, pid := range pids() {
			if _, state := process(pid); pid != 1 && state != "Z" && state != "" {
				left++
			}
		}
		if left == 0 {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}
