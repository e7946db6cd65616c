package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/windows"
)

// Lock is the right to change a lab, held until Release. It goes with the
// process: a killed one leaves no lock behind.
type Lock struct{ f *os.File }

// lockOffset is the byte that is locked, far behind the file's end: Windows'
// locks are mandatory, and others shall be able to read who holds it.
const lockOffset = 1 << 30

// Lock takes the lab's lock, making its folder when there is none; it returns
// a *LockedError at once when another process holds it.
func (s Store) Lock(ctx context.Context, lab string) (*Lock, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := s.makeDir(lab); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir(lab), lockFile)
	f, err := openShared(path)
	if err != nil {
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	at := &windows.Overlapped{Offset: lockOffset}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at)
	if err != nil {
		data, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
			pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
			return nil, &LockedError{Lab: lab, PID: pid}
		}
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
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

// openShared opens or makes a file that can be removed while it is open, as
// Remove does with the lock's: os.OpenFile does not ask for FILE_SHARE_DELETE
// (golang/go issue 32088).
func openShared(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil,
		windows.OPEN_ALWAYS, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// Release gives the lock back: closing the file ends it (LockFileEx).
func (l *Lock) Release() error { return l.f.Close() }
