// Package vm runs one virtual machine in one QEMU process and looks after it.
//
//	accel, why, err := vm.Probe(ctx, "")
//	v, err := vm.Start(ctx, vm.Config{Name: "be1", Dir: dir, Accel: accel, …})
//	state, err := v.State(ctx)
//	err = v.End(ctx, 20*time.Second)
//
// The machine outlives the process that started it: what is needed to find it
// again lies in its folder (Open), and a pid that another process has by now is
// not taken for it. The folder holds
//
//	vm.json        the process, and which disk is which
//	qmp.sock       where QEMU answers (QEMU Machine Protocol)
//	console.log    what the guest wrote on its first serial port, the newest part;
//	console.log.1  the part before it. Together they are at most 512 KiB.
//	qemu.log       what QEMU itself had to say
//	efivars.fd     the UEFI variables, where there is UEFI
//
// A guest that switches itself off or panics (with the pvpanic driver, which
// Debian's kernels load by themselves) leaves its QEMU stopped, so that State
// can say so; a guest that reboots comes back. Nothing listens but the QMP
// socket, in a folder that only its owner can enter.
//
// Saved state is a file with the guest's memory (QEMU's migration stream) and
// disks that nobody writes to any more: Save moves the running machine onto
// fresh overlays. Another machine goes on from there with Config.Incoming and
// overlays of its own on the frozen disks.
//
// The QMP client is our own. github.com/digitalocean/go-qemu/qmp (2025-02) knows
// no context, so a QEMU that hangs hangs its caller; it takes the next answer
// for the one to the last command, whatever its id; and it brings the libvirt
// client along. What is needed here is a greeting, commands with an id, and one
// file descriptor. The package is empty but on Linux.
package vm
