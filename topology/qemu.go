package topology

import "reflect"

// QEMU says what the machines of the QEMU provider are made from. Everything has a
// default, so that a file needs no such block.
type QEMU struct {
	Images QEMUImages `yaml:"images" json:"images,omitzero"`
	// MemoryMB and CPUs are each machine's.
	MemoryMB int   `yaml:"memoryMB" json:"memoryMB,omitempty"`
	CPUs     int   `yaml:"cpus" json:"cpus,omitempty"`
	Accel    Accel `yaml:"accel" json:"accel,omitempty"`
	// Windows is for real Windows guests, with Images.Windows alone.
	Windows QEMUWindows `yaml:"windows" json:"windows,omitzero"`
}

// QEMUWindows is what the machines of Windows nodes are, in place of what those of
// Linux nodes are, and what they get. There is no login: labctl makes a password up
// for the lab.
type QEMUWindows struct {
	MemoryMB int  `yaml:"memoryMB" json:"memoryMB,omitempty"`
	CPUs     int  `yaml:"cpus" json:"cpus,omitempty"`
	NIC      Card `yaml:"nic" json:"nic,omitempty"`
	EBPF     EBPF `yaml:"ebpf" json:"ebpf,omitzero"`
}

// Card is the network card that QEMU gives a guest.
type Card string

// The cards: Windows has a driver for e1000; virtio is faster and wants one in the image.
const (
	CardE1000  Card = "e1000"
	CardVirtio Card = "virtio"
)

// QEMUImages names an image of `labctl image list` for each operating system.
type QEMUImages struct {
	Linux string `yaml:"linux" json:"linux,omitempty"`
	// Windows "" has Linux machines stand in for Windows ones, with XDP.
	Windows string `yaml:"windows" json:"windows,omitempty"`
}

// Accel is how the instructions of guests are run.
type Accel string

// The ways: what works here, the processor's virtualisation, or emulation.
const (
	AccelAuto Accel = "auto"
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// The values of fields of the qemu block that a file may leave out.
const (
	DefaultQEMUImage = "debian"
	// DefaultQEMUMemoryMB is enough for Debian with systemd, SSH, the agent and its maps.
	DefaultQEMUMemoryMB = 240
	DefaultQEMUCPUs     = 1
)

func (q *QEMU) fill(has func(path string) bool) {
	if !has("images.linux") {
		q.Images.Linux = DefaultQEMUImage
	}
	if !has("memoryMB") {
		q.MemoryMB = DefaultQEMUMemoryMB
	}
	if !has("cpus") {
		q.CPUs = DefaultQEMUCPUs
	}
	if !has("accel") {
		q.Accel = AccelAuto
	}
	if q.Images.Windows != "" {
		q.Windows.fill(func(path string) bool { return has("windows." + path) })
	}
}

func (w *QEMUWindows) fill(has func(path string) bool) {
	if !has("memoryMB") {
		w.MemoryMB = DefaultWindowsMemoryMB
	}
	if !has("cpus") {
		w.CPUs = DefaultCPUs
	}
	if !has("nic") {
		w.NIC = CardE1000
	}
	if !has("ebpf.profile") {
		w.EBPF.Profile = ProfileEFW
	}
}

// files returns pointers to the paths of files of this machine in the block.
func (q *QEMU) files() []*string { return q.Windows.EBPF.files() }

// FilledQEMU returns a block with every default, also for a topology without one.
func FilledQEMU(q *QEMU) QEMU {
	var filled QEMU
	if q != nil {
		filled = *q
	}
	filled.fill(func(path string) bool { return !at(reflect.ValueOf(&filled).Elem(), path).IsZero() })
	return filled
}
