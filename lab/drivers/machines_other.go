//go:build !linux

package drivers

// addMachines: QEMU's machines need Linux's network namespaces.
func (s *Set) addMachines(Options) {}
