//go:build !linux && !windows

package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Lock is the right to change a lab, held until Release.
type Lock struct{ path string }

// Lock takes the lab's lock, making its folder when there is none; it returns
// a *LockedError at once when another process holds it.
func (s Store) Lock(_ context.Context, lab string) (*Lock, error) {
	path := filepath.Join(s.Dir(lab), lockFile)
	if err := s.makeDir(lab); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		data, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		return nil, &LockedError{Lab: lab, PID: pid}
	}
	if err != nil {
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, fmt.Errorf("lock lab %s: %w", lab, err)
	}
	return &Lock{path}, nil
}

// Release gives the lock back.
func (l *Lock) Release() error { return os.Remove(l.path) }
