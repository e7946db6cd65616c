//go:build unix

package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestSocketIsPrivateAndGoesWithItsListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode is %o, want 600", mode)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSocketIsOpenToItsGroup(t *testing.T) {
	own := os.Getgid()
	wanted := own
	if os.Geteuid() == 0 {
		wanted = 12345 // root may give it to any
	}
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := ListenGroup(path, fmt.Sprint(wanted))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode, gid := info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid; mode != 0o660 || gid != uint32(wanted) {
		t.Errorf("mode %o of group %d, want 660 of %d", mode, gid, wanted)
	}
}

func TestSocketGroupIsFoundByNameOrRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	if _, err := ListenGroup(path, "no-such-group-here"); !errors.Is(err, ErrNoGroup) {
		t.Errorf("got %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	own, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Skipf("this user's group has no name: %v", err)
	}
	l, err := ListenGroup(path, own.Name)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestListenRefusesWhileAnotherAgentListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Listen(path)
	if !errors.Is(err, ErrAgentRunning) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("got %v, want ErrAgentRunning with the pid", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the first agent's socket is gone: %v", err)
	}
}

func TestListenRefusesASocketOfAnotherProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Listen(path); !errors.Is(err, ErrAgentRunning) {
		t.Errorf("got %v, want ErrAgentRunning", err)
	}
}

func TestListenReplacesTheSocketOfADeadAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	if err := os.WriteFile(path+".lock", []byte("12345\n"), 0o600); err != nil { // what kill -9 leaves
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestListenLeavesAFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("got %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "mine" {
		t.Errorf("the file now holds %q", text)
	}
	if _, err := os.Stat(path + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock file stayed: %v", err)
	}
}

func TestListenSaysThatAPathIsTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "shorter --socket") {
		t.Errorf("got %v", err)
	}
}

func TestOfManyThatStartAtOnceOneListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = dead.Close()
	const agents = 16
	listeners := make([]net.Listener, agents)
	var all sync.WaitGroup
	for i := range agents {
		all.Go(func() {
			l, err := Listen(path)
			if err != nil && !errors.Is(err, ErrAgentRunning) {
				t.Errorf("got %v", err)
			}
			listeners[i] = l
		})
	}
	all.Wait()
	listening := 0
	for _, l := range listeners {
		if l != nil {
			listening++
			defer l.Close()
		}
	}
	if listening != 1 {
		t.Errorf("%d listen", listening)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("nobody answers: %v", err)
	}
	_ = conn.Close()
}
