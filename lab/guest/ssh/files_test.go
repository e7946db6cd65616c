//go:build linux

package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/guest"
)

// sample is a file of some size and its hash.
func sample(t *testing.T, size int) (path, hash string, content []byte) {
	t.Helper()
	content = make([]byte, size)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "sample")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return path, hex.EncodeToString(sum[:]), content
}

func TestPushBringsAFileAndLeavesItWhenItIsThere(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	var last, calls int64
	c.Progress = func(_ guest.File, done, total int64) { calls++; last = done - total }
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	path, hash, content := sample(t, 3<<20+17)
	to := filepath.Join(c.Folder, "sub", "it's a $file")
	f := guest.File{Path: "sub/it's a $file", Source: path, Hash: hash, Executable: true}
	if err := g.Push(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("arrived: %d bytes, %v", len(got), err)
	}
	before, err := os.Stat(to)
	if err != nil || before.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v; want 0755", before.Mode(), err)
	}
	if calls == 0 || last != 0 {
		t.Errorf("progress was told %d times, the last time %d bytes before the end", calls, -last)
	}
	calls = 0
	if err := g.Push(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(to)
	if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) || calls != 0 {
		t.Errorf("an unchanged file was sent again: %v, %d calls", err, calls)
	}
	entries, _ := os.ReadDir(filepath.Dir(to))
	if len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
}

func TestPushReplacesWhatRuns(t *testing.T) {
	g, s := connected(t)
	program := filepath.Join(s.dir, "node", "sleeper")
	if err := g.Push(t.Context(), guest.File{Path: "sleeper", Source: "/bin/sleep", Executable: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	out, found := lines()
	go func() {
		done <- g.Run(ctx, guest.Command{Argv: []string{"sh", "-c", "echo ready; exec " + program + " 1000"}, Stdout: out})
	}()
	<-found
	path, _, content := sample(t, 1000)
	if err := g.Push(t.Context(), guest.File{Path: "sleeper", Source: path}); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(program); err != nil || !bytes.Equal(got, content) {
		t.Errorf("there is %d bytes, %v", len(got), err)
	}
	cancel()
	<-done
}

func TestPushGoesOnWithABrokenUpload(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	var first int64 = -1
	c.Progress = func(_ guest.File, done, _ int64) {
		if first < 0 {
			first = done
		}
	}
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	path, hash, content := sample(t, 6<<20)
	to := filepath.Join(c.Folder, "agent")
	if err := os.MkdirAll(c.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	old := to + partInfix + "0000000000000000"
	for name, data := range map[string][]byte{to + partInfix + hash[:16]: content[:5<<20], old: []byte("of another file")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Push(t.Context(), guest.File{Path: "agent", Source: path}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
		t.Errorf("arrived: %d bytes, %v", len(got), err)
	}
	if first < 5<<20-rewind {
		t.Errorf("it began at %d of the 5 MiB that were there", first)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another content's upload is still there: %v", err)
	}
}

func TestPushDoesNotTrustABrokenUpload(t *testing.T) {
	g, s := connected(t)
	path, hash, content := sample(t, 4<<20)
	to := filepath.Join(s.dir, "node", "agent")
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(content)
	damaged[100]++
	if err := os.WriteFile(to+partInfix+hash[:16], append(damaged, "and more"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Push(t.Context(), guest.File{Path: "agent", Source: path}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
		t.Errorf("arrived: %d bytes, %v", len(got), err)
	}
}

func TestPushRefusesASourceThatChanged(t *testing.T) {
	g, s := connected(t)
	path, _, _ := sample(t, 1000)
	err := g.Push(t.Context(), guest.File{Path: "agent", Source: path, Hash: strings.Repeat("0", 64)})
	if err == nil || !strings.Contains(err.Error(), "be3") || !strings.Contains(err.Error(), path) {
		t.Errorf("Push = %v, want an error with node and file", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "node", "agent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was pushed: %v", err)
	}
}

func TestACancelledPushEnds(t *testing.T) {
	s := newServer(t)
	c := s.config(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	c.Progress = func(guest.File, int64, int64) { cancel(cause) }
	g, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	path, _, _ := sample(t, 20<<20)
	if err := g.Push(ctx, guest.File{Path: "agent", Source: path}); !errors.Is(err, cause) {
		t.Errorf("Push = %v, want the cause", err)
	}
	if _, err := os.Stat(filepath.Join(c.Folder, "agent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file stands in its place: %v", err)
	}
}

func TestPullReadsAFile(t *testing.T) {
	g, s := connected(t)
	want := strings.Repeat("line\n", 100000)
	if err := os.WriteFile(filepath.Join(s.dir, "log"), []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := g.Pull(t.Context(), filepath.Join(s.dir, "log")) // absolute: the guest is a machine of its own
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if closeErr := r.Close(); err != nil || closeErr != nil || string(got) != want {
		t.Errorf("read %d bytes, %v, %v", len(got), err, closeErr)
	}
	if _, err := g.Pull(t.Context(), "no-such-file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Pull of nothing = %v, want ErrNotExist", err)
	}
	if _, err := g.Pull(t.Context(), "../log"); !errors.Is(err, guest.ErrOutside) {
		t.Errorf("Pull from beside the folder = %v, want ErrOutside", err)
	}
	if err := g.Push(t.Context(), guest.File{Path: "a/../../x", Source: "/bin/true"}); !errors.Is(err, guest.ErrOutside) {
		t.Errorf("Push beside the folder = %v, want ErrOutside", err)
	}
}
