package neighbour

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"l4lab/agent/datapath"
	"l4lab/agent/rtnetlink"
)

// system is Linux, through netlink.
type system struct{ index int }

// NewSystem returns the routes and neighbours of the interface with that index,
// in the network namespace of the process.
func NewSystem(index int) System { return system{index: index} }

// usable are the states whose MAC the kernel itself would send to (NUD_VALID of
// net/neighbour.h).
const usable = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE |
	netlink.NUD_PROBE | netlink.NUD_STALE | netlink.NUD_DELAY

func (s system) NextHop(backend netip.Addr) (netip.Addr, error) {
	routes, err := netlink.RouteGet(backend.AsSlice())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the route to %s: %w", backend, err)
	}
	if len(routes) == 0 {
		return netip.Addr{}, fmt.Errorf("there is no route to %s", backend)
	}
	r := routes[0] // the kernel answers with the one that it would take
	switch {
	case r.Type != unix.RTN_UNICAST:
		return netip.Addr{}, fmt.Errorf("the route to %s is no unicast route (type %d): is it an address of this machine?", backend, r.Type)
	case r.LinkIndex != s.index:
		return netip.Addr{}, fmt.Errorf("the route to %s leaves through interface %d, the balancer sends through %d", backend, r.LinkIndex, s.index)
	}
	if gateway, ok := addressOf(r.Gw); ok {
		return gateway, nil
	}
	if via, ok := r.Via.(*netlink.Via); ok { // an IPv4 route through an IPv6 router (RFC 8950)
		if gateway, ok := addressOf(via.Addr); ok {
			return gateway, nil
		}
	}
	return backend, nil
}

// addressOf returns IPv4's always in four bytes: netlink gives it in sixteen too.
func addressOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

// familyOf is an address' as netlink knows it.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func (s system) Entries() (map[netip.Addr]Entry, error) {
	entries := make(map[netip.Addr]Entry)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := s.list(family)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if address, ok := addressOf(n.IP); ok {
				entries[address] = entryOf(n)
			}
		}
	}
	return entries, nil
}

// list reads one family's table; a read that changes interrupted is done again.
func (s system) list(family int) (list []netlink.Neigh, err error) {
	const tries = 5
	for range tries {
		list, err = netlink.NeighList(s.index, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the neighbours of interface %d: %w", s.index, err)
	}
	return list, nil
}

func entryOf(n netlink.Neigh) Entry {
	if n.State&netlink.NUD_FAILED != 0 {
		return Entry{State: Failed}
	}
	var e Entry
	if n.State&usable == 0 || len(n.HardwareAddr) != len(e.MAC) {
		return e
	}
	e.MAC = datapath.MAC(n.HardwareAddr)
	if e.MAC != (datapath.MAC{}) {
		e.State = Valid
	}
	return e
}

// Resolve sets NTF_USE, with which the kernel treats the entry as if it sent a
// packet: it asks where it knows nothing, and asks again where it is not sure.
// An entry that somebody has set needs no asking, and NTF_USE would unset it: the
// kernel takes NUD_PERMANENT off (__neigh_update in net/core/neighbour.c).
func (s system) Resolve(nextHop netip.Addr) error {
	set, err := s.isSet(nextHop)
	if err != nil || set {
		return err
	}
	err = netlink.NeighSet(&netlink.Neigh{
		LinkIndex: s.index,
		Family:    familyOf(nextHop),
		Flags:     netlink.NTF_USE,
		IP:        net.IP(nextHop.AsSlice()),
	})
	if err != nil {
		return fmt.Errorf("ask for the MAC of %s: %w", nextHop, err)
	}
	return nil
}

// Forget sets the entry's state to NUD_NONE. Deleting it would do too, but the
// kernel announces that as a failure, and the MAC in the map shall stay meanwhile.
func (s system) Forget(nextHop netip.Addr) error {
	set, err := s.isSet(nextHop)
	if err != nil || set {
		return err
	}
	none := netlink.Neigh{LinkIndex: s.index, Family: familyOf(nextHop), State: netlink.NUD_NONE, IP: net.IP(nextHop.AsSlice())}
	if err := netlink.NeighSet(&none); err != nil {
		return fmt.Errorf("forget the MAC of %s: %w", nextHop, err)
	}
	return nil
}

// isSet says whether somebody has set the entry by hand, so that the kernel
// neither asks for it nor lets it age.
//
// It asks for the one entry (RTM_GETNEIGH without a dump, Linux 5.0): every hop is asked for every probeEvery, and
// each time the whole table would be 3 s of a processor where it has 1,000 entries.
func (s system) isSet(nextHop netip.Addr) (bool, error) {
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	request.AddData(&netlink.Ndmsg{Family: uint8(familyOf(nextHop)), Index: uint32(s.index)})
	request.AddData(nl.NewRtAttr(netlink.NDA_DST, nextHop.AsSlice()))
	answers, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	var n *netlink.Neigh
	if err == nil && len(answers) != 1 {
		err = fmt.Errorf("%d answers", len(answers))
	}
	if err == nil {
		n, err = netlink.NeighDeserialize(answers[0])
	}
	if err != nil {
		return false, fmt.Errorf("read the neighbour %s of interface %d: %w", nextHop, s.index, err)
	}
	return n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0, nil
}

// resyncDelay gathers changes of routes and addresses, which come in bursts.
const resyncDelay = 50 * time.Millisecond

func (s system) Watch(ctx context.Context, entry func(netip.Addr, Entry), resync func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var gathering sync.WaitGroup
	defer gathering.Wait() // resync is not called any more once Watch has returned
	defer cancel()
	changes := make(chan struct{}, 1)
	gathering.Go(func() { gather(ctx, changes, resync) })
	groups := []uint{
		unix.RTNLGRP_NEIGH, unix.RTNLGRP_LINK,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_IFADDR,
	}
	return rtnetlink.Watch(ctx, groups, func(m syscall.NetlinkMessage) {
		switch m.Header.Type {
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			n, err := netlink.NeighDeserialize(m.Data)
			if err != nil || n.LinkIndex != s.index {
				return
			}
			address, ok := addressOf(n.IP)
			if !ok { // a bridge's: a MAC without an address
				return
			}
			e := entryOf(*n)
			if m.Header.Type == unix.RTM_DELNEIGH {
				e = Entry{}
			}
			entry(address, e)
		default:
			select {
			case changes <- struct{}{}:
			default: // one is waiting already
			}
		}
	}, resync)
}

// gather calls do resyncDelay after the first change of a burst, until ctx ends.
func gather(ctx context.Context, changes <-chan struct{}, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resyncDelay):
		}
		select { // what came meanwhile is seen by this call
		case <-changes:
		default:
		}
		do()
	}
}
