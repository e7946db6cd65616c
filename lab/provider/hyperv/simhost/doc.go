// Package simhost runs a simulated Hyper-V host for each lab that wants one:
// `labctl hvsim` as a daemon of the lab's, which outlives labctl, is found again
// by what stands in the lab's folder, and ends when the lab is removed. The
// Hyper-V provider drives it over WinRM and SSH on loopback, as it would a real one.
package simhost

// Name is the provider's name in --provider.
const Name = "hyperv-sim"

// Options say how simulated hosts are started.
type Options struct {
	// Command is the command line that runs a simulated host, to which flags
	// are added: labctl hvsim.
	Command []string
	// Flags are added further: faults to try.
	Flags []string
}
