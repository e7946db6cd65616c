package image

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"l4lab/lab/guest/firstboot"
)

// debianFiles are the initrd's program and what is placed in the image.
//
//go:embed debian
var debianFiles embed.FS

// Debian is the recipe "debian": Debian 12 for amd64 with its kernel for clouds,
// systemd, sshd, and what package role/linux uses.
func Debian() Recipe {
	files := tree("debian/rootfs")
	files["etc/systemd/system/"+firstboot.UnitName] = firstboot.Unit
	return Recipe{
		Name: "debian", Suite: "bookworm", Mirror: "http://deb.debian.org/debian", Security: "http://deb.debian.org/debian-security",
		Packages: []string{
			"diffutils", "iproute2", "kmod", "nginx-light", "openssh-server", "openssh-sftp-server", "procps",
			"systemd", "systemd-sysv", "udev",
			// In place of usrmerge, which brings 50 MB of Perl.
			"usr-is-merged",
		},
		Exclude: []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/bug/*", "/usr/share/lintian/*"},
		Kernel:  "linux-image-cloud-amd64",
		Modules: []string{
			"arch", "crypto", "drivers/acpi", "drivers/block", "drivers/cdrom", "drivers/hv", "drivers/input", "drivers/misc/pvpanic", "drivers/net", "drivers/scsi",
			"drivers/virtio", "fs/isofs", "fs/nls", "lib", "net",
		},
		// By pvpanic QEMU learns of a panic, and stops the machine for who asks.
		Initrd: []string{"pvpanic-mmio", "virtio_pci", "virtio_blk", "virtio_net"},
		Drivers: map[string][]string{
			// The virtual bus, disk, DVD drive and card of a Hyper-V machine, and what
			// answers its host's heartbeat and shutdown.
			"hyperv": {"hv_vmbus", "hv_utils", "sd_mod", "sr_mod", "hv_storvsc", "hv_netvsc"},
			// What every other machine is likely to have: a power button, SCSI drives.
			"other": {"button", "evdev", "sd_mod", "sr_mod", "virtio_scsi"},
		},
		Init:   mustRead("debian/init"),
		Files:  files,
		Mask:   strings.Fields(mustRead("debian/masked-units")),
		Enable: []string{firstboot.UnitName, "l4lab-power.socket", "ssh.service", "systemd-networkd.service"},
		MaskAll: map[string]string{
			// A dozen programs at each boot that look for what the image does not
			// have: a file system table, crypto disks, scripts of System V.
			"usr/lib/systemd/system-generators": "etc/systemd/system-generators",
			// What there is to a network interface, networkd needs no rule for.
			"usr/lib/udev/rules.d": "etc/udev/rules.d",
		},
		Remove: []string{
			"etc/ssh/ssh_host_*", "etc/ssh/moduli", // no finite-field key exchange
			"var/lib/systemd/random-seed", "var/log/*.log", "var/log/apt", "var/cache/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old", "etc/*-",
			"usr/lib/udev/hwdb.bin", "usr/lib/udev/hwdb.d", "usr/lib/systemd/network/*",
		},
		Append: strings.Join([]string{
			// No udev renames interfaces; a panic that QEMU is not told of restarts the machine.
			"console=ttyS0 quiet panic=-1 net.ifnames=0",
			// What an emulated CPU pays for with each page, system call or wait, and
			// a lab's machine has no use for: about a third of the boot.
			"nokaslr mitigations=off init_on_alloc=0 lsm= audit=0 cryptomgr.notests nowatchdog mce=off",
			// Programs at the same addresses each time: QEMU translates code by its virtual
			// address, and would translate libc anew for each process. A third of what
			// starting a program costs remains.
			"norandmaps",
			"tsc=reliable no_timer_check rcupdate.rcu_expedited=1",
		}, " "),
		DiskMB: 2048, FirstBootVersion: 2, Version: recipeVersion,
	}
}

func mustRead(name string) string {
	data, err := debianFiles.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("embedded %s: %v", name, err))
	}
	return string(data)
}

// tree returns the embedded files below a folder by their path in the image.
func tree(root string) map[string]string {
	files := map[string]string{}
	err := fs.WalkDir(debianFiles, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[strings.TrimPrefix(name, root+"/")] = mustRead(name)
		return nil
	})
	if err != nil {
		panic(err)
	}
	return files
}
