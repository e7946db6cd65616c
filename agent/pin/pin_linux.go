package pin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Open makes a directory for pins when it is missing, and locks it until the
// returned file is closed or the process ends. Its parent must be there
// (ErrUsage) and on a bpffs (ErrUnsupported). When another process has the lock,
// Open does not wait and returns inUse, wrapped: the caller knows whether that
// one goes on or is done soon.
func Open(path string, inUse error) (*os.File, error) {
	if err := checkParent(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the pin directory: %w", Explain(err))
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", Explain(err))
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = inUse
	}
	if err != nil {
		return nil, fmt.Errorf("lock the pin directory %s: %w", path, errors.Join(err, lock.Close()))
	}
	return lock, nil
}

// checkParent says how to mount a bpffs where none is.
func checkParent(path string) error {
	parent := filepath.Dir(path)
	var statfs unix.Statfs_t
	err := unix.Statfs(parent, &statfs)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("pin directory %s: its parent %s: %w", path, parent, Explain(err))
	case err != nil:
		return fmt.Errorf("%w: its parent %s: %w", ErrUsage, parent, err)
	case uint32(statfs.Type) != unix.BPF_FS_MAGIC:
		return fmt.Errorf("pin directory %s: %w: %s is not on a bpffs; mount one: mount -t bpf bpf %s", path, ErrUnsupported, parent, parent)
	}
	return nil
}

// RemoveLink detaches a pinned attachment and removes the pin; there may be
// none. Detach is done when it returns; removing the pin alone lets the kernel
// detach later, from a work queue.
func RemoveLink(path string) error {
	l, err := Link(path)
	if l == nil || err != nil {
		return err
	}
	if err := errors.Join(Detach(l), l.Unpin(), l.Close()); err != nil {
		return fmt.Errorf("detach %s: %w", path, Explain(err))
	}
	return nil
}

// Detach detaches, and is content when the attachment's interface has gone.
func Detach(l link.Link) error {
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
	}
	return nil
}
