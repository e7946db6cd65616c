// Package qemuguests gives the simulated Hyper-V host Linux guests that are real
// virtual machines: QEMU boots them by UEFI firmware from the very image (a
// dynamic VHDX) and the very seed disc that labctl made for Hyper-V, with a
// kernel and an init system of their own. Switches, the host's network, captures at
// switch ports and the emulated Windows machines are those of package
// netnsguests, and so are Linux machines of an image that is no real disk.
//
// A machine's disk is a qcow2 file over the image. QEMU opens a dynamic VHDX and
// no differencing one, so the chain of .vhdx and .avhdx files that labctl sees
// stays the model's, and a checkpoint freezes a qcow2 file instead.
//
// Where it is not as on a Hyper-V host:
//
//   - A SCSI disk and a DVD drive are at a virtio controller, and the card is
//     virtio's: QEMU has no devices of Hyper-V's bus. The disc leaves with the
//     machine's next turning on.
//   - Hyper-V's heartbeat is an answer of the guest's kernel over that bus. Here
//     the kernel's answer to a connection counts, once after each turning on, at
//     the address that the seed gave. Of the applications nothing is known.
//   - An orderly shutdown presses the power button. A guest that does not listen
//     to it does not answer, and the model turns it off.
//   - A checkpoint has the disk as after a power cut, without memory.
//   - Secure Boot is not enforced: the firmware here has no keys.
package qemuguests

import (
	"l4lab/lab/provider/hyperv/hvsim/netnsguests"
)

// Options say where the guests live and what they are made of.
type Options struct {
	netnsguests.Options
}
