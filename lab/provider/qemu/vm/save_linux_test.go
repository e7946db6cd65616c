package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// onOverlay puts a machine's disk under a qcow2 overlay.
func onOverlay(t *testing.T, c Config) Config {
	t.Helper()
	needImages(t)
	c.Disks = []Disk{{Path: overlay(t, c.Disks[0], filepath.Join(filepath.Dir(c.Dir), "top.qcow2")), Format: "qcow2"}}
	return c
}

func overlay(t *testing.T, backing Disk, path string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing.Path, "-F", backing.Format, path).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	return path
}

// backing returns what qemu-img says an overlay lies on.
func backing(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", "info", "-U", "--output=json", path).Output()
	if err != nil {
		t.Fatalf("qemu-img info %s: %v", path, err)
	}
	var info struct {
		Backing string `json:"backing-filename"`
		Format  string `json:"backing-filename-format"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	return info.Backing + " " + info.Format
}

// stateFile makes the file that a machine is saved in.
func stateFile(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "state"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// resume is another machine that goes on from a saved one.
func resume(t *testing.T, c Config, frozen Disk, state, name string) Config {
	t.Helper()
	dir := filepath.Join(filepath.Dir(c.Dir), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	c.Disks = []Disk{{Path: overlay(t, frozen, filepath.Join(dir, "top.qcow2")), Format: "qcow2"}}
	f, err := os.Open(state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	c.Incoming = f
	return c
}

// sameMoment checks that what the guest counted in memory was on its disk too,
// each time, and that no step is missing.
func sameMoment(t *testing.T, v *VM) {
	t.Helper()
	all := counted(v)
	for i, n := range all {
		if n.memory != n.disk {
			t.Fatalf("memory says %d and the disk %d; the console:\n%s", n.memory, n.disk, v.Console(2000))
		}
		if i > 0 && n.memory != all[i-1].memory+1 {
			t.Fatalf("%d came after %d; the console:\n%s", n.memory, all[i-1].memory, v.Console(2000))
		}
	}
}

func TestASavedMachineGoesOnFromTheVeryMoment(t *testing.T) {
	t.Parallel()
	for _, folderName := range []string{"plain", "with, a comma and blanks"} {
		t.Run(folderName, func(t *testing.T) {
			t.Parallel()
			c := config(t, counts)
			c.Dir = filepath.Join(filepath.Dir(c.Dir), folderName, "be1")
			if err := os.MkdirAll(c.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c = onOverlay(t, c)
			saveAndResume(t, c)
		})
	}
}

func saveAndResume(t *testing.T, c Config) {
	v := run(t, c)
	awaitCount(t, v, 3)
	state := stateFile(t, filepath.Dir(c.Dir))
	second := filepath.Join(filepath.Dir(c.Dir), "second.qcow2")
	if err := v.Save(t.Context(), state, []Overlay{{0, second}}); err != nil {
		t.Fatal(err)
	}
	if got, err := v.State(t.Context()); got != Paused || err != nil {
		t.Fatalf("after the save: state %q, %v; want %q", got, err, Paused)
	}
	saved := last(v)
	frozen := c.Disks[0]
	before, err := os.ReadFile(frozen.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := backing(t, second), frozen.Path+" qcow2"; got != want {
		t.Errorf("the overlay lies on %q, want %q", got, want)
	}

	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, saved+5)
	sameMoment(t, v)
	// Two at once, beside the machine that was saved and goes on.
	for _, name := range []string{"again", "once more"} {
		r := run(t, resume(t, c, frozen, state.Name(), name))
		if got, err := r.State(t.Context()); got != Paused || err != nil {
			t.Fatalf("before it goes on: state %q, %v; want %q", got, err, Paused)
		}
		if n := last(r); n != -1 {
			t.Errorf("it said %d before it was let go on", n)
		}
		if err := r.Continue(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitCount(t, r, saved+3)
		if first := counted(r)[0].memory; first > saved+1 || first < saved {
			t.Errorf("it goes on at %d, and was saved at %d", first, saved)
		}
		sameMoment(t, r)
		if boots(r) != 0 {
			t.Error("it booted")
		}
	}
	after, err := os.ReadFile(frozen.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the frozen disk was written to")
	}
	awaitCount(t, v, last(v)+2)
}

func TestAMachineIsSavedAgainAndByAnotherProcess(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	awaitCount(t, v, 1)
	dir := filepath.Dir(c.Dir)
	frozen := c.Disks[0].Path
	for i := range 3 {
		v, err := Open(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(dir, fmt.Sprintf("overlay%d.qcow2", i))
		state := stateFile(t, t.TempDir())
		if err := v.Save(t.Context(), state, []Overlay{{0, next}}); err != nil {
			t.Fatal(err)
		}
		if got, want := backing(t, next), frozen+" qcow2"; got != want {
			t.Errorf("save %d: the overlay lies on %q, want %q", i, got, want)
		}
		if st, err := state.Stat(); err != nil || st.Size() == 0 {
			t.Errorf("save %d: nothing was saved (%v)", i, err)
		}
		if err := v.Continue(t.Context()); err != nil {
			t.Fatal(err)
		}
		awaitCount(t, v, last(v)+2)
		frozen = next
	}
	sameMoment(t, v)
}

func TestASaveThatCannotBeLeavesTheMachineAlone(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	dir := filepath.Dir(c.Dir)
	taken := filepath.Join(dir, "taken.qcow2")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		overlays []Overlay
		want     string
	}{
		"a writable disk has no overlay":         {nil, "the guest writes to the disks [0]"},
		"there is an overlay for no disk":        {[]Overlay{{0, filepath.Join(dir, "a")}, {1, filepath.Join(dir, "b")}}, "the disks [0 1]"},
		"two overlays for one disk":              {[]Overlay{{0, filepath.Join(dir, "a")}, {0, filepath.Join(dir, "b")}}, "the disks [0 0]"},
		"the overlay's path is relative":         {[]Overlay{{0, "a"}}, "no absolute path"},
		"something is where the overlay will be": {[]Overlay{{0, taken}}, "file already exists"},
	} {
		err := v.Save(t.Context(), stateFile(t, t.TempDir()), tt.overlays)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantError(t, err, "be1: save the virtual machine", tt.want)
		if got, err := v.State(t.Context()); got != Running || err != nil {
			t.Errorf("%s: state %q, %v; want %q", name, got, err, Running)
		}
	}
	if data, err := os.ReadFile(taken); err != nil || string(data) != "precious" {
		t.Errorf("what was in the way was changed: %q, %v", data, err)
	}
}

func TestAMachineThatEndedIsNotSaved(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, leaves))
	awaitState(t, v, Shutdown)
	second := filepath.Join(filepath.Dir(v.dir), "second.qcow2")
	err := v.Save(t.Context(), stateFile(t, t.TempDir()), []Overlay{{0, second}})
	wantError(t, err, "be1: save the virtual machine", "it is shutdown")
	if _, err := os.Stat(second); !os.IsNotExist(err) {
		t.Errorf("an overlay was made: %v", err)
	}
}

func TestAMachineGoesOnAfterASaveThatFailed(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	awaitCount(t, v, 1)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	err = v.Save(t.Context(), full, []Overlay{{0, filepath.Join(filepath.Dir(c.Dir), "second.qcow2")}})
	wantError(t, err, "be1: save the virtual machine", "write the state: failed", "is the disk full?")
	if got, err := v.State(t.Context()); got != Paused || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Paused)
	}
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, last(v)+3)
	sameMoment(t, v)
}

func TestASaveThatIsInterruptedEnds(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	awaitCount(t, v, 1)
	// Nobody reads the pipe: the migration cannot get on.
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	second := filepath.Join(filepath.Dir(c.Dir), "second.qcow2")
	go func() {
		_, err := reader.Read(make([]byte, 1)) // it has begun
		cancel(errors.Join(errors.New("interrupted"), err))
	}()
	defer cancel(nil)
	err = v.Save(ctx, writer, []Overlay{{0, second}})
	wantError(t, err, "be1: save the virtual machine", "interrupted")
	if status := migration(t, v); !strings.HasPrefix(status, "cancel") {
		t.Errorf("QEMU still saves: %q", status)
	}
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, last(v)+3)
	sameMoment(t, v)
}

// migration returns what QEMU says of its migration.
func migration(t *testing.T, v *VM) string {
	t.Helper()
	var answer struct {
		Status string `json:"status"`
	}
	err := v.talk(t.Context(), "look", func(ctx context.Context, m *monitor) error {
		return m.execute(ctx, "query-migrate", nil, &answer)
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status
}

func TestAStateThatIsDamagedIsRefusedInQEMUsWords(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	state := stateFile(t, filepath.Dir(c.Dir))
	if _, err := state.WriteString("no state at all, but long enough to be looked at"); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), resume(t, c, c.Disks[0], state.Name(), "again"))
	wantError(t, err, "be1: start the virtual machine", "QEMU has ended", "QEMU said:", "load of migration failed")
}

func TestAStateIsRefusedByAMachineWithOtherMemory(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	state := stateFile(t, filepath.Dir(c.Dir))
	if err := v.Save(t.Context(), state, []Overlay{{0, filepath.Join(filepath.Dir(c.Dir), "second.qcow2")}}); err != nil {
		t.Fatal(err)
	}
	other := resume(t, c, c.Disks[0], state.Name(), "again")
	other.MemoryMB *= 2
	_, err := Start(t.Context(), other)
	wantError(t, err, "QEMU said:", "pc.ram")
	if _, err := Open(other.Dir); !os.IsNotExist(err) {
		t.Errorf("a machine that did not start is recorded: %v", err)
	}
}

func TestFrozenDisksStayAsTheyAreWhileTheGuestRunsOn(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	v := run(t, c)
	awaitCount(t, v, 3)
	second := filepath.Join(filepath.Dir(c.Dir), "second.qcow2")
	wantError(t, v.Freeze(t.Context(), nil), "there are overlays for the disks []")
	if err := v.Freeze(t.Context(), []Overlay{{0, second}}); err != nil {
		t.Fatal(err)
	}
	frozen, err := os.ReadFile(c.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := backing(t, second), c.Disks[0].Path+" qcow2"; got != want {
		t.Errorf("the overlay lies on %q, want %q", got, want)
	}
	awaitCount(t, v, last(v)+3)
	sameMoment(t, v)
	if now, err := os.ReadFile(c.Disks[0].Path); err != nil || !bytes.Equal(now, frozen) {
		t.Errorf("what was frozen has changed, %v", err)
	}
}
