package vm

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace starts a process in a network namespace of its own, which lives
// as long as the process, with a tap of that name in it; handle looks into it.
func inNamespace(t *testing.T, tap string, handle **netlink.Handle) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		started := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with this
			started <- func() error {
				ns, err := netns.New()
				if err != nil {
					return err
				}
				defer ns.Close()
				if *handle, err = netlink.NewHandleAt(ns); err != nil {
					return err
				}
				attributes := netlink.NewLinkAttrs()
				attributes.Name = tap
				link := &netlink.Tuntap{LinkAttrs: attributes, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_DEFAULTS | netlink.TUNTAP_NO_PI}
				if err := netlink.LinkAdd(link); err != nil {
					return err
				}
				if err := netlink.LinkSetUp(link); err != nil {
					return err
				}
				return cmd.Start()
			}()
		}()
		return <-started
	}
}

func TestACardIsATapOfTheNamespaceThatTheMachineIsStartedIn(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("makes a network namespace: needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	for _, model := range []string{"virtio", "e1000"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			c := config(t, counts)
			const tap = "be1"
			c.NIC = NIC{Tap: tap, MAC: "02:00:00:00:00:01", Model: model}
			var handle *netlink.Handle
			c.Start = inNamespace(t, tap, &handle)
			v := run(t, c)
			t.Cleanup(handle.Close)
			var own, its unix.Stat_t
			// Not /proc/self: that is the main thread, which may be the one that inNamespace has left in another.
			for path, st := range map[string]*unix.Stat_t{"/proc/thread-self/ns/net": &own, fmt.Sprintf("/proc/%d/ns/net", v.PID()): &its} {
				if err := unix.Stat(path, st); err != nil {
					t.Fatal(err)
				}
			}
			if own.Ino == its.Ino {
				t.Error("the machine is in the host's namespace")
			}
			awaitCount(t, v, 1)
			eventually(t, "the tap has a carrier", func() bool { return carrier(t, handle, tap) })
			for _, up := range []bool{false, true} {
				if err := v.SetLink(t.Context(), up); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func carrier(t *testing.T, handle *netlink.Handle, name string) bool {
	t.Helper()
	link, err := handle.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

func TestAMachineWhoseTapIsNotThereIsNotStarted(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("QEMU makes the tap when it may: needs another user than root")
	}
	c := config(t, counts)
	c.NIC = NIC{Tap: "l4labnone", MAC: "02:00:00:00:00:01"}
	_, err := Start(t.Context(), c)
	wantError(t, err, "QEMU said:", "l4labnone")
}

func TestTheLinkOfAMachineWithoutACard(t *testing.T) {
	t.Parallel()
	v := run(t, config(t, counts))
	wantError(t, v.SetLink(t.Context(), false), "be1: set the link of the virtual machine", "not found")
}
