package path

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hold makes a socket that owns a TCP port of an address and takes nothing: a
// listener whose filter drops every packet. The kernel's tcp_v4_rcv finds it
// for whatever is sent there, runs its filter (tcp_filter), and discards the packet without
// an answer. Nor does anybody else get the port, or a connection to it.
func hold(a netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	// The filter comes first: not one packet is to be taken.
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if err := attachFilter(fd, drop); err != nil {
		return -1, fmt.Errorf("attach the filter: %w", err)
	}
	if err := unix.Bind(fd, socketAddress(a)); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 1)
}

func attachFilter(fd int, filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
}

func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// holdSome holds up to n ports of a range, passing over those that somebody has.
func holdSome(own netip.Addr, first, last uint16, n int) (held map[uint16]int, err error) {
	held = make(map[uint16]int, n)
	for port := int(first); port <= int(last) && len(held) < n; port++ {
		fd, err := hold(netip.AddrPortFrom(own, uint16(port)))
		switch {
		case errors.Is(err, unix.EADDRINUSE):
		case err != nil:
			release(held)
			return nil, fmt.Errorf("hold %s port %d for probes: %w", own, port, err)
		default:
			held[uint16(port)] = fd
		}
	}
	if len(held) == 0 {
		return nil, fmt.Errorf("hold ports for probes: all of %s's %d to %d are in use", own, first, last)
	}
	return held, nil
}

func release(held map[uint16]int) {
	for _, fd := range held {
		_ = unix.Close(fd)
	}
}
