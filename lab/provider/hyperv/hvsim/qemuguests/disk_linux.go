package qemuguests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
)

// disk is what is remembered of a machine's disk: files of its folder that lie on
// one another, and at the bottom on the image.
type disk struct {
	// Image is the real path of the VHDX.
	Image string `json:"image"`
	// Top is the file that the machine writes to.
	Top string `json:"top"`
	// Parents has the file below each, "" for the image.
	Parents map[string]string `json:"parents"`
	// Checkpoints are frozen files by the checkpoint's name.
	Checkpoints map[string]string `json:"checkpoints"`
	// Next numbers the next file.
	Next int `json:"next"`
	// Address is the one that the seed gave.
	Address string `json:"address"`
}

func (m *guest) diskFile() string { return filepath.Join(m.machine.Dir, "disk.json") }

// readDisk returns what is remembered; fs.ErrNotExist for a machine that was never on.
func (m *guest) readDisk() (disk, error) {
	var d disk
	data, err := os.ReadFile(m.diskFile())
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read which files its disk has: %w", err)
	}
	return d, nil
}

func (m *guest) writeDisk(d disk) error {
	data, err := json.MarshalIndent(d, "", "  ")
	if err == nil {
		err = state.WriteFile(m.diskFile(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember which files its disk has: %w", err)
	}
	return nil
}

// attachDisk makes the disk of a machine that has none, and takes note of its seed.
func (m *guest) attachDisk(ctx context.Context) (disk, error) {
	if err := os.MkdirAll(m.machine.Dir, 0o700); err != nil {
		return disk{}, fmt.Errorf("make its disk's folder: %w", err)
	}
	d, err := m.readDisk()
	if errors.Is(err, fs.ErrNotExist) {
		d, err = m.newDisk(ctx)
	}
	if err != nil {
		return d, err
	}
	if m.machine.Seed != "" {
		d.Address = seedAddress(m.machine.Seed)
	}
	known := m.guests.knownFile(m.machine.ID)
	if err := os.MkdirAll(filepath.Dir(known), 0o700); err != nil {
		return d, err
	}
	return d, errors.Join(m.writeDisk(d), os.WriteFile(known, []byte(m.machine.Dir), 0o600))
}

func (m *guest) newDisk(ctx context.Context) (disk, error) {
	real, err := filepath.EvalSymlinks(m.machine.Image)
	if err != nil {
		return disk{}, fmt.Errorf("find its image: %w", err)
	}
	d := disk{Image: real, Parents: map[string]string{}, Checkpoints: map[string]string{}}
	d.Top, err = m.layer(ctx, &d, "")
	return d, err
}

// layer makes a file on another one, or on the image (""). Its name is remembered
// first, so that no later file takes the name of one that was made and forgotten.
func (m *guest) layer(ctx context.Context, d *disk, below string) (string, error) {
	name, err := m.reserve(d, below)
	if err != nil {
		return "", err
	}
	path := filepath.Join(m.machine.Dir, name)
	if below == "" {
		return name, image.OverlayOf(ctx, path, d.Image, image.VHDX)
	}
	return name, image.Overlay(ctx, path, filepath.Join(m.machine.Dir, below))
}

// reserve names a new file that is to lie on another one.
func (m *guest) reserve(d *disk, below string) (string, error) {
	d.Next++
	name := fmt.Sprintf("disk%d.qcow2", d.Next)
	d.Parents[name] = below
	if d.Top == "" {
		return name, nil // the first, which a start that is cut off makes again
	}
	return name, m.writeDisk(*d)
}

// save freezes the file that the machine writes to under a checkpoint's name. The
// machine may be on.
func (m *guest) save(ctx context.Context, checkpoint string) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	d, err := m.readDisk()
	if err != nil {
		return err
	}
	frozen := d.Top
	m.mu.Lock()
	v := m.vm
	m.mu.Unlock()
	var top string
	if v == nil {
		top, err = m.layer(ctx, &d, frozen)
	} else if top, err = m.reserve(&d, frozen); err == nil {
		err = v.Freeze(ctx, []vm.Overlay{{Disk: 0, Path: filepath.Join(m.machine.Dir, top)}})
	}
	if err != nil {
		return err
	}
	d.Top, d.Checkpoints[checkpoint] = top, frozen
	return m.writeDisk(d)
}

// restore has the machine, which is off, begin on a checkpoint's file, and gives
// up what was written since.
func (m *guest) restore(ctx context.Context, checkpoint string) error {
	m.switching.Lock()
	defer m.switching.Unlock()
	if m.now().Running {
		return errors.New("it is on")
	}
	d, err := m.readDisk()
	if err != nil {
		return err
	}
	frozen, ok := d.Checkpoints[checkpoint]
	if !ok {
		// One of before the machine was first on has nothing but the image.
		if err := m.guests.Guests.Restore(ctx, m.machine.ID, checkpoint); err != nil {
			return err
		}
	}
	if d.Top, err = m.layer(ctx, &d, frozen); err != nil {
		return err
	}
	gone := d.forget()
	if err := m.writeDisk(d); err != nil {
		return err
	}
	var errs []error
	for _, name := range gone {
		errs = append(errs, os.RemoveAll(filepath.Join(m.machine.Dir, name)))
	}
	return errors.Join(errs...)
}

// forget drops the files that neither the machine nor a checkpoint lies on, and
// returns them.
func (d *disk) forget() []string {
	needed := map[string]bool{}
	need := func(name string) {
		for name != "" && !needed[name] {
			needed[name] = true
			name = d.Parents[name]
		}
	}
	need(d.Top)
	for _, name := range d.Checkpoints {
		need(name)
	}
	var gone []string
	for name := range d.Parents {
		if !needed[name] {
			gone = append(gone, name)
			delete(d.Parents, name)
		}
	}
	return gone
}
