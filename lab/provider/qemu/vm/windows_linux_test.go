package vm

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// forWindows is a machine with the devices that a Windows guest gets, and another
// guest on its disk: no Windows is at hand.
func forWindows(t *testing.T) Config {
	t.Helper()
	c := onOverlay(t, config(t, counts))
	c.MemoryMB, c.CPUs, c.VGA = 64, 2, true
	c.Disks[0].Bus = SATA
	disc := filepath.Join(filepath.Dir(c.Dir), "seed.iso")
	if err := os.WriteFile(disc, bytes.Repeat([]byte("secret"), 40_000), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Disks = append(c.Disks, Disk{Path: disc, Format: "raw", ReadOnly: true, Bus: CD})
	return c
}

// holds says whether a process has a file open.
func holds(t *testing.T, pid int, path string) bool {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("open files of %d: %v", pid, err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, path) {
			return true
		}
	}
	return false
}

func TestADiscIsTakenOutForGood(t *testing.T) {
	t.Parallel()
	c := forWindows(t)
	v := run(t, c)
	awaitCount(t, v, 1)
	disc := c.Disks[1].Path
	if !holds(t, v.PID(), disc) {
		t.Fatal("the disc is not in the drive")
	}
	for range 2 { // an empty drive stays so
		if err := v.Eject(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if holds(t, v.PID(), disc) {
		t.Error("QEMU still has the disc's file open")
	}
	awaitCount(t, v, last(v)+2)
	// What goes on from a saved state has the drive, empty.
	dir := filepath.Dir(c.Dir)
	state := stateFile(t, dir)
	if err := v.Save(t.Context(), state, []Overlay{{0, filepath.Join(dir, "second.qcow2")}}); err != nil {
		t.Fatal(err)
	}
	again := resume(t, c, c.Disks[0], state.Name(), "again")
	again.Disks[0].Bus = SATA
	again.Disks = append(again.Disks, Disk{Bus: CD})
	before := last(v)
	r := run(t, again)
	if err := r.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, r, before+1)
}

func TestAnEmptyDriveIsADriveFromTheStart(t *testing.T) {
	t.Parallel()
	c := forWindows(t)
	c.Disks[1] = Disk{Bus: CD}
	if args := c.arguments(""); len(valuesOf(args, "-blockdev")) != 1 || !strings.Contains(strings.Join(args, " "), "ide-cd,bus=ide.1,id=disk1,bootindex=2") {
		t.Errorf("arguments %q", args)
	}
	v := run(t, c)
	awaitCount(t, v, 1)
	if err := v.Eject(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

func TestAScreenCanBeLookedAt(t *testing.T) {
	t.Parallel()
	c := forWindows(t)
	v := run(t, c)
	awaitCount(t, v, 1)
	picture := filepath.Join(c.Dir, "screen.png")
	if err := v.Screen(t.Context(), picture); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(picture); err != nil || !bytes.HasPrefix(content, []byte("\x89PNG")) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
}

func TestTheCardThatWindowsKnowsBesideItsOtherDevices(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace: needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	c := forWindows(t)
	const tap = "be1"
	c.NIC = NIC{Tap: tap, MAC: "02:00:00:00:00:01", Model: "e1000"}
	var handle *netlink.Handle
	c.Start = inNamespace(t, tap, &handle)
	v := run(t, c)
	t.Cleanup(handle.Close)
	awaitCount(t, v, 1)
	eventually(t, "the tap has a carrier", func() bool { return carrier(t, handle, tap) })
}
