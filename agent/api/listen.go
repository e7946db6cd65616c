//go:build unix

package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// probeTimeout bounds the question whether somebody answers on an old socket.
const probeTimeout = time.Second

// nobody is no group.
const nobody = -1

// Listen returns a listener on the unix socket path that only this user can
// open. A socket that a dead agent left is replaced; a live one is
// ErrAgentRunning, with its pid. Closing the listener removes the socket.
//
// Who holds the lock on path + ".lock" is the one agent of that socket, so two
// that start at once cannot both find the old socket stale.
func Listen(path string) (net.Listener, error) { return ListenGroup(path, "") }

// ListenGroup is Listen for a socket that a group's members, by name or number, may
// open as well; "" is no group. To give it away the process must be a member, or have CAP_CHOWN.
func ListenGroup(path, group string) (net.Listener, error) {
	gid, err := findGroup(group)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	lock, err := lockFile(path + ".lock")
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("the directory %s is not there: make it or choose another --socket", filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), lock.release())
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), lock.release())
	}
	if err := giveTo(path, gid); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: let in the group %s: %w", path, group, err), l.Close(), lock.release())
	}
	return &listener{Listener: l, lock: lock}, nil
}

type listener struct {
	net.Listener
	lock *fileLock
}

func (l *listener) Close() error { return errors.Join(l.Listener.Close(), l.lock.release()) }

// removeStale removes a socket on which nobody listens. Anything else there is left alone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isSocket(info) {
		return fmt.Errorf("a %s is there already: remove it or choose another --socket", kindOf(info))
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%w on it", ErrAgentRunning)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w on it, but does not answer", ErrAgentRunning)
	}
	return os.Remove(path)
}

func kindOf(info os.FileInfo) string {
	switch {
	case info.Mode().IsRegular():
		return "regular file"
	case info.IsDir():
		return "directory"
	}
	return "file of mode " + info.Mode().String()
}

// running is the error of a lock that is held; pid is what its holder wrote there.
func running(pid string) error {
	if pid = strings.TrimSpace(pid); pid == "" {
		return ErrAgentRunning
	}
	return fmt.Errorf("%w (pid %s)", ErrAgentRunning, pid)
}
