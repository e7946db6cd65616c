package image

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/topology"
)

// stored places a finished image in a store without building it.
func stored(t *testing.T, s Store, name, hash string) Image {
	t.Helper()
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	work, err := s.workFolder(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(work, diskFile), "1M"); err != nil {
		t.Fatal(err)
	}
	i, err := s.publish(work, Image{Name: name, Recipe: strings.Repeat(hash, 64), OS: topology.Linux, Kernel: kernelFile, FirstBoot: L4Lab})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestStoreKeepsWhatIsPublished(t *testing.T) {
	s := Store{t.TempDir()}
	i := stored(t, s, "debian", "a")
	got, err := s.Get("debian")
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(s.Dir, "debian-aaaaaaaaaaaa")
	if got.ID != i.ID || got.Disk != filepath.Join(want, diskFile) || got.Kernel != filepath.Join(want, kernelFile) || got.Initrd != "" {
		t.Errorf("got %+v", got)
	}
	sum, err := hashFile(got.Disk)
	if err != nil || sum != got.SHA256 {
		t.Errorf("checksum %s, want %s, %v", got.SHA256, sum, err)
	}
	if info, err := os.Stat(got.Disk); err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("the disk's mode is %v, %v", info.Mode(), err)
	}
}

func TestNewestImageOfANameIsGot(t *testing.T) {
	s := Store{t.TempDir()}
	stored(t, s, "debian", "b")
	newer := stored(t, s, "debian", "a")
	// A second's resolution would leave the two alike.
	newer.Created = newer.Created.Add(time.Hour)
	data, err := json.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := place(filepath.Join(s.Dir, newer.ID, recordFile), data, 0o444); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"debian": newer.ID, "debian-bbbbbbbbbbbb": "debian-bbbbbbbbbbbb"} {
		if got, err := s.Get(name); err != nil || got.ID != want {
			t.Errorf("%s: got %s, %v, want %s", name, got.ID, err, want)
		}
	}
}

func TestHalfMadeAndForeignFoldersAreNoImages(t *testing.T) {
	s := Store{t.TempDir()}
	for _, dir := range []string{".new-debian-1", "lost+found"} {
		if err := os.Mkdir(filepath.Join(s.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("got %v, %v", images, err)
	}
	_, err := s.Get("debian")
	var missing *NotFoundError
	if !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "labctl image build") {
		t.Errorf("got %v", err)
	}
	stored(t, s, "debian", "a")
	if _, err := os.Stat(filepath.Join(s.Dir, ".new-debian-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed labctl left is still there: %v", err)
	}
}

func TestStoreOfAnotherFolderThatIsMissing(t *testing.T) {
	t.Setenv(EnvDir, filepath.Join(t.TempDir(), "none"))
	s, err := DefaultStore()
	if err != nil {
		t.Fatal(err)
	}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("got %v, %v", images, err)
	}
}

func TestImageIsInUseWhileAnOverlayRestsOnIt(t *testing.T) {
	s := Store{t.TempDir()}
	i := stored(t, s, "debian", "a")
	disk := filepath.Join(t.TempDir(), "be1.qcow2")
	if err := Overlay(t.Context(), disk, i.Disk); err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), "qemu-img", "info", "--output=json", disk)
	if err != nil || !strings.Contains(out, i.Disk) {
		t.Errorf("the overlay is %s, %v", out, err)
	}
	err = s.Remove(t.Context(), "debian")
	var used *InUseError
	if !errors.As(err, &used) || len(used.Overlays) != 1 || used.Overlays[0] != disk {
		t.Fatalf("removal: %v", err)
	}
	if err := os.Remove(disk); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "debian"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("debian"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
}

func TestOverlayOfAnOverlay(t *testing.T) {
	s := Store{t.TempDir()}
	i := stored(t, s, "debian", "a")
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1.qcow2"), filepath.Join(dir, "2.qcow2")
	if err := Overlay(t.Context(), first, i.Disk); err != nil {
		t.Fatal(err)
	}
	if err := Overlay(t.Context(), second, first); err != nil {
		t.Fatal(err)
	}
	if users, err := overlays(filepath.Dir(i.Disk)); err != nil || len(users) != 1 {
		t.Errorf("users %v, %v", users, err)
	}
}

func TestLockIsWaitedForUntilTheContextEnds(t *testing.T) {
	s := Store{t.TempDir()}
	release, err := s.lock(t.Context(), "debian")
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("not today")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*lockPoll, cause)
	defer cancel()
	if _, err := s.lock(ctx, "debian"); !errors.Is(err, cause) {
		t.Errorf("a held lock: %v", err)
	}
	other, err := s.lock(t.Context(), "ubuntu")
	if err != nil {
		t.Fatal(err)
	}
	other()
	got := make(chan error)
	go func() {
		again, err := s.lock(t.Context(), "debian")
		if err == nil {
			again()
		}
		got <- err
	}()
	release()
	if err := <-got; err != nil {
		t.Errorf("a lock that was given back: %v", err)
	}
}
