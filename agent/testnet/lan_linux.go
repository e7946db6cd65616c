package testnet

import (
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// LAN is namespaces on one switch, each with an eth0.
type LAN struct {
	// Switch has the bridge, and a port of each member's name.
	Switch  Namespace
	members map[string]Namespace
}

// NewLAN makes a namespace for each name, with its address and prefix length.
func NewLAN(t testing.TB, addresses map[string]string) LAN {
	t.Helper()
	NeedRoot(t)
	l := LAN{Switch: newNamespace(t, "switch"), members: make(map[string]Namespace)}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	l.Switch.Do(t, func() {
		must(t, netlink.LinkAdd(bridge))
		must(t, netlink.LinkSetUp(bridge))
	})
	for name, address := range addresses {
		n := newNamespace(t, name)
		l.members[name] = n
		l.Switch.Do(t, func() { plug(t, bridge, name, n.Handle) })
		n.Do(t, func() { setUp(t, address) })
	}
	return l
}

// plug adds a port to the bridge and puts its other end into a namespace.
func plug(t testing.TB, bridge netlink.Link, name string, end netns.NsHandle) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(end)}
	must(t, netlink.LinkAdd(port))
	must(t, netlink.LinkSetMaster(port, bridge))
	must(t, netlink.LinkSetUp(port))
	// Else a program on the other end sees packets whose checksums are still to be filled in.
	e, err := ethtool.NewEthtool()
	must(t, err)
	defer e.Close()
	must(t, e.Change(name, map[string]bool{"tx-checksum-ip-generic": false}))
}

// Member returns the namespace of a name.
func (l LAN) Member(name string) Namespace { return l.members[name] }
