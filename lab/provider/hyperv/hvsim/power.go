package hvsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"l4lab/lab/provider/hyperv/scripts"
)

// startFailure is an error of Start-VM, in its words.
func startFailure(vm *machine, format string, args ...any) error {
	return fail(idOperationFailed, vm.Name, "'%s' failed to start.\n(Virtual machine ID %s)\n%s", vm.Name, vm.ID, fmt.Sprintf(format, args...))
}

func (h *Host) vmStart(_ context.Context, p scripts.VMParams) (scripts.Changed, error) {
	defer h.alone(p.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil {
		return scripts.Changed{}, err
	}
	if h.refresh(vm); vm.power.on {
		return scripts.Changed{}, nil
	}
	if err := h.checkStart(vm); err != nil {
		return scripts.Changed{}, err
	}
	m, err := h.machineOf(vm)
	if err != nil {
		return scripts.Changed{}, err
	}
	next := power{on: true, since: time.Now(), starts: vm.power.starts + 1, hung: h.faults.neverBoots(vm)}
	if !next.hung {
		if err := h.guests.Start(h.life, m); err != nil {
			return scripts.Changed{}, startFailure(vm, "%v", err)
		}
	}
	vm.power = next
	return changed("started"), nil
}

// checkStart refuses what cannot be turned on: too little memory, or a MAC
// address that another machine has that is on.
func (h *Host) checkStart(vm *machine) error {
	if vm.MemoryMB > h.freeMemoryMB() {
		return fail(scripts.NoMemory, vm.Name, "'%s' failed to start.\n(Virtual machine ID %s)\nNot enough memory in the system to start the virtual machine %s with ram size %d megabytes.\n"+
			"Unable to allocate %d MB of RAM: Insufficient system resources exist to complete the requested service. (0x800705AA).",
			vm.Name, vm.ID, vm.Name, vm.MemoryMB, vm.MemoryMB)
	}
	for _, other := range h.store.Machines {
		if h.refresh(other); other != vm && other.power.on && other.SwitchID == vm.SwitchID && other.MAC == vm.MAC {
			return startFailure(vm, "Synthetic Ethernet Port: Failed to Power on with Error 'Attempt to access invalid address.' (0x800701E7): "+
				"machine %s has the MAC address %s, too.", other.Name, vm.MAC)
		}
	}
	return nil
}

// freeMemoryMB is what the machines that are on leave. The caller holds the
// store's lock.
func (h *Host) freeMemoryMB() int64 {
	free := h.memoryMB
	for _, vm := range h.store.Machines {
		if h.refresh(vm); vm.power.on {
			free -= vm.MemoryMB
		}
	}
	return free
}

func (h *Host) vmStop(ctx context.Context, p scripts.VMStopParams) (scripts.Changed, error) {
	defer h.alone(p.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil {
		return scripts.Changed{}, err
	}
	if h.refresh(vm); !vm.power.on {
		return scripts.Changed{}, nil
	}
	how, err := h.stop(ctx, vm, time.Duration(p.Seconds)*time.Second)
	return changed(how...), err
}

// stop turns a machine off, by its own shutdown when it is given time for that
// and answers. The store's lock, which the caller holds, is let go meanwhile:
// the machine shows as Stopping, and the others can be looked at.
//
// The script waits all of the time for a guest that does not answer; here such
// a guest is turned off at once.
func (h *Host) stop(ctx context.Context, vm *machine, patience time.Duration) (how []string, err error) {
	if vm.power.hung {
		vm.power = power{starts: vm.power.starts}
		return []string{"turned off"}, nil
	}
	orderly := patience > 0 && h.guests.State(vm.ID).Heartbeat != heartbeatNone
	vm.power.stopping = true
	h.store.Unlock()
	if orderly {
		how = append(how, "shut down")
		err = h.shutDown(ctx, vm.ID, patience)
	}
	if !orderly || err != nil {
		how = append(how, "turned off")
		err = h.guests.Stop(ctx, vm.ID, false)
	}
	h.store.Lock()
	if err != nil {
		vm.power.stopping = false
		return nil, fail(idOperationFailed, vm.Name, "'%s' failed to stop.\n(Virtual machine ID %s)\n%v", vm.Name, vm.ID, err)
	}
	vm.power = power{starts: vm.power.starts}
	return how, nil
}

func (h *Host) shutDown(ctx context.Context, id string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return h.guests.Stop(ctx, id, true)
}

func (h *Host) vmRemove(ctx context.Context, p scripts.VMRemoveParams) (scripts.Removed, error) {
	defer h.alone("name " + p.Name)()
	h.store.Lock()
	vm, err := h.ownMachine(p.Name, p.Mark, p.Folder)
	h.store.Unlock()
	if err != nil {
		return scripts.Removed{}, err
	}
	removed := false
	for vm != nil {
		if vm.Notes != p.Mark+" node="+p.Node && !vm.unfinished(p.Folder) {
			return scripts.Removed{}, fail(scripts.Foreign, p.Name, "machine %s is of another node", p.Name)
		}
		if err := h.removeMachine(ctx, vm, p.Folder); err != nil {
			return scripts.Removed{}, err
		}
		removed = true
		h.store.Lock()
		vm, err = h.ownMachine(p.Name, p.Mark, p.Folder)
		h.store.Unlock()
		if err != nil {
			return scripts.Removed{}, err
		}
	}
	// What a verb that was cut off left without a machine.
	files, err := h.removeNodeFiles(p)
	return scripts.Removed{Removed: removed || files}, err
}

// removeMachine turns a machine off and forgets it with its checkpoints and
// its disks in the lab's folder. Remove-VM itself leaves the disks; the script
// removes them.
func (h *Host) removeMachine(ctx context.Context, vm *machine, folder string) error {
	defer h.alone(vm.ID)()
	h.store.Lock()
	defer h.store.Unlock()
	if h.refresh(vm); vm.power.on {
		if _, err := h.stop(ctx, vm, 0); err != nil {
			return err
		}
	}
	if err := h.guests.Remove(ctx, vm.ID); err != nil {
		return fmt.Errorf("remove machine %s: %w", vm.Name, err)
	}
	for _, path := range vm.Files {
		if !within(path, folder) {
			continue
		}
		if err := h.removeFile(path); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Dir(h.diskDir(vm.ID))); err != nil {
		return err
	}
	h.store.Machines = slices.DeleteFunc(h.store.Machines, func(other *machine) bool { return other == vm })
	return h.store.save()
}

// removeFile removes one file of the host's; what is not there is removed already.
func (h *Host) removeFile(path string) error {
	real, err := h.drives.real(path)
	if err != nil {
		return err
	}
	if err := os.Remove(real); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeNodeFiles removes what is of a node by its name: its disk, those of its
// checkpoints (NODE_ID.avhdx) and its seeds (NODE-HASH.iso).
func (h *Host) removeNodeFiles(p scripts.VMRemoveParams) (bool, error) {
	h.store.Lock()
	defer h.store.Unlock()
	removed := false
	for _, kind := range []string{"disks", "seeds"} {
		place, err := h.drives.real(join(p.Folder, kind))
		if err != nil {
			return removed, err
		}
		entries, err := os.ReadDir(place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		for _, e := range entries {
			if e.IsDir() || !isOfNode(e.Name(), p.Node) {
				continue
			}
			if err := os.Remove(filepath.Join(place, e.Name())); err != nil {
				return removed, err
			}
			removed = true
		}
	}
	return removed, nil
}

func isOfNode(file, node string) bool {
	ext := filepath.Ext(file)
	stem := strings.ToLower(strings.TrimSuffix(file, ext))
	node = strings.ToLower(node)
	if strings.EqualFold(ext, ".iso") {
		hash, seed := strings.CutPrefix(stem, node+"-")
		if seed && len(hash) == 12 && strings.Trim(hash, "0123456789abcdef") == "" {
			return true
		}
	}
	return stem == node || strings.EqualFold(ext, ".avhdx") && strings.HasPrefix(stem, node+"_")
}
