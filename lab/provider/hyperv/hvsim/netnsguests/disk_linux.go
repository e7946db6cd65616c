package netnsguests

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// diskParts are what of a disk's folder a checkpoint keeps; overlayfs' work
// folder is not the disk's content.
var diskParts = [...]string{"upper", "c", registryFile}

// checkpoint is the folder of a checkpoint. The name may be any text.
func (g *Guests) checkpoint(id, name string) string {
	return g.path("checkpoints", id, hex.EncodeToString([]byte(name)))
}

// Save implements hvsim.Guests. A machine that was never on has an empty disk.
func (g *Guests) Save(ctx context.Context, id, checkpoint string) error {
	to := g.checkpoint(id, checkpoint)
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", checkpoint, err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", checkpoint, err)
	}
	m := g.lookup(id)
	if m == nil {
		return nil
	}
	if err := copyParts(ctx, m.disk(), to); err != nil {
		return errors.Join(fmt.Errorf("save checkpoint %s of %s: %w", checkpoint, m.machine.Name, err), os.RemoveAll(to))
	}
	return nil
}

// Restore implements hvsim.Guests.
func (g *Guests) Restore(ctx context.Context, id, checkpoint string) error {
	from := g.checkpoint(id, checkpoint)
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("restore checkpoint %s: %w", checkpoint, err)
	}
	m := g.lookup(id)
	if m == nil {
		return nil // never on since, so nothing was written
	}
	m.switching.Lock()
	defer m.switching.Unlock()
	if m.State().Running {
		return fmt.Errorf("restore checkpoint %s of %s: the machine is on", checkpoint, m.machine.Name)
	}
	if err := m.wipe(); err != nil {
		return fmt.Errorf("restore checkpoint %s of %s: %w", checkpoint, m.machine.Name, err)
	}
	if err := copyParts(ctx, from, m.disk()); err != nil {
		return fmt.Errorf("restore checkpoint %s of %s: %w", checkpoint, m.machine.Name, err)
	}
	return nil
}

// wipe empties the disk.
func (m *guest) wipe() error {
	var errs []error
	for _, part := range append(diskParts[:], "work") {
		errs = append(errs, os.RemoveAll(filepath.Join(m.disk(), part)))
	}
	return errors.Join(errs...)
}

// copyParts copies a disk with all that overlayfs keeps in it: extended
// attributes, whiteouts, owners. cp knows how.
func copyParts(ctx context.Context, from, to string) error {
	for _, part := range diskParts {
		if _, err := os.Lstat(filepath.Join(from, part)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out, err := exec.CommandContext(ctx, "cp", "--archive", "--reflink=auto", filepath.Join(from, part), to).CombinedOutput()
		if err != nil {
			return fmt.Errorf("copy its disk: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// Remove implements hvsim.Guests.
func (g *Guests) Remove(_ context.Context, id string) error {
	if !usable(id) {
		return fmt.Errorf("remove machine %q: that is no id", id)
	}
	if err := os.RemoveAll(g.path("checkpoints", id)); err != nil {
		return fmt.Errorf("remove machine %s: %w", id, err)
	}
	m := g.lookup(id)
	if m == nil {
		return nil
	}
	m.switching.Lock()
	defer m.switching.Unlock()
	if m.State().Running {
		return fmt.Errorf("remove machine %s: it is on", m.machine.Name)
	}
	small := g.path("disks", id)
	if isMountPoint(small) {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("remove the disk of %s: %w", m.machine.Name, err)
		}
	}
	if err := errors.Join(os.RemoveAll(small), os.RemoveAll(m.machine.Dir), os.RemoveAll(g.path("machines", id)), os.RemoveAll(g.path("known", id))); err != nil {
		return fmt.Errorf("remove the disk of %s: %w", m.machine.Name, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.machines, id)
	return nil
}
