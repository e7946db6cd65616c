//go:build linux

package ssh

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"l4lab/lab/guest"
)

// scripted runs the scripts of an upload as a guest's shell would, and returns
// what they print.
func scripted(t *testing.T, path, to, part, hash string) (string, error) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", argumentsScript+lookScript+receiveScript+finishScript, "push", to, part, hash, "1", "644", partInfix)
	cmd.Env = []string{"PATH=" + path}
	out, err := cmd.Output()
	return string(out), err
}

// programs is a folder with these programs of this machine, and no others.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		p, err := exec.LookPath(name)
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(p, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAGuestWithoutGzipAsksForSFTP(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "sub", "agent")
	path := programs(t, "wc", "sha256sum", "mkdir", "rm")
	out, err := scripted(t, path, to, to+partInfix+"0", "0")
	if err != nil || out != takesSFTP+" 0\n" {
		t.Errorf("it says %q, %v", out, err)
	}
}

func TestPushBySFTPGoesOnAndPutsTheFileInItsPlace(t *testing.T) {
	g, s := connected(t)
	path, hash, content := sample(t, 5<<20)
	to := filepath.Join(s.dir, "agent")
	source, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	u := upload{guest: g, file: guest.File{Source: path, Executable: true}, source: source, size: int64(len(content)), hash: hash, to: to, part: to + partInfix + hash[:16]}
	if err := os.WriteFile(u.part, content[:4<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	if outcome, err := u.sftp(t.Context()); err != nil || outcome != isThere {
		t.Fatalf("outcome %q, %v", outcome, err)
	}
	got, err := os.ReadFile(to)
	st, statErr := os.Stat(to)
	if err != nil || statErr != nil || !bytes.Equal(got, content) || st.Mode().Perm() != 0o755 {
		t.Errorf("arrived: %d bytes, %v, %v", len(got), err, statErr)
	}
}

func TestPushSaysThatTheGuestsDiskIsFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	g, s := connected(t)
	small := filepath.Join(s.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a tmpfs here:", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	path, _, _ := sample(t, 4<<20)
	err := g.Push(t.Context(), guest.File{Path: filepath.Join(small, "agent"), Source: path})
	if err == nil || !strings.Contains(err.Error(), "be3") || !strings.Contains(err.Error(), "no space left on the guest's disk") {
		t.Errorf("Push = %v, want that the disk is full", err)
	}
	if left, _ := os.ReadDir(small); len(left) != 0 {
		t.Errorf("the full disk still holds %v", left)
	}
}

func TestPushFindsASourceThatChangesMeanwhile(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	path, _, content := sample(t, 4<<20)
	done := false
	c.Progress = func(guest.File, int64, int64) {
		if done {
			return
		}
		done = true
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{content[3<<20] + 1}, 3<<20); err != nil {
			t.Error(err)
		}
	}
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Push(t.Context(), guest.File{Path: "agent", Source: path}); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("Push = %v, want that the source changed", err)
	}
	if _, err := os.Stat(filepath.Join(c.Folder, "agent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it stands in its place: %v", err)
	}
}

func TestPushRefusesAFoldersPlace(t *testing.T) {
	g, s := connected(t)
	if err := os.MkdirAll(filepath.Join(s.dir, "node", "agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, _, _ := sample(t, 10)
	if err := g.Push(t.Context(), guest.File{Path: "agent", Source: path}); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("Push = %v, want that a folder is there", err)
	}
}
