package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is the right to change a lab, held until Release. It goes with the
// process: a killed one leaves no lock behind.
type Lock struct{ f *os.File }

// orphanPatience is how long a lock may outlive its process: a child that was
// forked and has not executed its program yet shares it for that moment.
const orphanPatience = time.Second

// Lock takes the lab's lock, making its folder when there is none; it returns
// a *LockedError at once when another process holds it.
func (s Store) Lock(ctx context.Context, lab string) (*Lock, error) {
	path := filepath.Join(s.Dir(lab), lockFile)
	deadline := time.Now().Add(orphanPatience)
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := s.makeDir(lab); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the folder went with another process's down
		}
		if err != nil {
			return nil, fmt.Errorf("lock lab %s: %w", lab, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			data, _ := os.ReadFile(path)
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
				if pid == 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
					// It was killed, or is about to write its number.
					if wait(ctx, deadline) {
						continue
					}
				}
				return nil, &LockedError{Lab: lab, PID: pid}
			}
			return nil, fmt.Errorf("lock lab %s: %w", lab, err)
		}
		// A down that ended meanwhile removed the file this lock is on.
		if !samePath(f, path) {
			f.Close()
			continue
		}
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock lab %s: %w", lab, err)
		}
		return &Lock{f}, nil
	}
}

// wait lets a few milliseconds pass; false when the deadline or the context
// leave none.
func wait(ctx context.Context, deadline time.Time) bool {
	if time.Now().After(deadline) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(5 * time.Millisecond):
		return true
	}
}

// Release gives the lock back.
func (l *Lock) Release() error { return l.f.Close() }

func samePath(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}
