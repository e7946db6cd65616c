package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"l4lab/agent/pin"
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
	lock, err := pin.Open(path, fmt.Errorf("%w: stop it, or give this one a --pin-dir of its own", ErrInUse))
	if err != nil {
		return nil, err
	}
	return &pinDir{path: path, lock: lock}, nil
}

func (d *pinDir) linkPath() string { return filepath.Join(d.path, linkPin) }

// unload detaches, then removes our pins and the directory. Pins that are not
// ours stay, and the directory with them.
func (d *pinDir) unload() error {
	if err := pin.RemoveLink(d.linkPath()); err != nil {
		return err
	}
	faults := []error{d.removeStages("")}
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
