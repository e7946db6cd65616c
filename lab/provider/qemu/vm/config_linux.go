package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Accel is how a guest's instructions are run.
type Accel string

// KVM runs them on the processor, TCG translates them: slower by an order of magnitude.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// Firmware is what boots a guest from its first disk.
type Firmware string

// BIOS is SeaBIOS, which comes with QEMU; UEFI is OVMF, Debian's package ovmf.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Bus is how a disk is attached.
type Bus string

// Virtio needs a driver in the guest that Windows does not have by itself;
// SATA is a disk, and CD a CD-ROM drive, at an AHCI controller; SCSI is a disk, and
// DVD a DVD drive, at a virtio controller, for which the guest needs a driver, too.
const (
	Virtio Bus = "virtio"
	SATA   Bus = "sata"
	CD     Bus = "cd"
	SCSI   Bus = "scsi"
	DVD    Bus = "dvd"
)

// Disk is a disk image. An image that is not ReadOnly is written to by this
// machine alone: QEMU locks it. A CD drive without a Path is empty.
type Disk struct {
	Path     string
	Format   string // "qcow2" or "raw"
	ReadOnly bool
	Serial   string // what the guest sees, at most 20 characters; "": none
	Bus      Bus    // "": Virtio
}

// NIC is the guest's network card. Frames on its tap have finished checksums
// and are no larger than the MTU: the guest is offered no offloads.
type NIC struct {
	// Tap is an existing tap interface of the namespace that the machine is
	// started in; "": the guest has no card.
	Tap   string
	MAC   string
	Model string // "virtio" (as is "") or "e1000"
}

// Config is a machine to be.
type Config struct {
	// Name is the node's, for messages.
	Name string
	// Dir is the machine's folder; it is made, or made private to its owner.
	Dir string
	// Binary is QEMU's; "": qemu-system-x86_64 on the PATH or in /usr/bin.
	Binary   string
	Accel    Accel
	MemoryMB int
	CPUs     int
	// CPUModel "" is host with KVM and max with TCG.
	CPUModel string
	// Kernel is booted directly, with Initrd and the command line Append. Before
	// its pvpanic driver is loaded, a kernel that panics hangs, or reboots when
	// Append says panic=-1. Kernel "" boots from the first disk by Firmware.
	Kernel, Initrd, Append string
	Firmware               Firmware
	Disks                  []Disk
	NIC                    NIC
	// VGA gives the guest a display adapter, which Windows' boot manager wants;
	// VM.Screen shows what is on it.
	VGA bool
	// Incoming is a state that Save wrote, to go on from, read from where the
	// file stands; nil: the guest boots. Memory, processors, disks and card must
	// be as they were when the state was saved, and so must QEMU's version.
	Incoming *os.File
	// Environment has further variables ("NAME=value"), by which the lab's
	// processes are known.
	Environment []string
	// Start starts the process, in a namespace say; nil: cmd.Start.
	Start func(cmd *exec.Cmd) error
}

// socketLimit is how long the path of a unix socket may be (unix(7): 108 bytes
// with the NUL that ends it).
const socketLimit = 107

// check returns all that is wrong with the machine, before anything is made.
func (c Config) check() error {
	var errs *multierror.Error
	bad := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("it has no name")
	}
	if path := socketFile(c.Dir); !filepath.IsAbs(c.Dir) {
		bad("its folder %q is no absolute path", c.Dir)
	} else if len(path) > socketLimit {
		bad("the path of its socket, %s, has %d bytes and a unix socket's may have %d: choose a shorter state folder", path, len(path), socketLimit)
	}
	if c.Accel != KVM && c.Accel != TCG {
		bad("accelerator %q: there is %q and %q", c.Accel, KVM, TCG)
	}
	if c.MemoryMB <= 0 || c.CPUs <= 0 {
		bad("%d MB of memory and %d processors", c.MemoryMB, c.CPUs)
	}
	if c.Kernel == "" && len(c.Disks) == 0 {
		bad("it has neither a kernel nor a disk to boot from")
	}
	if c.Firmware != "" && c.Firmware != BIOS && c.Firmware != UEFI {
		bad("firmware %q: there is %q and %q", c.Firmware, BIOS, UEFI)
	}
	for _, path := range []string{c.Kernel, c.Initrd} {
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			bad("%q is no absolute path", path)
		} else if _, err := os.Stat(path); err != nil {
			errs = multierror.Append(errs, err)
		}
	}
	for _, d := range c.Disks {
		errs = multierror.Append(errs, d.check())
	}
	errs = multierror.Append(errs, c.NIC.check())
	return errs.ErrorOrNil()
}

func (d Disk) check() error {
	if d.empty() {
		return nil
	}
	if !filepath.IsAbs(d.Path) {
		return fmt.Errorf("the disk %q is no absolute path", d.Path)
	}
	if d.Format != "qcow2" && d.Format != "raw" {
		return fmt.Errorf("the disk %s has the format %q: there is qcow2 and raw", d.Path, d.Format)
	}
	if len(d.Serial) > 20 {
		return fmt.Errorf("the serial number %q of the disk %s has more than 20 characters", d.Serial, d.Path)
	}
	switch d.Bus {
	case "", Virtio, SATA, CD, SCSI, DVD:
	default:
		return fmt.Errorf("the bus %q of the disk %s: there is %q, %q, %q, %q and %q", d.Bus, d.Path, Virtio, SATA, CD, SCSI, DVD)
	}
	_, err := os.Stat(d.Path)
	return err
}

// empty says that it is a drive without a disc.
func (d Disk) empty() bool { return d.Bus == CD && d.Path == "" }

// writable says whether the guest can write to it.
func (d Disk) writable() bool { return !d.ReadOnly && d.Bus != CD && d.Bus != DVD }

// scsi says whether it is at the SCSI controller.
func (d Disk) scsi() bool { return d.Bus == SCSI || d.Bus == DVD }

func (n NIC) check() error {
	if n.Tap == "" {
		return nil
	}
	if n.Model != "" && n.Model != "virtio" && n.Model != "e1000" {
		return fmt.Errorf("network card %q: there is virtio and e1000", n.Model)
	}
	if _, err := net.ParseMAC(n.MAC); err != nil {
		return fmt.Errorf("network card: %w", err)
	}
	return nil
}

// binary finds QEMU's program.
func binary(configured string) (string, error) {
	if configured != "" {
		path, err := exec.LookPath(configured)
		if err != nil {
			return "", err
		}
		return filepath.Abs(path) // it is started in another folder
	}
	const program = "qemu-system-x86_64"
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	// A user's or a service's PATH may lack it.
	if path, err := exec.LookPath("/usr/bin/" + program); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("there is no %s here; install Debian's package qemu-system-x86: %w", program, exec.ErrNotFound)
}

// ovmf are the places where distributions keep OVMF, code and variables, the
// newer layout (4 MB) first.
func ovmf() [][2]string {
	return [][2]string{
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	}
}

// FindUEFI returns the path of the firmware for machines that boot by UEFI.
func FindUEFI() (string, error) {
	for _, pair := range ovmf() {
		if _, err := os.Stat(pair[0]); err == nil {
			return pair[0], nil
		}
	}
	return "", errNoOVMF
}

// errNoOVMF says that the distribution's UEFI firmware is missing.
var errNoOVMF = errors.New("it boots by UEFI and there is no OVMF here; install Debian's package ovmf")

// uefiCode returns OVMF's code, and makes the machine's own copy of its
// variables where there is none yet.
func uefiCode(dir string) (code string, err error) {
	for _, pair := range ovmf() {
		if _, err := os.Stat(pair[0]); err != nil {
			continue
		}
		if _, err := os.Stat(efivarsFile(dir)); err == nil {
			return pair[0], nil
		}
		variables, err := os.ReadFile(pair[1])
		if err != nil {
			return "", fmt.Errorf("copy the UEFI variables: %w", err)
		}
		return pair[0], os.WriteFile(efivarsFile(dir), variables, 0o600)
	}
	return "", errNoOVMF
}

// escape protects a value in one of QEMU's option lists, where a comma ends it.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
