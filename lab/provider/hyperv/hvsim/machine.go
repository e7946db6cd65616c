package hvsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// States of a machine, as Get-VM prints them.
const (
	stateRunning  = "Running"
	stateOff      = "Off"
	stateStopping = "Stopping"
)

// Words of the heartbeat.
const (
	heartbeatOK   = "OkApplicationsHealthy"
	heartbeatNone = "NoContact"
)

// byID returns the machine that a verb acts on. The caller holds the store's lock.
func (h *Host) byID(id, mark string) (*machine, error) {
	i := slices.IndexFunc(h.store.Machines, func(vm *machine) bool { return strings.EqualFold(vm.ID, id) })
	if i < 0 {
		return nil, fail(scripts.NotFound, id, "Hyper-V was unable to find a virtual machine with id \"%s\".", id)
	}
	vm := h.store.Machines[i]
	if !vm.ours(mark) {
		return nil, fail(scripts.Foreign, vm.Name, "machine %s does not bear the mark of this lab", vm.Name)
	}
	return vm, nil
}

// ownMachine returns the machine of a name that bears the mark or is one of the
// lab's that was not finished, nil for none.
func (h *Host) ownMachine(name, mark, folder string) (*machine, error) {
	var own *machine
	for _, vm := range h.store.machinesNamed(name) {
		if !vm.ours(mark) && !vm.unfinished(folder) {
			return nil, fail(scripts.Foreign, name, "a machine %s exists and does not bear the mark of this lab", name)
		}
		own = vm
	}
	return own, nil
}

// alone locks one machine for a verb that changes how it is: such verbs of one
// machine run one after another, those of several side by side. It is taken
// before the store's lock, never while that is held.
func (h *Host) alone(key string) (unlock func()) {
	h.lifecycle.Lock()
	l, ok := h.machineLocks[strings.ToUpper(key)]
	if !ok {
		l = make(chan struct{}, 1)
		h.machineLocks[strings.ToUpper(key)] = l
	}
	h.lifecycle.Unlock()
	l <- struct{}{}
	return func() { <-l }
}

// refresh takes note of a guest that shut itself down.
func (h *Host) refresh(vm *machine) {
	if vm.power.on && !vm.power.hung && !vm.power.stopping && !h.guests.State(vm.ID).Running {
		vm.power = power{starts: vm.power.starts}
	}
}

// state returns what Get-VM shows of a machine; the caller holds the store's lock.
func (h *Host) state(vm *machine) scripts.VMStateResult {
	h.refresh(vm)
	switch {
	case !vm.power.on:
		return scripts.VMStateResult{State: stateOff}
	case vm.power.stopping:
		return scripts.VMStateResult{State: stateStopping, Heartbeat: heartbeatNone}
	}
	r := scripts.VMStateResult{State: stateRunning, Heartbeat: heartbeatNone, UptimeSeconds: int64(time.Since(vm.power.since).Seconds())}
	if !vm.power.hung {
		r.Heartbeat = h.guests.State(vm.ID).Heartbeat
	}
	return r
}

func (h *Host) facts(vm *machine) scripts.VMFacts {
	st := h.state(vm)
	f := scripts.VMFacts{
		Name: vm.Name, ID: vm.ID, Node: nodeOf(vm.Notes), State: st.State, Heartbeat: st.Heartbeat, UptimeSeconds: st.UptimeSeconds,
		Generation: vm.Generation, MemoryMB: vm.MemoryMB, Processors: vm.Processors, MAC: vm.MAC, Spoofing: vm.Spoofing,
		SecureBoot: vm.Generation == 2 && vm.SecureBoot != "Off", DVD: vm.DVD,
	}
	if vm.Disk != "" {
		f.Disks = []string{vm.Disk}
	}
	if s := h.store.switchByID(vm.SwitchID); s != nil {
		f.Switch = s.Name
	}
	for _, c := range vm.Checkpoints {
		f.Checkpoints = append(f.Checkpoints, c.Name)
	}
	return f
}

func (h *Host) vmState(_ context.Context, p scripts.VMParams) (scripts.VMStateResult, error) {
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil {
		return scripts.VMStateResult{}, err
	}
	return h.state(vm), nil
}

var macAddress = regexp.MustCompile(`^[0-9A-F]{12}$`)

func (h *Host) vmEnsure(_ context.Context, p scripts.VMEnsureParams) (scripts.VMEnsureResult, error) {
	var none scripts.VMEnsureResult
	if err := checkMachine(&p); err != nil {
		return none, err
	}
	h.store.Lock()
	defer h.store.Unlock()
	for _, path := range []string{p.Disk, p.DVD} {
		if err := h.mustExist(path); err != nil {
			return none, err
		}
	}
	s := h.switchFor(p.Switch, p.Mark)
	if s == nil {
		return none, fail(scripts.NotFound, p.Switch, "there is no switch %s", p.Switch)
	}
	vm, err := h.ownMachine(p.Name, p.Mark, p.Folder)
	if err != nil {
		return none, err
	}
	if vm == nil {
		vm = &machine{
			Name: p.Name, ID: newID(), Notes: p.Mark + " node=" + p.Node, Path: p.Folder, Generation: p.Generation, MemoryMB: p.MemoryMB,
			Processors: p.Processors, Disk: p.Disk, Base: p.Disk, Files: []string{p.Disk}, DVD: p.DVD, SwitchID: s.ID,
			MAC: p.MAC, Spoofing: p.Spoofing, SecureBoot: p.SecureBoot,
		}
		h.store.Machines = append(h.store.Machines, vm)
		return scripts.VMEnsureResult{Changed: changed("machine"), Machine: h.facts(vm)}, h.store.save()
	}
	what, err := h.reconfigure(vm, p, s)
	if err := errors.Join(err, h.store.save()); err != nil {
		return none, err
	}
	return scripts.VMEnsureResult{Changed: changed(what...), Machine: h.facts(vm)}, nil
}

// switchFor returns the switch that an adapter is connected to by name: the
// lab's own before another of that name, nil for none.
func (h *Host) switchFor(name, mark string) *vswitch {
	var found *vswitch
	for _, s := range h.store.switchesNamed(name) {
		if found == nil || s.ours(mark) {
			found = s
		}
	}
	return found
}

// checkMachine refuses what New-VM and its sisters refuse.
func checkMachine(p *scripts.VMEnsureParams) error {
	p.MAC = strings.ToUpper(strings.NewReplacer("-", "", ":", "").Replace(p.MAC))
	switch {
	case p.Name == "":
		return fail(idInvalidParam, "", "Cannot bind argument to parameter 'Name' because it is an empty string.")
	case p.Generation != 1 && p.Generation != 2:
		return fail(idInvalidParam, p.Name, "Cannot validate argument on parameter 'Generation'. %d is not 1 or 2.", p.Generation)
	case p.MemoryMB < 32 || p.MemoryMB > 12<<20 || p.MemoryMB%2 != 0:
		return fail(idInvalidParam, p.Name, "'%s' failed to modify device 'Memory'.\nInvalid startup memory amount assigned for '%s': %d MB. "+
			"It must be between 32 MB and 12 TB, and an even number of MB.", p.Name, p.Name, p.MemoryMB)
	case p.Processors < 1 || p.Processors > 240:
		return fail(idInvalidParam, p.Name, "'%s' failed to modify device 'Processor'.\nThe number of processors is not valid: %d.", p.Name, p.Processors)
	case !macAddress.MatchString(p.MAC):
		return fail(idInvalidParam, p.Name, "The MAC address '%s' is not valid.", p.MAC)
	case !slices.Contains([]string{"Off", "MicrosoftWindows", "MicrosoftUEFICertificateAuthority"}, p.SecureBoot):
		return fail(idInvalidParam, p.Name, "The secure boot template '%s' is not valid.", p.SecureBoot)
	case p.Generation == 2 && format(p.Disk) == "VHD":
		return fail(idInvalidParam, p.Disk, "Generation 2 virtual machines boot from VHDX files alone.")
	}
	return nil
}

func (h *Host) mustExist(path string) error {
	if path == "" {
		return nil
	}
	real, err := h.drives.real(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) {
		return fail(scripts.NotFound, path, "there is no file %s", path)
	} else if err != nil {
		return err
	}
	return nil
}

// reconfigure gives an existing machine what is asked for, step by step as the
// script does: what came before a step that Hyper-V refuses stays. The disk and
// the generation of a machine are never changed.
func (h *Host) reconfigure(vm *machine, p scripts.VMEnsureParams, s *vswitch) ([]string, error) {
	h.refresh(vm)
	notes := p.Mark + " node=" + p.Node
	var what []string
	for _, step := range []struct {
		differs bool
		// device is what Hyper-V calls it where the machine has to be off.
		device, text string
		apply        func()
	}{
		{vm.Notes != notes, "", "notes", func() { vm.Notes = notes }},
		{vm.MemoryMB != p.MemoryMB, "Memory", fmt.Sprintf("memory %d MB", p.MemoryMB), func() { vm.MemoryMB = p.MemoryMB }},
		{vm.Processors != p.Processors, "Processor", fmt.Sprintf("processors %d", p.Processors), func() { vm.Processors = p.Processors }},
		{vm.MAC != p.MAC, "Network Adapter", "mac", func() { vm.MAC = p.MAC }},
		{vm.Spoofing != p.Spoofing, "", "spoofing", func() { vm.Spoofing = p.Spoofing }},
		{vm.SwitchID != s.ID, "", "switch", func() { vm.SwitchID = s.ID }},
		{!strings.EqualFold(vm.DVD, p.DVD), "", "dvd", func() { vm.DVD = p.DVD }},
		{p.Generation == 2 && vm.SecureBoot != p.SecureBoot, "Firmware", "secure boot " + p.SecureBoot, func() { vm.SecureBoot = p.SecureBoot }},
	} {
		if !step.differs {
			continue
		}
		if step.device != "" && vm.power.on {
			return nil, fail(idInvalidState, vm.Name, "Failed to modify device '%s'.\n'%s' failed to modify device '%s'. (Virtual machine ID %s)\n"+
				"The operation cannot be performed while the virtual machine is in its current state.", step.device, vm.Name, step.device, vm.ID)
		}
		if step.device == "Firmware" && vm.Generation != 2 {
			return nil, fail(idInvalidParam, vm.Name, "The operation is not supported on virtual machine '%s', which is of generation %d.", vm.Name, vm.Generation)
		}
		step.apply()
		what = append(what, step.text)
	}
	return what, nil
}

func (h *Host) seedEject(_ context.Context, p scripts.VMParams) (scripts.Changed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	vm, err := h.byID(p.ID, p.Mark)
	if err != nil || vm.DVD == "" {
		return scripts.Changed{}, err
	}
	vm.DVD = ""
	return changed("seed ejected"), h.store.save()
}

// machineOf returns what Guests is told of a machine. The error is what
// Start-VM says of a disk that is not whole.
func (h *Host) machineOf(vm *machine) (Machine, error) {
	var m Machine
	paths, files, err := h.chain(vm.Disk)
	if err != nil {
		return m, startFailure(vm, "Attachment '%s' failed to open: %v", vm.Disk, err)
	}
	mac, err := net.ParseMAC(spaced(vm.MAC))
	if err != nil {
		return m, err
	}
	m = Machine{
		ID: vm.ID, Name: vm.Name, OS: files[len(files)-1].OS, Switch: vm.SwitchID, MAC: mac, Spoofing: vm.Spoofing,
		Generation: vm.Generation, MemoryMB: vm.MemoryMB, Processors: vm.Processors, Dir: h.diskDir(vm.ID), SecureBoot: vm.Generation == 2 && vm.SecureBoot != "Off",
	}
	if files[len(files)-1].real {
		if m.Image, err = h.drives.real(paths[len(paths)-1]); err != nil {
			return m, err
		}
	}
	for _, f := range files {
		if m.Unattend == nil {
			m.Unattend = f.Unattend
		}
	}
	if vm.DVD != "" {
		if m.Seed, err = h.drives.real(vm.DVD); err != nil {
			return m, err
		}
		if _, err := os.Stat(m.Seed); err != nil {
			return m, startFailure(vm, "Attachment '%s' not found. Error: 'The system cannot find the file specified.' (0x80070002).", vm.DVD)
		}
	}
	return m, os.MkdirAll(m.Dir, 0o700)
}

// diskDir stands for a machine's disk.
func (h *Host) diskDir(id string) string { return filepath.Join(h.o.Dir, "machines", id, "disk") }

// spaced writes 00155D010101 as 00:15:5D:01:01:01.
func spaced(mac string) string {
	var pairs []string
	for pair := range slices.Chunk([]byte(mac), 2) {
		pairs = append(pairs, string(pair))
	}
	return strings.Join(pairs, ":")
}

// osOf returns a machine's operating system, "" when its disk is not whole.
func (h *Host) osOf(vm *machine) topology.OS {
	_, files, err := h.chain(vm.Disk)
	if err != nil {
		return ""
	}
	return files[len(files)-1].OS
}
