package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// parentFD is the socket to the parent process.
const parentFD = 3

// systemFolders are the top-level folders that a machine has in common with
// this one. Everything else of / is hidden.
var systemFolders = [...]string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"}

// ownFolders begin empty: what this machine has there is its own affair.
var ownFolders = [...]string{
	"boot", "home", "media", "mnt", "opt", "root", "run", "srv", "tmp", "var", "proc", "sys", "dev",
	"usr/local", "etc/ssh", "etc/systemd", "etc/cloud", "etc/netplan", "etc/sudoers.d",
}

// boot is the first half. It returns only when it fails.
func boot() error {
	runtime.LockOSThread() // privileges are a thread's
	file := os.NewFile(parentFD, "parent")
	var c Config
	if err := json.NewDecoder(file).Decode(&c); err != nil {
		return fmt.Errorf("read the machine's configuration: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach from the machine's mounts: %w", err)
	}
	if err := mountRoot(c); err != nil {
		return err
	}
	if err := mountSystem(c.Root); err != nil {
		return err
	}
	if err := bindAll(c); err != nil {
		return err
	}
	if err := pivot(c.Root); err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	argv := append(append([]string{Program}, c.Self[1:]...), "init")
	environment := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		Mark + "=" + os.Getenv(Mark), "GUESTINIT=" + string(text),
	}
	// The runtime marks all descriptors to be closed.
	if _, err := unix.FcntlInt(parentFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	return fmt.Errorf("start init: %w", syscall.Exec(Program, argv, environment))
}

// mountRoot mounts the machine's disk over this machine's system folders.
func mountRoot(c Config) error {
	disk := c.Disk
	if disk == "" {
		if err := unix.Mount("tmpfs", c.Root, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a disk that keeps nothing: %w", err)
		}
		disk = filepath.Join(c.Root, ".disk")
	}
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the disk: %w", err)
		}
	}
	if err := prepareUpper(upper); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)
	if strings.ContainsAny(upper+work, ",:\\") {
		return fmt.Errorf("the disk's path %s has a comma, colon or backslash, which overlayfs cannot take; choose another folder", disk)
	}
	target := c.Root
	if c.Disk == "" {
		target = filepath.Join(c.Root, ".root")
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the disk at %s by overlayfs: %w (it needs a file system with extended attributes, such as ext4, xfs or tmpfs, and not an overlay itself)", disk, err)
	}
	if target != c.Root {
		return unix.Mount(target, c.Root, "", unix.MS_MOVE, "")
	}
	return nil
}

// prepareUpper hides what is not a machine's: own folders are opaque, the
// rest of / gets a whiteout (overlayfs.rst in the kernel's documentation).
func prepareUpper(upper string) error {
	for _, dir := range ownFolders {
		path := filepath.Join(upper, dir)
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return fmt.Errorf("prepare the disk: %w", err)
		}
		if err := unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("prepare the disk: hide this machine's /%s: %w (the disk's file system must have extended attributes)", dir, err)
		}
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return fmt.Errorf("prepare the disk: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(upper, e.Name())
		if slices.Contains(systemFolders[:], e.Name()) {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("prepare the disk: hide this machine's /%s: %w", e.Name(), err)
		}
	}
	return nil
}

// mount is one of the file systems of a running kernel.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountSystem(root string) error {
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []mount{
		{"proc", "proc", "proc", strict, ""},
		{"sysfs", "sys", "sysfs", strict | unix.MS_RDONLY, ""},
		{"bpf", "sys/fs/bpf", "bpf", strict, "mode=0700"},
		{"tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		target := filepath.Join(root, m.target)
		if !strings.HasPrefix(m.target, "sys/") {
			if err := os.MkdirAll(target, 0o755); err != nil {
				return fmt.Errorf("make /%s: %w", m.target, err)
			}
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount /%s: %w", m.target, err)
		}
	}
	if err := newBootID(root); err != nil {
		return err
	}
	if err := guardSettings(filepath.Join(root, "proc/sys")); err != nil {
		return err
	}
	return makeDevices(filepath.Join(root, "dev"))
}

// newBootID gives this boot an id of its own (random(4)): the kernel has been
// running for longer.
func newBootID(root string) error {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid") // a new one at each reading
	if err != nil {
		return err
	}
	path := filepath.Join(root, "run", "boot-id")
	if err := os.WriteFile(path, id, 0o444); err != nil {
		return err
	}
	if err := unix.Mount(path, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("give the boot an id: %w", err)
	}
	return nil
}

// guardSettings leaves a machine the settings of its own network alone: all
// others are this machine's kernel's.
func guardSettings(sys string) error {
	network := filepath.Join(sys, "net")
	if err := errors.Join(
		unix.Mount(sys, sys, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount(network, network, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", sys, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
	); err != nil {
		return fmt.Errorf("guard /proc/sys: %w", err)
	}
	return nil
}

func makeDevices(dev string) error {
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bind(Bind{From: "/dev/" + name, To: filepath.Join(dev, name)}); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, link)); err != nil {
			return fmt.Errorf("make /dev/%s: %w", link, err)
		}
	}
	return nil
}

func bindAll(c Config) error {
	binds := append([]Bind{{From: c.Self[0], To: Program, ReadOnly: true}}, c.Binds...)
	if c.Seed != "" {
		binds = append(binds, Bind{From: c.Seed, To: seedDevice, ReadOnly: true})
	}
	for _, b := range binds {
		b.To = filepath.Join(c.Root, b.To)
		if err := bind(b); err != nil {
			return err
		}
	}
	return nil
}

func bind(b Bind) error {
	st, err := os.Stat(b.From)
	if err != nil {
		return fmt.Errorf("show %s to the machine: %w", b.From, err)
	}
	if st.IsDir() {
		err = os.MkdirAll(b.To, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(b.To), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(b.To, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			f.Close()
		}
	}
	if err == nil {
		err = unix.Mount(b.From, b.To, "", unix.MS_BIND, "")
	}
	if err == nil && b.ReadOnly {
		err = unix.Mount("", b.To, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("show %s to the machine: %w", b.From, err)
	}
	return nil
}

// pivot makes root the root of this mount namespace; nothing of the old one is left.
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2): with both the same, the old root lies on top of the new one.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return os.Chdir("/")
}

// dropPrivileges takes from the machine for good what would reach the kernel
// that it shares with this one.
func dropPrivileges() error {
	for _, capability := range []uintptr{
		unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_TIME, unix.CAP_MKNOD, unix.CAP_SYS_BOOT, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
	} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return nil
}
