// Package rtnetlink listens to what the kernel says of links, addresses, routes and
// neighbours. One socket for all groups keeps their messages in order, and lost
// messages, which the subscriptions of the netlink library end with, are said
// here: who follows a state reads it anew.
package rtnetlink

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// receiveBuffer is the socket's, in bytes: about 2,000 messages.
const receiveBuffer = 1 << 20

// Watch calls message for each message of the groups (unix.RTNLGRP_…) until
// ctx ends, whose error it returns then. It calls lost once when it has begun to
// listen and again whenever messages were lost: what must be known of the time before
// has to be read after that. Both are called from Watch's own goroutine.
func Watch(ctx context.Context, groups []uint, message func(syscall.NetlinkMessage), lost func()) error {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("subscribe to rtnetlink: %w", err)
	}
	defer socket.Close()
	// Without CAP_NET_ADMIN the default size stays, and messages are lost sooner.
	_ = socket.SetReceiveBufferSize(receiveBuffer, false)
	stop := context.AfterFunc(ctx, socket.Close)
	defer stop()
	lost()
	for {
		messages, from, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive from rtnetlink: %w", err)
		case from.Pid != nl.PidKernel:
			continue // any process may send to the socket
		}
		for _, m := range messages {
			message(m)
		}
	}
}
