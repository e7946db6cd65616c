package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"l4lab/lab/provider/fabric"
	"l4lab/lab/state"
)

// daemon is a process that labctl started in a node and that outlives it: what
// stands in the node's folder, enough to know the process again and to tell it
// from another one that got its pid.
type daemon struct {
	Name string   `json:"name"`
	Spec string   `json:"spec"`
	Argv []string `json:"argv"`
	// At is where it answers: "tcp 20.1.1.10:80", "udp 20.1.1.10:53", or "unix"
	// and a path in the node's folder.
	At string `json:"at"`
	// Log is how long the log was when it was started.
	Log int64 `json:"log"`
	fabric.Process
}

func daemonFile(dir, name string) string { return filepath.Join(dir, name+".json") }
func logFile(dir, name string) string    { return filepath.Join(dir, name+".log") }

// startDaemon starts a process in a namespace, in a session of its own, its
// output in the node's folder.
func startDaemon(ns fabric.Namespace, dir string, d daemon) (daemon, error) {
	log, err := os.OpenFile(logFile(dir, d.Name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return daemon{}, fmt.Errorf("open the log of %s: %w", d.Name, err)
	}
	defer log.Close()
	if st, err := log.Stat(); err == nil {
		d.Log = st.Size()
	}
	cmd := exec.Command(d.Argv[0], d.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := ns.Do(cmd.Start); err != nil {
		return daemon{}, fmt.Errorf("start %s: %w", strings.Join(d.Argv, " "), err)
	}
	if d.Process, err = fabric.Identify(cmd.Process.Pid); err == nil {
		var data []byte
		if data, err = json.Marshal(d); err == nil {
			err = state.WriteFile(daemonFile(dir, d.Name), data, 0o600)
		}
	}
	if errors.Is(err, os.ErrProcessDone) {
		cmd.Wait()
		return daemon{}, fmt.Errorf("%s ended at once (%s); its last words:\n%s", d.Name, cmd.ProcessState, d.lastWords(dir))
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return daemon{}, fmt.Errorf("remember %s (pid %d): %w", d.Name, cmd.Process.Pid, err)
	}
	go cmd.Wait() // reap it, should it end before labctl does
	return d, nil
}

// readDaemon returns what is remembered of a daemon; fs.ErrNotExist when nothing is.
func readDaemon(dir, name string) (daemon, error) {
	data, err := os.ReadFile(daemonFile(dir, name))
	if err != nil {
		return daemon{}, err
	}
	var d daemon
	if err := json.Unmarshal(data, &d); err != nil {
		return daemon{}, fmt.Errorf("read %s: %w", daemonFile(dir, name), err)
	}
	return d, nil
}

// stop ends the daemon, first asking, and forgets it.
func (d daemon) stop(ctx context.Context, dir string, patience time.Duration) error {
	if err := d.End(ctx, patience); err != nil {
		return fmt.Errorf("end %s (pid %d): %w", d.Name, d.PID, err)
	}
	if err := os.Remove(daemonFile(dir, d.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// endAllUnder kills every process whose program lies under a folder, whether
// or not it is remembered: a labctl that was killed may have started it and
// not written it down. A program in the lab's own folder is the lab's, and so is
// what labctl exec left running in one of its nodes.
func endAllUnder(ctx context.Context, dir string) error {
	prefix := dir + string(filepath.Separator)
	return fabric.EndAll(ctx, func(pid int) bool {
		if pid == os.Getpid() {
			return false // a labctl that labctl exec runs
		}
		return strings.HasPrefix(fabric.ProgramOf(pid), prefix) || strings.HasPrefix(nodeOf(pid)+string(filepath.Separator), prefix)
	})
}

// nodeOf returns the folder of the node that a process was started in by
// labctl exec, "" for all others.
func nodeOf(pid int) string { return fabric.Environment(pid, fabric.NodeVariable) }

// endStray kills a daemon that runs and is not written down: the labctl that
// started it was killed before it could. It would hold the port of the next
// one and answer in its place. Its log was opened before it was started; where
// there is no log, nothing needs to be looked for.
func endStray(ctx context.Context, dir, name string, argv []string) error {
	if !isFile(logFile(dir, name)) {
		return nil
	}
	return fabric.EndAll(ctx, func(pid int) bool {
		// A program that was replaced since bears this suffix (proc(5)).
		if strings.TrimSuffix(fabric.ProgramOf(pid), " (deleted)") != argv[0] {
			return false
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && strings.HasPrefix(string(line), strings.Join(argv[:2], "\x00")+"\x00")
	})
}

// lastWords returns the end of what the daemon wrote since it was started.
func (d daemon) lastWords(dir string) string {
	const limit = 2000
	f, err := os.Open(logFile(dir, d.Name))
	if err != nil {
		return ""
	}
	defer f.Close()
	from := d.Log
	if st, err := f.Stat(); err == nil {
		from = max(from, st.Size()-limit)
	}
	data, _ := io.ReadAll(io.NewSectionReader(f, from, limit))
	return strings.TrimSpace(string(data))
}
