package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/guest/ssh"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/netns"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
	"l4lab/topology"
)

// consoleTail is how much of a console an error quotes, in bytes.
const consoleTail = 2000

// build makes or mends one node's machine.
type build struct {
	*Provider
	lab    provider.Lab
	name   string
	dir    string
	design design
}

// EnsureNode implements provider.Provider. A machine that answers is left alone. One
// that does not, or has ended, is started again from its disk; one that never
// came up, or is to be made from something else, is made anew.
func (p *Provider) EnsureNode(ctx context.Context, lab provider.Lab, name string) error {
	if name == lab.Topology.Client.Name {
		return p.base.EnsureNode(ctx, lab, name)
	}
	b, err := p.prepare(ctx, lab, name)
	if err == nil {
		err = b.ensure(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s (%s): %w", name, lab.Topology.Nodes[name].Address, err)
	}
	return nil
}

// prepare finds out what a node's machine is to be made from.
func (p *Provider) prepare(ctx context.Context, lab provider.Lab, name string) (*build, error) {
	t := lab.Topology
	if _, known := t.Nodes[name]; !known {
		return nil, errors.New("the topology has no such machine")
	}
	img, err := p.image(ctx, imageName(t, name))
	if err != nil {
		return nil, err
	}
	d, err := designOf(lab, name, img)
	return &build{Provider: p, lab: lab, name: name, dir: state.NodeDir(lab.Dir, name), design: d}, err
}

func (b *build) ensure(ctx context.Context) error {
	was, err := readRecord(b.dir)
	if err != nil {
		return err
	}
	replugged, err := b.plug()
	if err != nil {
		return err
	}
	if b.anew(b.lab, b.name) || !was.Ready || was.Design != b.design.hash() {
		return b.make(ctx)
	}
	v, err := vm.Open(b.dir)
	switch {
	case err == nil && v.Alive() && !replugged && !panicked(v):
		err := b.revive(ctx, v)
		if err == nil {
			return b.outfit(ctx, v)
		}
		if errors.Is(err, ssh.ErrAuth) || errors.Is(err, powershell.ErrAuth) || errors.Is(err, powershell.ErrCertificate) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.o.Say(b.name + " does not answer: it is started again")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := b.end(ctx); err != nil {
		return err
	}
	return b.boot(ctx, was.Disk)
}

// anew says whether a node's machine is to be made anew on request, and was not yet.
func (p *Provider) anew(lab provider.Lab, name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.o.Fresh.Of(name) && !p.made[lab.Dir][name]
}

// panicked says whether a machine's kernel hangs in a panic. One that has the pvpanic
// driver tells QEMU; of the others the console ends with the kernel's last words.
func panicked(v *vm.VM) bool {
	return strings.Contains(lastLine(v.Console(consoleTail)), "end Kernel panic")
}

// revive has a machine that runs answer, which it may need a moment for. One that
// refuses the lab's key has been changed by somebody: starting it again mends nothing.
func (b *build) revive(ctx context.Context, v *vm.VM) error {
	s, err := v.State(ctx)
	if err != nil {
		return err
	}
	if s == vm.Paused || s == vm.IOError {
		if err := v.Continue(ctx); err != nil {
			return err
		}
	}
	if b.design.windows != nil {
		return b.reviveWindows(ctx, v)
	}
	g, err := b.guest(b.lab, b.name)
	if err != nil {
		return err
	}
	if err := g.Run(ctx, guest.Command{Argv: []string{"true"}}); errors.Is(err, ssh.ErrAuth) {
		return fmt.Errorf("%w; its authorized_keys or its SSH server were changed: put the key back, or have `labctl up --fresh-node %s --name %s` make the machine anew", err, b.name, b.lab.Topology.Name)
	}
	return b.await(ctx, v, b.o.Limits.Revive)
}

// end ends what runs of the machine. A labctl that was killed may have started it and
// not written it down.
func (b *build) end(ctx context.Context) error {
	b.drop(b.lab, b.name)
	v, err := vm.Open(b.dir)
	if err == nil {
		err = v.End(ctx, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fabric.EndAll(ctx, func(pid int) bool {
		return pid != os.Getpid() && fabric.Environment(pid, fabric.NodeVariable) == b.dir
	})
}

// make makes the machine from nothing.
func (b *build) make(ctx context.Context) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	b.booted()
	if err := image.Overlay(ctx, filepath.Join(b.dir, firstDisk), b.design.image.Disk); err != nil {
		return err
	}
	return b.boot(ctx, firstDisk)
}

// clear leaves nothing of the machine but its seed.
func (b *build) clear(ctx context.Context) error {
	if err := b.end(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("clear its folder: %w", err)
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return fmt.Errorf("make its folder: %w", err)
	}
	disc := b.design.seed
	if b.design.windows != nil {
		var err error
		if disc, err = b.windowsDisc(); err != nil {
			return err
		}
	}
	// It holds the host key's private half.
	if err := state.WriteFile(b.seed(), disc, 0o600); err != nil {
		return fmt.Errorf("write its seed: %w", err)
	}
	return nil
}

const (
	// firstDisk is the name of a machine's disk until a snapshot freezes it.
	firstDisk = "disk.qcow2"
	// systemDisk is its place among the machine's disks, seedDisk that of its seed.
	systemDisk, seedDisk = 0, 1
)

func (b *build) seed() string { return filepath.Join(b.dir, "seed.iso") }

// plug gives the machine its place on the switch; replugged says that a machine which
// runs is not connected to it.
func (b *build) plug() (replugged bool, err error) {
	sw, err := netns.OpenSwitch(b.lab)
	if err != nil {
		return false, err
	}
	defer sw.Close()
	h, err := sw.Netlink()
	if err != nil {
		return false, err
	}
	defer h.Close()
	replugged = !fabric.HasLink(h, b.name)
	if err := fabric.EnsureTap(sw, h, b.name); err != nil {
		return false, err
	}
	return replugged, fabric.EnsurePort(sw, h, port(b.lab, b.name))
}

// boot starts the machine from its disk, waits until it answers, and gives it what
// every role needs.
func (b *build) boot(ctx context.Context, disk string) error {
	v, err := b.launch(ctx, disk, nil)
	if err != nil {
		return err
	}
	limit := b.o.Limits.Boot
	if b.design.windows != nil {
		limit = b.o.Limits.Windows
	}
	if err := b.await(ctx, v, limit); err != nil {
		return err
	}
	if err := b.outfit(ctx, v); err != nil {
		return err
	}
	return b.noteReady()
}

// launch starts QEMU on a disk of the machine's folder; with a guest's memory to go on
// from it is paused.
func (b *build) launch(ctx context.Context, disk string, memory *os.File) (*vm.VM, error) {
	accel, err := b.acceleration()
	if err != nil {
		return nil, err
	}
	was, err := readRecord(b.dir)
	if err != nil {
		return nil, err
	}
	r := record{Design: b.design.hash(), Image: b.design.image.Name, Accel: string(accel), Disk: disk}
	// One that was set up stays so, should it not come this time: what is on its disk
	// is not for a next try to throw away.
	r.Ready = was.Ready && was.Design == r.Design
	if err := r.write(b.dir); err != nil {
		return nil, err
	}
	sw, err := netns.OpenSwitch(b.lab)
	if err != nil {
		return nil, err
	}
	defer sw.Close()
	c := b.machine(accel, disk)
	c.Incoming = memory
	c.Start = func(cmd *exec.Cmd) error { return sw.Do(cmd.Start) }
	return vm.Start(ctx, c)
}

// machine is the virtual machine on a disk of its folder.
func (b *build) machine(accel vm.Accel, disk string) vm.Config {
	img := b.design.image
	c := vm.Config{
		Name: b.name, Dir: b.dir, Accel: accel, MemoryMB: b.design.memoryMB, CPUs: b.design.cpus,
		Kernel: img.Kernel, Initrd: img.Initrd, Append: img.Append, Firmware: vm.Firmware(img.Firmware),
		Disks: []vm.Disk{
			systemDisk: {Path: filepath.Join(b.dir, disk), Format: "qcow2", Serial: "disk"},
			seedDisk:   {Path: b.seed(), Format: "raw", ReadOnly: true, Serial: "seed"},
		},
		NIC:         vm.NIC{Tap: b.name, MAC: port(b.lab, b.name).MAC.String()},
		Environment: []string{fabric.NodeVariable + "=" + b.dir},
	}
	if b.design.windows != nil {
		b.forWindows(&c)
	}
	return c
}

// noteReady remembers that the machine has answered.
func (b *build) noteReady() error {
	r, err := readRecord(b.dir)
	if err != nil {
		return err
	}
	r.Ready = true
	return r.write(b.dir)
}

// acceleration is how the machine is to run: as the topology says, or as fast as it goes.
func (b *build) acceleration() (vm.Accel, error) {
	switch b.design.block.Accel {
	case topology.AccelKVM:
		found, err := b.accel()
		if err == nil && found.Accel != vm.KVM {
			err = fmt.Errorf("providers.qemu.accel is kvm, and KVM does not work here: %s", found.why)
		}
		return vm.KVM, err
	case topology.AccelTCG:
		return vm.TCG, nil
	}
	found, err := b.accel()
	return found.Accel, err
}

// await waits until the machine answers, over SSH or WinRM.
func (b *build) await(ctx context.Context, v *vm.VM, limit time.Duration) error {
	if b.design.windows != nil {
		return b.awaitWindows(ctx, v, limit)
	}
	return b.awaitSSH(ctx, v, limit)
}

// awaitSSH waits until the machine answers SSH. One that ends never will: its console
// says why.
func (b *build) awaitSSH(ctx context.Context, v *vm.VM, limit time.Duration) error {
	g, err := b.guest(b.lab, b.name)
	if err != nil {
		return err
	}
	ready := g.Ready(limit)
	ready.Check = whileRunning(v, ready.Check)
	ready.Hint = "its console is " + filepath.Join(b.dir, "console.log")
	return b.explain(ctx, v, guest.Await(ctx, b.name, ready))
}

// whileRunning makes a look at a guest one that no waiting mends once its machine
// does not run.
func whileRunning(v *vm.VM, look func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if s, err := v.State(ctx); err == nil && s != vm.Running {
			return fmt.Errorf("%w: the machine is %s", guest.ErrNever, s)
		}
		return look(ctx)
	}
}

// explain adds to the error of a wait what may be the reason, and the console's end.
func (b *build) explain(ctx context.Context, v *vm.VM, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if accel, accelErr := b.acceleration(); accelErr == nil && accel == vm.TCG && errors.Is(err, guest.ErrLimit) {
		err = fmt.Errorf("%w (its processor is emulated: on a busy machine that takes minutes)", err)
	}
	return fmt.Errorf("%w; the end of its console:\n%s", err, v.Console(consoleTail))
}
