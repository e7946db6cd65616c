package fabric

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnsureTap makes a tap in a switch's namespace, the place of a virtual machine on the
// switch; EnsurePort does the rest. It stays when the machine ends.
func EnsureTap(sw Namespace, h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		if tap, ok := link.(*netlink.Tuntap); ok && tap.Mode == netlink.TUNTAP_MODE_TAP {
			return nil
		}
		if err := Unplug(h, name); err != nil {
			return err
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("find tap %s: %w", name, err)
	}
	// The device belongs to the namespace of the thread that opens /dev/net/tun.
	err = sw.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: unix.IFF_NO_PI | unix.IFF_TUN_EXCL})
	})
	if err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	return nil
}
