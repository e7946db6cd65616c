package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
)

func TestAMachineRunsPausesAndGoesOn(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	awaitCount(t, v, 2)
	if got, err := v.State(t.Context()); got != Running || err != nil {
		t.Fatalf("state %q, %v; want %q", got, err, Running)
	}
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := v.State(t.Context()); got != Paused || err != nil {
		t.Fatalf("state %q, %v; want %q", got, err, Paused)
	}
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, last(v)+3)
}

func TestAMachineOutlivesWhatStartedItAndIsFoundAgain(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	c.Environment = []string{"L4LAB_TEST_MARK=" + c.Dir}
	v := run(t, c)
	awaitCount(t, v, 1)
	again, err := Open(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.PID() != v.PID() || !again.Alive() {
		t.Fatalf("found pid %d, alive %v; want %d", again.PID(), again.Alive(), v.PID())
	}
	if got, err := again.State(t.Context()); got != Running || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Running)
	}
	for _, pid := range []int{v.PID(), v.record.Keeper.PID} {
		if mark := fabric.Environment(pid, "L4LAB_TEST_MARK"); mark != c.Dir {
			t.Errorf("process %d bears the mark %q, want %q", pid, mark, c.Dir)
		}
		if session, err := unix.Getsid(pid); err != nil || session != pid {
			t.Errorf("process %d is in the session %d (%v): a terminal's end would be its own", pid, session, err)
		}
	}
	for path, want := range map[string]fs.FileMode{c.Dir: fs.ModeDir | 0o700, socketFile(c.Dir): fs.ModeSocket | 0o600} {
		if st, err := os.Lstat(path); err != nil || st.Mode() != want {
			t.Errorf("%s has the mode %v (%v), want %v", path, st.Mode(), err, want)
		}
	}
	_, err = Start(t.Context(), c)
	wantError(t, err, "be1: start the virtual machine", "it runs already")

	if err := again.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end the machine is still recorded: %v", err)
	}
	if _, err := os.Lstat(socketFile(c.Dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is still there: %v", err)
	}
	if v.Alive() || v.record.Keeper.Alive() {
		t.Error("its processes are still there")
	}
	if got, err := v.State(t.Context()); got != Gone || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Gone)
	}
	if err := v.End(t.Context(), time.Minute); err != nil {
		t.Errorf("end it again: %v", err)
	}
}

func TestAGuestThatRebootsComesBack(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, reboots))
	awaitCount(t, v, 10)
	if n := boots(v); n != 2 {
		t.Errorf("it booted %d times, want 2", n)
	}
}

func TestAGuestThatPanicsIsSeenAndCanBeReset(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, panics))
	awaitState(t, v, Panicked)
	eventually(t, "its last count is on the console", func() bool { return last(v) == 7 })
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, 9)
	if n := boots(v); n != 2 {
		t.Errorf("it booted %d times, want 2", n)
	}
}

func TestAResetLeavesAPausedMachinePaused(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	awaitCount(t, v, 1)
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := v.State(t.Context()); got != Paused || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Paused)
	}
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it boots", func() bool { return boots(v) == 2 })
}

func TestAGuestThatSwitchesItselfOffIsSeen(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, leaves))
	awaitState(t, v, Shutdown)
	if !v.Alive() {
		t.Error("QEMU went with it")
	}
}

func TestThePowerButtonIsTheGuests(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	awaitCount(t, v, 1)
	if err := v.PowerDown(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitState(t, v, Shutdown)
	eventually(t, "the guest said so", func() bool { return strings.HasSuffix(v.Console(100), "\nO") })
}

func TestEndWaitsForAGuestThatShutsDown(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	awaitCount(t, v, 1)
	begin := time.Now()
	if err := v.End(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s: the guest's end was not seen", took)
	}
	if console := v.Console(100); !strings.HasSuffix(console, "\nO") {
		t.Errorf("the guest was not asked; its console:\n%s", console)
	}
}

func TestEndEndsAGuestThatIgnoresTheButton(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, ignores))
	awaitCount(t, v, 1)
	const patience = 500 * time.Millisecond
	begin := time.Now()
	if err := v.End(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < patience {
		t.Errorf("it took %s: less than the patience of %s", took, patience)
	}
	if v.Alive() {
		t.Error("it is still alive")
	}
}

func TestEndHasNoPatienceWithAPausedGuest(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	if err := v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := v.End(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %s: a paused guest cannot shut down", took)
	}
}

func TestEndEndsAQEMUThatHangs(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	if err := unix.Kill(v.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("the test's time is up"))
	defer cancel()
	if got, err := v.State(short); err == nil {
		t.Errorf("a QEMU that hangs is %q", got)
	} else {
		wantError(t, err, "be1", "the test's time is up")
	}
	if err := v.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if v.Alive() {
		t.Error("it is still alive")
	}
}

func TestEndGivesUpWithItsContextAndKeepsTheRecord(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	v := run(t, c)
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	wantError(t, v.End(ended, time.Minute), "be1: end the virtual machine", "interrupted")
	if _, err := Open(c.Dir); err != nil || !v.Alive() {
		t.Errorf("alive %v, record: %v", v.Alive(), err)
	}
}

func TestAQEMUThatIsKilledIsGoneAndItsConsoleStays(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	v := run(t, c)
	awaitCount(t, v, 3)
	if err := unix.Kill(v.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitState(t, v, Gone)
	again, err := Open(c.Dir)
	if err != nil || again.Alive() {
		t.Fatalf("open: alive %v, %v", again.Alive(), err)
	}
	if n := last(again); n < 3 {
		t.Errorf("the console ends at %d, and the guest had said 3:\n%s", n, again.Console(1000))
	}
	wantError(t, again.Pause(t.Context()), "be1: pause the virtual machine", "QEMU has ended")
	eventually(t, "the console's keeper ends with QEMU", func() bool { return !v.record.Keeper.Alive() })
	if _, err := os.Stat(filepath.Join(c.Dir, "console.log")); err != nil {
		t.Error(err)
	}
	if err := again.End(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

func TestAMachineThatEndedIsStartedAgain(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	v := run(t, c)
	awaitCount(t, v, 3)
	if err := unix.Kill(v.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitState(t, v, Gone)
	again := run(t, c)
	awaitCount(t, again, 4)
	if first := counted(again)[0]; first.memory < 3 {
		t.Errorf("its disk was not the same, or its console an old one: it began at %d", first.memory)
	}
}

func TestTwoMachinesSideBySide(t *testing.T) {
	t.Parallel()
	one, other := run(t, config(t, counts)), run(t, config(t, panics))
	awaitState(t, other, Panicked)
	awaitCount(t, one, 9)
	if err := other.End(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, one, last(one)+2)
}

// stranger is a process that is not the machine's and has its pid.
func stranger(t *testing.T) fabric.Process {
	t.Helper()
	p, err := fabric.Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p.Start--
	return p
}

func TestAPidThatAnotherProcessHasIsNotTheMachine(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	old := record{Name: "be1", QEMU: stranger(t), Keeper: stranger(t)}
	if err := old.write(dir); err != nil {
		t.Fatal(err)
	}
	v, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if v.Alive() {
		t.Error("the test itself counts as the machine")
	}
	if got, err := v.State(t.Context()); got != Gone || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Gone)
	}
	if err := v.End(t.Context(), time.Minute); err != nil { // would end this very process
		t.Error(err)
	}
}

func TestOpenOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(recordFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir)
	wantError(t, err, "vm.json")
}
