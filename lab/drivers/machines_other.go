//go:build !linux

package drivers

import "l4lab/lab/provider/hyperv/simhost"

// addLinuxDisk: simulated hosts exist on Linux alone.
func addLinuxDisk(*simhost.Options, Options) {}

// addMachines: QEMU's machines need Linux's network namespaces.
func (s *Set) addMachines(Options) {}
