package netns

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
)

// sleeper is a daemon that the tests start: sleep under the node's folder.
func sleeper(t *testing.T, d provider.Driver, pl provider.Lab) (daemon, nsGuest) {
	t.Helper()
	g := machine(t, d, pl, "be1").Guest.(nsGuest)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Push(t.Context(), guest.File{Path: "sleep", Source: sleep, Executable: true}); err != nil {
		t.Fatal(err)
	}
	var started daemon
	err = g.enter(func(ns fabric.Namespace) (err error) {
		started, err = startDaemon(ns, g.dir, daemon{Name: "web", Spec: "spec", Argv: []string{filepath.Join(g.dir, "sleep"), "1000"}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return started, g
}

func TestDaemonIsKnownByMoreThanItsPid(t *testing.T) {
	d, pl := newLab(t, "tndaemon")
	bringUp(t, d, pl)
	started, g := sleeper(t, d, pl)
	if again, err := readDaemon(g.dir, "web"); err != nil || !again.Alive() {
		t.Fatalf("read back: %+v, %v", again, err)
	}
	other := started
	other.Start++
	if other.Alive() {
		t.Error("a process with another start time counts as the daemon")
	}
	if err := other.stop(t.Context(), g.dir, time.Second); err != nil {
		t.Error(err)
	}
	if !started.Alive() {
		t.Fatal("a process that got the pid later was killed")
	}
	rebooted := started
	rebooted.Boot = "another boot"
	if rebooted.Alive() {
		t.Error("a process of another boot counts as the daemon")
	}
	if err := started.stop(t.Context(), g.dir, time.Second); err != nil {
		t.Error(err)
	}
	if started.Alive() {
		t.Error("still alive after stop")
	}
}

func TestDestroyEndsDaemonsThatNobodyRemembers(t *testing.T) {
	d, pl := newLab(t, "tnorphan")
	bringUp(t, d, pl)
	started, g := sleeper(t, d, pl)
	if err := os.Remove(daemonFile(g.dir, "web")); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	if started.Alive() {
		t.Error("the daemon outlived its lab")
	}
	if _, err := os.Stat(filepath.Join(pinsOf(pl), "anything")); !errors.Is(err, fs.ErrNotExist) || isBPFFS(pinsOf(pl)) {
		t.Error("the bpf file system is still mounted")
	}
}

func TestDaemonThatEndsAtOnceIsReportedWithItsLastWords(t *testing.T) {
	d, pl := newLab(t, "tnwords")
	bringUp(t, d, pl)
	s := machine(t, d, pl, "be1").System.(system)
	argv := []string{"/bin/sh", "-c", "echo no port for me; exit 3"}
	err := s.ensureDaemon(t.Context(), daemon{Name: "web", Spec: "spec", Argv: argv, At: "tcp 20.1.1.10:80"})
	if err == nil || !strings.Contains(err.Error(), "no port for me") || !strings.Contains(err.Error(), "be1") {
		t.Errorf("got %v", err)
	}
}
