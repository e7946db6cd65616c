package fabric_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
)

// sleeper starts a process whose name would mislead who splits /proc/PID/stat
// at blanks or at the first bracket.
func sleeper(t *testing.T) (*exec.Cmd, fabric.Process) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "a) Z 1 (b")
	if err := os.Symlink(sleep, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := fabric.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestAProcessIsKnownByMoreThanItsPid(t *testing.T) {
	_, p := sleeper(t)
	if !p.Alive() {
		t.Fatal("it runs and is not alive")
	}
	later, rebooted := p, p
	later.Start++
	rebooted.Boot = "another boot"
	for name, other := range map[string]fabric.Process{"one that got the pid later": later, "one of another boot": rebooted, "none": {}} {
		if other.Alive() {
			t.Errorf("%s counts as the process", name)
		}
		if err := other.End(t.Context(), 0); err != nil {
			t.Errorf("end %s: %v", name, err)
		}
	}
	if !p.Alive() {
		t.Fatal("a process with the pid of a recorded one was killed")
	}
}

func TestAProcessIsEnded(t *testing.T) {
	cmd, p := sleeper(t)
	if err := p.End(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("it is alive after its end, not yet waited for")
	}
	if _, err := fabric.Identify(p.PID); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a zombie was identified: %v", err)
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }); status.Signal() != unix.SIGTERM {
		t.Errorf("it ended by %v: it was not asked first", status.Signal())
	}
	if _, err := fabric.Identify(p.PID); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a process that is gone: %v", err)
	}
	if err := p.End(t.Context(), 0); err != nil {
		t.Errorf("end it again: %v", err)
	}
}
