package drivers

import (
	"context"
	"path/filepath"

	"l4lab/lab/provider/hyperv/simhost"
	"l4lab/lab/provider/qemu"
	"l4lab/lab/provider/qemu/image"
	"l4lab/topology"
)

// addLinuxDisk has simulated hosts come by the disk that their virtual machines
// start from.
func addLinuxDisk(sim *simhost.Options, o Options) {
	sim.LinuxDisk = func(ctx context.Context) (string, error) {
		images, err := image.DefaultStore()
		if err != nil {
			return "", err
		}
		say := o.Say
		if say == nil {
			say = func(string) {}
		}
		return images.BootableDebian(ctx, o.FirstBoot, say)
	}
	sim.LinuxDiskFound = func() (string, error) {
		images, err := image.DefaultStore()
		if err != nil {
			return "", err
		}
		return images.BootableDebianFound()
	}
}

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
