package vm

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAMachineWhoseHostsDiskIsFullWaitsAndGoesOn(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounts a small file system: needs root")
	}
	needImages(t)
	c := config(t, counts)
	small := folder(t)
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("mount a small file system: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	// An empty overlay takes 200 KB, and its first write two clusters of 64 KiB.
	c.Disks[0] = Disk{Path: overlay(t, c.Disks[0], filepath.Join(small, "top.qcow2")), Format: "qcow2"}
	v := run(t, c)
	awaitState(t, v, IOError)
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=10m"); err != nil {
		t.Fatal(err)
	}
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, 3)
	sameMoment(t, v)
}
