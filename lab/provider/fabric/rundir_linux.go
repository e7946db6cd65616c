package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// runDirMarker is there while runDir is a mount that a lab made, whichever it
// was; like the mount it does not outlive a reboot.
const runDirMarker = "/run/.labctl-netns"

// EnsureRunDir prepares /run/netns as iproute2 does: a shared mount of its own,
// so that removing a name reaches every mount namespace that copied it. What
// this call made is noted for ReleaseRunDir.
func EnsureRunDir(ctx context.Context, root string) error {
	unlock, err := lockRoot(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", runDir, err)
	}
	err = unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("share %s: %w", runDir, err)
	}
	if err := os.WriteFile(runDirMarker, nil, 0o600); err != nil {
		return fmt.Errorf("note that %s is ours: %w", runDir, err)
	}
	if err := unix.Mount(runDir, runDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to itself: %w", runDir, err)
	}
	if err := unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share %s: %w", runDir, err)
	}
	return nil
}

// ReleaseRunDir takes back what EnsureRunDir made, once nobody's namespace is
// left in it.
func ReleaseRunDir(ctx context.Context, root string) error {
	if _, err := os.Stat(runDirMarker); err != nil {
		return nil
	}
	unlock, err := lockRoot(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(runDir)
	if err != nil || len(entries) > 0 {
		return nil
	}
	if err := unix.Unmount(runDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil // in use: somebody is about to make a namespace
	}
	if err := os.Remove(runDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Remove(runDirMarker)
}

// lockLimit bounds waiting for another lab's up or down to have made or released
// /run/netns, which takes it microseconds.
const lockLimit = 5 * time.Second

// lockRoot takes an exclusive lock on the folder of all labs, which is root's
// own. A lock on the folder itself leaves no file.
func lockRoot(ctx context.Context, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockLimit, fmt.Errorf("still locked after %s", lockLimit))
	defer cancel()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
