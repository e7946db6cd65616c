package device

import (
	"context"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"l4lab/agent/rtnetlink"
)

// Watch calls changed with the device whenever its MTU or MAC is another one,
// until ctx ends, or with ErrGone when the interface is deleted. Addresses and name
// stay those of d.
func Watch(ctx context.Context, d Device, changed func(Device)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	see := func(attrs *netlink.LinkAttrs) {
		if attrs.MTU == 0 {
			return // a message about something else of the link, without its MTU
		}
		now := d
		now.MTU = attrs.MTU
		if len(attrs.HardwareAddr) == len(now.MAC) {
			now.MAC = [6]byte(attrs.HardwareAddr)
		}
		if now != d {
			d = now
			changed(d)
		}
	}
	err := rtnetlink.Watch(ctx, []uint{unix.RTNLGRP_LINK}, func(m syscall.NetlinkMessage) {
		// Other families tell of other things: a port that leaves its bridge
		// comes as AF_BRIDGE's RTM_DELLINK.
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			return
		}
		l, err := netlink.LinkDeserialize(&unix.NlMsghdr{Type: m.Header.Type}, m.Data)
		if err != nil || l.Attrs().Index != d.Index {
			return
		}
		if m.Header.Type == unix.RTM_DELLINK {
			cancel(ErrGone)
			return
		}
		see(l.Attrs())
	}, func() {
		l, err := netlink.LinkByIndex(d.Index)
		if err != nil {
			if _, gone := err.(netlink.LinkNotFoundError); gone {
				cancel(ErrGone)
			}
			return
		}
		see(l.Attrs())
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
