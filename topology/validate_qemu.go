package topology

import (
	"reflect"

	"l4lab/strictyaml"
)

const (
	qemuPath = "providers.qemu"
	// minQEMUMemoryMB is what Debian's kernel with systemd and SSH starts in.
	minQEMUMemoryMB = 192
	// minWindowsMemoryMB is Microsoft's minimum for Windows Server without a desktop.
	minWindowsMemoryMB = 512
	imagePattern       = `^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`
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
	v.oneOf(qemuPath+".accel", string(q.Accel), string(AccelAuto), string(AccelKVM), string(AccelTCG))
	v.qemuWindows(*q)
}

// qemuWindows judges what is for real Windows guests.
func (v *validator) qemuWindows(q QEMU) {
	const path = qemuPath + ".windows"
	w := q.Windows
	if q.Images.Windows == "" {
		if !reflect.ValueOf(w).IsZero() {
			v.fault(path, "is for real Windows guests, and images.windows names no image: without one, Linux machines stand in for them")
		}
		return
	}
	if w.MemoryMB < minWindowsMemoryMB || w.MemoryMB > maxMemoryMB {
		v.fault(path+".memoryMB", "%d is not between %d and %d", w.MemoryMB, minWindowsMemoryMB, maxMemoryMB)
	}
	if w.CPUs < 1 || w.CPUs > maxCPUs {
		v.fault(path+".cpus", "%d is not between 1 and %d", w.CPUs, maxCPUs)
	}
	v.oneOf(path+".nic", string(w.NIC), string(CardE1000), string(CardVirtio))
	v.ebpf(path+".ebpf", w.EBPF)
}
