package vm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// The descriptors that QEMU inherits (exec.Cmd.ExtraFiles begins at 3).
const (
	fdQMP = 3 + iota
	fdConsole
	fdIncoming
)

// The names of things inside QEMU that commands refer to.
const deviceNIC = "nic0"

func deviceDisk(i int) string { return fmt.Sprintf("disk%d", i) }
func nodeDisk(i int) string   { return fmt.Sprintf("disk%d-0", i) }

// arguments is the machine as QEMU's command line. What is here decides whether
// a saved state can be loaded: the devices and their order must not change.
func (c Config) arguments(uefi string) []string {
	args := []string{
		"-name", "guest=" + escape(c.Name),
		"-no-user-config", "-nodefaults", "-display", "none",
		// No new programs, no other user ids, and no changes of its own priority.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", c.machine(uefi),
		"-m", strconv.Itoa(c.MemoryMB),
		"-smp", strconv.Itoa(c.CPUs),
		"-cpu", c.cpu(),
		"-rtc", "base=utc",
		// A guest that has ended stays to be looked at, one that reboots does so.
		"-action", "reboot=reset,shutdown=pause,panic=pause",
		// The socket is made and opened by us: it answers from the first moment,
		// and its path is not among QEMU's options.
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d,server=on,wait=off", fdQMP),
		"-mon", "chardev=qmp,mode=control",
		"-add-fd", fmt.Sprintf("fd=%d,set=1", fdConsole),
		// append: a pipe cannot be truncated.
		"-chardev", "file,id=console,path=/dev/fdset/1,append=on",
		"-device", "isa-serial,chardev=console",
		// Debian's kernels load its driver by the ACPI id QEMU0001.
		"-device", "pvpanic",
	}
	if c.Accel == TCG {
		args = append(args, "-accel", fmt.Sprintf("tcg,tb-size=%d", c.translatedMB()))
	} else {
		args = append(args, "-accel", string(c.Accel))
	}
	if c.Kernel != "" {
		args = append(args, "-kernel", c.Kernel, "-append", c.Append)
		if c.Initrd != "" {
			args = append(args, "-initrd", c.Initrd)
		}
	}
	if uefi != "" {
		args = append(args,
			"-blockdev", blockdev("efi-code", Disk{Path: uefi, Format: "raw", ReadOnly: true}),
			"-blockdev", blockdev("efi-vars", Disk{Path: efivarsFile(c.Dir), Format: "raw"}))
	}
	if c.VGA {
		args = append(args, "-device", "VGA")
	}
	if slices.ContainsFunc(c.Disks, Disk.scsi) {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi")
	}
	for i, d := range c.Disks {
		if !d.empty() {
			args = append(args, "-blockdev", blockdev(nodeDisk(i), d))
		}
		args = append(args, "-device", d.device(i))
	}
	args = append(args, c.NIC.arguments()...)
	if c.Incoming != nil {
		args = append(args, "-S", "-incoming", fmt.Sprintf("fd:%d", fdIncoming))
	}
	return args
}

// translatedMB is how much translated code is kept: 96 MB hold that of a booted Debian,
// and Windows has more of it. QEMU would take a quarter of the guest's memory, up to 1 GB.
func (c Config) translatedMB() int { return max(96, c.MemoryMB/8) }

func (c Config) machine(uefi string) string {
	// q35, not microvm or pc: measured, see docs/qemu.md. Without the system
	// management mode, which an emulated SeaBIOS spends a while on.
	machine := "q35,usb=off,smm=off"
	if uefi != "" {
		machine += ",pflash0=efi-code,pflash1=efi-vars"
	}
	return machine
}

func (c Config) cpu() string {
	switch {
	case c.CPUModel != "":
		return c.CPUModel
	case c.Accel == KVM:
		return "host"
	}
	return "max"
}

// blockdev describes an image in JSON, in which a path may hold anything.
func blockdev(node string, d Disk) string {
	text, _ := json.Marshal(map[string]any{
		"driver":    d.Format,
		"node-name": node,
		"read-only": !d.writable(),
		"file":      map[string]any{"driver": "file", "filename": d.Path},
	})
	return string(text)
}

func (d Disk) device(i int) string {
	device := "virtio-blk-pci"
	switch d.Bus {
	case SATA:
		device = fmt.Sprintf("ide-hd,bus=ide.%d", i)
	case CD:
		device = fmt.Sprintf("ide-cd,bus=ide.%d", i)
	case SCSI:
		device = fmt.Sprintf("scsi-hd,bus=scsi.0,lun=%d", i)
	case DVD:
		device = fmt.Sprintf("scsi-cd,bus=scsi.0,lun=%d", i)
	}
	device += ",id=" + deviceDisk(i)
	if !d.empty() {
		device += ",drive=" + nodeDisk(i)
	}
	device += fmt.Sprintf(",bootindex=%d", i+1) // 0 is that of -kernel
	if d.Serial != "" {
		device += ",serial=" + escape(d.Serial)
	}
	return device
}

func (n NIC) arguments() []string {
	if n.Tap == "" {
		return nil
	}
	model := "virtio-net-pci"
	if n.Model == "e1000" {
		model = "e1000"
	}
	return []string{
		// Without vnet_hdr the guest is offered neither checksum nor segmentation
		// offload, so that frames on the tap are what they are on a wire.
		"-netdev", "tap,id=net0,ifname=" + escape(n.Tap) + ",script=no,downscript=no,vnet_hdr=off",
		// No option ROM: nothing boots from the network.
		"-device", model + ",id=" + deviceNIC + ",netdev=net0,mac=" + n.MAC + ",romfile=",
	}
}
