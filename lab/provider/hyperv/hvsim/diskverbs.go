package hvsim

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"strings"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

func (h *Host) imageProbe(_ context.Context, p scripts.ImageProbeParams) (scripts.ImageProbeResult, error) {
	var r scripts.ImageProbeResult
	real, err := h.drives.real(p.Path)
	if err != nil {
		return r, err
	}
	info, err := os.Stat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	d, err := h.readDisk(p.Path)
	if err != nil {
		return r, err
	}
	r = scripts.ImageProbeResult{Exists: true, Bytes: info.Size(), Format: format(p.Path), Type: "Dynamic"}
	if d.Parent != "" {
		r.Type = "Differencing"
	}
	if p.Hash {
		if r.SHA256, err = hashFile(real); err != nil {
			return r, err
		}
	}
	h.store.Lock()
	defer h.store.Unlock()
	r.Attached = h.inUse(p.Path) != nil
	return r, nil
}

func (h *Host) diskEnsure(_ context.Context, p scripts.DiskEnsureParams) (scripts.Changed, error) {
	if !within(p.Path, p.Folder) || samePath(p.Path, p.Folder) {
		return scripts.Changed{}, fail(scripts.Foreign, p.Path, "the disk would not be below %s", p.Folder)
	}
	if format(p.Path) != format(p.Parent) {
		return scripts.Changed{}, fail(idInvalidParam, p.Path, "Failed to create the virtual hard disk.\nA differencing disk must have its parent's format. (0xC03A001C)")
	}
	h.store.Lock()
	defer h.store.Unlock()
	if _, err := h.readDisk(p.Parent); err != nil {
		return scripts.Changed{}, err
	}
	d, err := h.readDisk(p.Path)
	switch {
	case err == nil && d.Parent != "" && samePath(d.Parent, p.Parent):
		return scripts.Changed{}, nil
	case err == nil:
		return scripts.Changed{}, fail(scripts.Foreign, p.Path, "a disk whose parent is '%s' is there", d.Parent)
	case failureOf(err).code != scripts.NotFound:
		return scripts.Changed{}, err
	}
	return changed("disk"), h.writeDisk(p.Path, diskFile{Disk: 1, Parent: p.Parent})
}

func (h *Host) unattendWrite(_ context.Context, p scripts.UnattendWriteParams) (scripts.Changed, error) {
	content, err := base64.StdEncoding.DecodeString(p.Content)
	if err != nil {
		return scripts.Changed{}, fail("FormatException", "", "The input is not a valid Base-64 string.")
	}
	h.store.Lock()
	defer h.store.Unlock()
	d, err := h.readDisk(p.Disk)
	if err != nil {
		return scripts.Changed{}, err
	}
	if vm := h.inUse(p.Disk); vm != nil {
		return scripts.Changed{}, fail(scripts.InUse, p.Disk, "Failed to mount the virtual disk.\nThe system failed to mount '%s'.\n"+
			"The process cannot access the file because it is being used by another process: machine %s.", p.Disk, vm.Name)
	}
	if d.Parent == "" {
		// A real host would write into it. Here images say what they are, and stay.
		return scripts.Changed{}, fail(idInvalidParam, p.Disk, "%s is an image of the simulation's, which is not written to", p.Disk)
	}
	if _, files, err := h.chain(p.Disk); err != nil {
		return scripts.Changed{}, err
	} else if files[len(files)-1].OS != topology.Windows {
		return scripts.Changed{}, fail(scripts.NotFound, p.Disk, "the disk holds no Windows")
	}
	if d.Unattend != nil && string(d.Unattend) == string(content) {
		return scripts.Changed{}, nil
	}
	d.Unattend = content
	return changed("answer file"), h.writeDisk(p.Disk, d)
}

// busy says that a file cannot be changed while a machine that is on uses it,
// or while it is a program that runs. The caller holds the store's lock.
func (h *Host) busy(path string) error {
	for program := range h.programs {
		if samePath(program, path) {
			return fail(idIO, path, "The process cannot access the file '%s' because it is being used by another process: it runs.", path)
		}
	}
	if vm := h.inUse(path); vm != nil {
		return fail(idIO, path, "The process cannot access the file '%s' because it is being used by another process: machine %s.", path, vm.Name)
	}
	return nil
}

// busyBelow is busy for whatever lies in a folder.
func (h *Host) busyBelow(folder string) error {
	for program := range h.programs {
		if within(program, folder) {
			return h.busy(program)
		}
	}
	for _, vm := range h.store.Machines {
		if !vm.power.on {
			continue
		}
		paths, _, err := h.chain(vm.Disk)
		if err != nil {
			continue
		}
		for _, path := range append(paths, vm.DVD) {
			if path != "" && within(path, folder) {
				return h.busy(path)
			}
		}
	}
	return nil
}

func isMark(content []byte, mark string) bool {
	return mark != "" && strings.TrimSpace(string(content)) == mark
}
