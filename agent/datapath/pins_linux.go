package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// linkPin is the pin of the attachment, beside the maps'.
const linkPin = "link"

// pinDir is the directory of our pins, locked: two agents on the same maps
// would undo each other's work.
type pinDir struct {
	path string
	lock *os.File
}

// openPinDir makes the directory when it is missing.
func openPinDir(path string) (*pinDir, error) {
	// bpffs refuses names with a dot.
	if strings.Contains(filepath.Base(path), ".") {
		return nil, fmt.Errorf("pin directory %s: a name on a bpffs has no dot", path)
	}
	if err := checkBPFFS(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("pin directory %s: %w", path, err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		if isPermission(err) {
			return nil, fmt.Errorf("make the pin directory: %w: %w", ErrPermission, err)
		}
		return nil, fmt.Errorf("make the pin directory: %w", err)
	}
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w in %s: stop it, or give this one a --pin-dir of its own", ErrInUse, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the pin directory: %w", err), lock.Close())
	}
	return &pinDir{path: path, lock: lock}, nil
}

// checkBPFFS says how to mount a bpffs where none is.
func checkBPFFS(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if uint32(fs.Type) == unix.BPF_FS_MAGIC {
		return nil
	}
	return fmt.Errorf("%w: %s is not on a bpffs; mount one: mount -t bpf bpf %s", ErrUnsupported, dir, dir)
}

func (d *pinDir) linkPath() string { return filepath.Join(d.path, linkPin) }

// pinnedLink opens the pinned attachment, nil when there is none.
func (d *pinDir) pinnedLink() (link.Link, error) {
	l, err := link.LoadPinnedLink(d.linkPath(), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned attachment %s: %w", d.linkPath(), err)
	}
	return l, nil
}

// unload detaches, then removes our pins and the directory. Pins that are not
// ours stay, and the directory with them.
func (d *pinDir) unload() error {
	attached, err := d.pinnedLink()
	if err != nil {
		return err
	}
	if attached != nil {
		// Detach is done when it returns; removing the pin alone lets the
		// kernel detach later, from a work queue.
		err := attached.Detach()
		if errors.Is(err, unix.ENOLINK) { // its interface has gone
			err = nil
		}
		if err = errors.Join(err, attached.Unpin(), attached.Close()); err != nil {
			return fmt.Errorf("detach %s: %w", d.linkPath(), err)
		}
	}
	var faults []error
	for _, name := range mapNames {
		if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			faults = append(faults, fmt.Errorf("remove the pin: %w", err))
		}
	}
	return errors.Join(append(faults, d.removeIfEmpty())...)
}

func (d *pinDir) removeIfEmpty() error {
	err := os.Remove(d.path)
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return explain("remove the pin directory", err)
}

func (d *pinDir) close() error { return d.lock.Close() }
