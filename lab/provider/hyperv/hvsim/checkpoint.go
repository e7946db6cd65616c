package hvsim

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"l4lab/lab/provider/hyperv/scripts"
)

// A checkpoint freezes the file that a machine writes to, and has the machine
// write to a new differencing disk on it, an .avhdx. Removing the checkpoint
// merges that file into the frozen one. Restoring gives up what was written
// since, and starts another .avhdx on the frozen file.

func (vm *machine) checkpointNamed(name string) *checkpoint {
	i := slices.IndexFunc(vm.Checkpoints, func(c *checkpoint) bool { return strings.EqualFold(c.Name, name) })
	if i < 0 {
		return nil
	}
	return vm.Checkpoints[i]
}

func (h *Host) checkpointCreate(ctx context.Context, p scripts.CheckpointParams) (scripts.Changed, error) {
	defer h.alone(p.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil || vm.checkpointNamed(p.Name) != nil {
		return scripts.Changed{}, err
	}
	c := &checkpoint{Name: p.Name, ID: newID(), Disk: vm.Disk}
	next, err := h.differ(vm, c.Disk)
	if err != nil {
		return scripts.Changed{}, err
	}
	if err := h.guests.Save(ctx, vm.ID, c.ID); err != nil {
		return scripts.Changed{}, fail(idOperationFailed, vm.Name, "Checkpoint operation for '%s' failed. (Virtual machine ID %s)\n%v", vm.Name, vm.ID, err)
	}
	vm.Checkpoints = append(vm.Checkpoints, c)
	vm.Disk, vm.Files = next, append(vm.Files, next)
	return changed("checkpoint"), h.store.save()
}

// differ makes an .avhdx on a disk, named as Hyper-V does: STEM_ID.avhdx.
func (h *Host) differ(vm *machine, parent string) (string, error) {
	stem := vm.Base
	if dot := strings.LastIndexByte(stem, '.'); dot > strings.LastIndexAny(stem, `\/`) {
		stem = stem[:dot]
	}
	path := stem + "_" + newID() + ".avhdx"
	return path, h.writeDisk(path, diskFile{Disk: 1, Parent: parent})
}

func (h *Host) checkpointRestore(ctx context.Context, p scripts.CheckpointParams) (scripts.Changed, error) {
	defer h.alone(p.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	vm, c, err := h.theCheckpoint(p)
	if err != nil {
		return scripts.Changed{}, err
	}
	// A production checkpoint, Hyper-V's default, leaves a machine off.
	if h.refresh(vm); vm.power.on {
		if _, err := h.stop(ctx, vm, 0); err != nil {
			return scripts.Changed{}, err
		}
	}
	if err := h.guests.Restore(ctx, vm.ID, c.ID); err != nil {
		return scripts.Changed{}, fail(idOperationFailed, vm.Name, "Failed to apply checkpoint '%s' of '%s'.\n%v", c.Name, vm.Name, err)
	}
	next, err := h.differ(vm, c.Disk)
	if err != nil {
		return scripts.Changed{}, err
	}
	vm.Disk, vm.Files = next, append(vm.Files, next)
	if err := h.collapse(vm); err != nil {
		return scripts.Changed{}, err
	}
	return changed("restored"), h.store.save()
}

func (h *Host) theCheckpoint(p scripts.CheckpointParams) (*machine, *checkpoint, error) {
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil {
		return nil, nil, err
	}
	c := vm.checkpointNamed(p.Name)
	if c == nil {
		return nil, nil, fail(scripts.NotFound, p.Name, "Hyper-V was unable to find a checkpoint with name \"%s\" of machine %s.", p.Name, vm.Name)
	}
	return vm, c, nil
}

func (h *Host) checkpointRemove(_ context.Context, p scripts.CheckpointParams) (scripts.Removed, error) {
	defer h.alone(p.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil {
		return scripts.Removed{}, err
	}
	c := vm.checkpointNamed(p.Name)
	if c == nil {
		return scripts.Removed{}, nil
	}
	vm.Checkpoints = slices.DeleteFunc(vm.Checkpoints, func(other *checkpoint) bool { return other == c })
	if err := h.collapse(vm); err != nil {
		return scripts.Removed{}, err
	}
	return scripts.Removed{Removed: true}, h.store.save()
}

// collapse removes the files of a machine that nothing needs any longer: a leaf
// that is neither written to nor frozen goes, and a file that is not frozen and
// has one child takes that child's place.
func (h *Host) collapse(vm *machine) error {
	for range 2 * len(vm.Files) {
		again, err := h.collapseOne(vm)
		if err != nil || !again {
			return err
		}
	}
	return nil
}

func (h *Host) collapseOne(vm *machine) (bool, error) {
	for _, path := range vm.Files {
		frozen := slices.ContainsFunc(vm.Checkpoints, func(c *checkpoint) bool { return c.Disk == path })
		if frozen || path == vm.Disk {
			continue
		}
		children, err := h.children(vm, path)
		if err != nil {
			return false, err
		}
		switch len(children) {
		case 0:
			return true, h.forget(vm, path)
		case 1:
			return true, h.merge(vm, path, children[0])
		}
	}
	return false, nil
}

// children returns the machine's files whose parent is this one.
func (h *Host) children(vm *machine, path string) ([]string, error) {
	var found []string
	for _, other := range vm.Files {
		d, err := h.readDisk(other)
		if err != nil {
			return nil, fmt.Errorf("look at the disks of machine %s: %w", vm.Name, err)
		}
		if d.Parent != "" && samePath(d.Parent, path) {
			found = append(found, other)
		}
	}
	return found, nil
}

func (h *Host) forget(vm *machine, path string) error {
	if err := h.removeFile(path); err != nil {
		return err
	}
	vm.Files = slices.DeleteFunc(vm.Files, func(other string) bool { return other == path })
	return nil
}

// merge writes what child has into its parent, which then stands for both.
func (h *Host) merge(vm *machine, parent, child string) error {
	below, err := h.readDisk(parent)
	if err != nil {
		return err
	}
	above, err := h.readDisk(child)
	if err != nil {
		return err
	}
	if above.Unattend != nil {
		below.Unattend = above.Unattend
	}
	if err := h.writeDisk(parent, below); err != nil {
		return err
	}
	grandchildren, err := h.children(vm, child)
	if err != nil {
		return err
	}
	for _, path := range grandchildren {
		d, err := h.readDisk(path)
		if err != nil {
			return err
		}
		d.Parent = parent
		if err := h.writeDisk(path, d); err != nil {
			return err
		}
	}
	if vm.Disk == child {
		vm.Disk = parent
	}
	for _, c := range vm.Checkpoints {
		if c.Disk == child {
			c.Disk = parent
		}
	}
	return h.forget(vm, child)
}
