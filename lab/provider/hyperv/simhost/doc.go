// Package simhost runs a simulated Hyper-V host for each lab that wants one:
// `labctl hvsim` as a daemon of the lab's, which outlives labctl, is found again
// by what stands in the lab's folder, and ends when the lab is removed. The
// Hyper-V provider drives it over WinRM and SSH on loopback, as it would a real one.
package simhost

import (
	"context"
	"time"
)

// Name is the provider's name in --provider.
const Name = "hyperv-sim"

// Options say how simulated hosts are started.
type Options struct {
	// Command is the command line that runs a simulated host, to which flags
	// are added: labctl hvsim.
	Command []string
	// Flags are added further: faults to try.
	Flags []string
	// Guests is what Linux machines of a new host are, Namespaces or QEMU; "" is
	// Namespaces, and for a host that was started before what it had.
	Guests string
	// LinuxDisk returns the VHDX that machines in QEMU start from, and makes it
	// when it is missing; LinuxDiskFound says how it would be come by.
	LinuxDisk      func(ctx context.Context) (string, error)
	LinuxDiskFound func() (found string, err error)
	// BootLimit is how long a machine in QEMU may take to boot; 0: the provider's default.
	BootLimit time.Duration
}

// What Linux machines of a simulated host are: namespaces that stand for machines
// (package netnsguests), or virtual machines (package qemuguests).
const (
	Namespaces = "netns"
	QEMU       = "qemu"
)
