package state_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"l4lab/lab/state"
)

// holderRoot is the environment variable that makes this test binary a second
// process: it locks lab l4lb of the store named there, says so, and holds the
// lock until its stdin ends.
const holderRoot = "STATE_TEST_HOLD_LOCK"

func TestMain(m *testing.M) {
	if root := os.Getenv(holderRoot); root != "" {
		os.Exit(hold(root))
	}
	os.Exit(m.Run())
}

func hold(root string) int {
	lock, err := state.NewStore(root).Lock(context.Background(), "l4lb")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := lock.Release(); err != nil {
		return 1
	}
	return 0
}

type holder struct {
	*exec.Cmd
	stdin io.Closer
}

// otherProcess starts a second process that has the lock when this returns.
func otherProcess(t *testing.T, root string) holder {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderRoot+"="+root)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	return holder{cmd, stdin}
}

func TestLockThatAnotherProcessHolds(t *testing.T) {
	root := t.TempDir()
	store := state.NewStore(root)
	other := otherProcess(t, root)
	_, err := store.Lock(t.Context(), "l4lb")
	var locked *state.LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("error %v, want a *LockedError", err)
	}
	if locked.Lab != "l4lb" || locked.PID != other.Process.Pid {
		t.Errorf("locked %q by %d, want l4lb by %d", locked.Lab, locked.PID, other.Process.Pid)
	}
	if want := fmt.Sprintf("process %d", other.Process.Pid); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
	free, err := store.Lock(t.Context(), "other")
	if err != nil {
		t.Fatalf("another lab's lock: %v", err)
	}
	if err := free.Release(); err != nil {
		t.Error(err)
	}
}

func TestLockIsFreeOnceItsHolderEnds(t *testing.T) {
	cases := []struct {
		name string
		end  func(h holder) error
	}{
		{"by giving it back", func(h holder) error { return h.stdin.Close() }},
		{"by being killed", func(h holder) error { return h.Process.Kill() }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			other := otherProcess(t, root)
			if err := c.end(other); err != nil {
				t.Fatal(err)
			}
			_ = other.Wait() // a killed process has an error to tell
			lock, err := state.NewStore(root).Lock(t.Context(), "l4lb")
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
			data, err := os.ReadFile(root + "/l4lb/lock")
			if want := fmt.Sprintln(os.Getpid()); err != nil || string(data) != want {
				t.Errorf("the lock file says %q, %v; want %q", data, err, want)
			}
		})
	}
}

func TestLockAfterTheFolderWasRemoved(t *testing.T) {
	store := state.NewStore(t.TempDir())
	first, err := store.Lock(t.Context(), "l4lb")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release()
	if err := os.RemoveAll(store.Dir("l4lb")); err != nil { // what down does at its end
		t.Fatal(err)
	}
	second, err := store.Lock(t.Context(), "l4lb")
	if err != nil {
		t.Fatalf("the removed lab's lock still counts: %v", err)
	}
	defer second.Release()
	var locked *state.LockedError
	if _, err := store.Lock(t.Context(), "l4lb"); !errors.As(err, &locked) {
		t.Errorf("a third lock: error %v, want a *LockedError", err)
	}
}

func TestLockFileWithoutAPid(t *testing.T) {
	store := state.NewStore(t.TempDir())
	lock, err := store.Lock(t.Context(), "l4lb")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if err := os.WriteFile(store.Dir("l4lb")+"/lock", []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = store.Lock(t.Context(), "l4lb")
	var locked *state.LockedError
	if !errors.As(err, &locked) || locked.PID != 0 || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v, want one about another process", err)
	}
}

func TestLockWithAnEndedContextMakesNothing(t *testing.T) {
	store := state.NewStore(t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("not today")
	cancel(cause)
	if _, err := store.Lock(ctx, "l4lb"); !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
	if _, err := os.Stat(store.Dir("l4lb")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}
