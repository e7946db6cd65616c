package drivers

import (
	"path/filepath"

	"l4lab/lab/provider/qemu"
	"l4lab/lab/provider/qemu/image"
	"l4lab/topology"
)

// addMachines adds the provider of virtual machines on this one.
func (s *Set) addMachines(o Options) {
	images, err := image.DefaultStore()
	if err != nil {
		return // a user without a home has no place for images, and no rights to run them
	}
	p := qemu.New(qemu.Options{
		Images: images, SetUps: filepath.Join(images.Dir, ".setups"),
		Program: o.Programs[topology.Linux], WindowsProgram: o.Programs[topology.Windows], FirstBoot: o.FirstBoot, Fresh: o.Fresh, Say: o.Say,
		Limits: qemu.Limits{Boot: o.BootLimit},
	})
	s.Drivers = append(s.Drivers, p.Driver())
	s.closers = append(s.closers, p.Close)
}
