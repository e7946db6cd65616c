package e2e

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestWhatAPartLeftIsTakenAwayAndNothingElse(t *testing.T) {
	needRoot(t)
	p := part{
		Config: Config{Provider: netnsName}, Bin: t.TempDir(), State: filepath.Join(shortTemp(t), "s1"),
		Tag: strings.ToLower(rand.Text()[:4]),
	}
	s := &suite{config: p.Config, state: p.State, tag: p.Tag}
	lab, other := s.name("left"), "e2x"+p.Tag+"left"
	for _, name := range []string{lab + "-switch", other + "-switch"} {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
	}
	dir := filepath.Join(p.State, lab, "bpf")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	daemon := filepath.Join(p.State, lab, "daemon")
	if err := os.WriteFile(daemon, program, 0o700); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(daemon, "1000")
	running.Args[0] = "sleep" // where one program is many, it goes by its name
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Process.Kill() })

	// There is no labctl: that is told, and all is removed the same.
	if err := p.takeAway(); err == nil || !strings.Contains(err.Error(), lab) {
		t.Errorf("error %v, want one that names %s", err, lab)
	}
	if err := running.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the daemon ended with %v", err)
	}
	if points, err := mountPoints(p.State + "/"); err != nil || len(points) > 0 {
		t.Errorf("mounted is %v (%v)", points, err)
	}
	if left := s.namespaces(""); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
	if _, err := os.Stat(filepath.Join(runNetns, other+"-switch")); err != nil {
		t.Errorf("another's namespace: %v", err)
	}
}
