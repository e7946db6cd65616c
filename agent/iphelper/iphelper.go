// Package iphelper is the part of Windows' IP helper API (netioapi.h, iphlpapi.dll) that
// golang.org/x/sys/windows does not have, typed: neighbours of both families, the
// route to a destination, and word of changes.
//
// The layouts stand in files for every system, so that their tests run on any;
// the calls are for Windows alone. None of it was run on a Windows host: it
// rests on the documentation of each function and structure.
package iphelper

import "net/netip"

// The address families of Windows (ws2def.h).
const (
	familyIPv4 = 2
	familyIPv6 = 23
)

// Address is SOCKADDR_INET, a union of sockaddr_in and sockaddr_in6: the family in the
// host's order, the port, of IPv6 the flow information, and the address. What tells
// links apart follows from the interface that is given beside it.
type Address struct {
	Family   uint16
	Port     uint16
	IPv4Flow [4]byte // IPv4's address; of IPv6 the flow information
	IPv6     [16]byte
	Scope    uint32
}

// AddressOf makes a SOCKADDR_INET of an address.
func AddressOf(a netip.Addr) Address {
	if a = a.Unmap(); a.Is4() {
		return Address{Family: familyIPv4, IPv4Flow: a.As4()}
	}
	return Address{Family: familyIPv6, IPv6: a.As16()}
}

// Addr is the address, false when the family is neither of the two.
func (a *Address) Addr() (netip.Addr, bool) {
	switch a.Family {
	case familyIPv4:
		return netip.AddrFrom4(a.IPv4Flow), true
	case familyIPv6:
		return netip.AddrFrom16(a.IPv6), true
	}
	return netip.Addr{}, false
}

// NeighbourState is NL_NEIGHBOR_STATE (nldef.h).
type NeighbourState int32

// The states. From Probe on, the physical address may be used.
const (
	Unreachable NeighbourState = iota
	Incomplete
	Probe
	Delay
	Stale
	Reachable
	Permanent
)

// Neighbour is MIB_IPNET_ROW2: an entry of the neighbour table.
type Neighbour struct {
	Address         Address
	InterfaceIndex  uint32
	InterfaceLUID   uint64
	PhysicalAddress [32]byte
	PhysicalLength  uint32
	State           NeighbourState
	Flags           uint8
	_               [3]byte
	Reachability    uint32 // milliseconds
}

// MAC is the physical address when it is Ethernet's and may be used.
func (n *Neighbour) MAC() (mac [6]byte, ok bool) {
	if n.State <= Incomplete || int(n.PhysicalLength) != len(mac) {
		return mac, false
	}
	return [6]byte(n.PhysicalAddress[:6]), true
}

// neighbourTable is MIB_IPNET_TABLE2: as many rows as Count says, from offset 8 on.
type neighbourTable struct {
	Count uint32
	_     uint32
	Rows  [1]Neighbour
}

// Route is MIB_IPFORWARD_ROW2.
type Route struct {
	InterfaceLUID     uint64
	InterfaceIndex    uint32
	DestinationPrefix struct {
		Prefix Address
		Length uint8
		_      [3]byte
	}
	NextHop              Address
	SitePrefixLength     uint8
	_                    [3]byte
	ValidLifetime        uint32
	PreferredLifetime    uint32
	Metric               uint32
	Protocol             uint32
	Loopback             uint8
	AutoconfigureAddress uint8
	Publish              uint8
	Immortal             uint8
	Age                  uint32
	Origin               uint32
}

// Gateway is the next hop, false when the destination is on the route's own link.
func (r *Route) Gateway() (netip.Addr, bool) {
	a, ok := r.NextHop.Addr()
	return a, ok && !a.IsUnspecified()
}
