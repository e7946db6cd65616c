package topology

import (
	"slices"

	"l4lab/strictyaml"
)

const (
	qemuPath = "providers.qemu"
	// minQEMUMemoryMB is what Debian's kernel with systemd and SSH starts in.
	minQEMUMemoryMB = 192
	imagePattern    = `^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`
)

// imageName is the name of an image: it becomes one of a folder.
var imageName = compiled(imagePattern)

// IsImageName says whether an image can have that name.
func IsImageName(s string) bool { return imageName().MatchString(s) }

// qemu judges the block of the QEMU provider.
func (v *validator) qemu() {
	q := v.t.Providers.QEMU
	if q == nil {
		return
	}
	if !IsImageName(q.Images.Linux) {
		v.fault(qemuPath+".images.linux", "%s is no image's name; `labctl image list` has them", strictyaml.Shorten(q.Images.Linux))
	}
	if q.Images.Windows != "" && !IsImageName(q.Images.Windows) {
		v.fault(qemuPath+".images.windows", "%s is no image's name; `labctl image list` has them", strictyaml.Shorten(q.Images.Windows))
	}
	if q.MemoryMB < minQEMUMemoryMB || q.MemoryMB > maxMemoryMB {
		v.fault(qemuPath+".memoryMB", "%d is not between %d and %d", q.MemoryMB, minQEMUMemoryMB, maxMemoryMB)
	}
	if q.CPUs < 1 || q.CPUs > maxCPUs {
		v.fault(qemuPath+".cpus", "%d is not between 1 and %d", q.CPUs, maxCPUs)
	}
	if !slices.Contains([]Accel{AccelAuto, AccelKVM, AccelTCG}, q.Accel) {
		v.fault(qemuPath+".accel", "unknown value %s; allowed are auto, kvm, tcg", strictyaml.Shorten(string(q.Accel)))
	}
}
