package testnet

import (
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// Switch is a bridge in a namespace of its own, with other namespaces plugged in.
type Switch struct{ Namespace }

// NewSwitch makes one without ports.
func NewSwitch(t testing.TB) Switch {
	t.Helper()
	NeedRoot(t)
	s := Switch{newNamespace(t, "switch")}
	s.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		snooping := false // without a querier it would forget who listens for neighbour solicitations
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}))
		link, err := netlink.LinkByName("br0")
		must(t, err)
		must(t, netlink.LinkSetUp(link))
	})
	return s
}

// Plug makes a namespace whose eth0 is a port of the switch, and has the addresses, each with
// its prefix length. The port on the switch has the name of the role.
func (s Switch) Plug(t testing.TB, role string, addresses ...string) Namespace {
	t.Helper()
	n := newNamespace(t, role)
	s.Do(t, func() {
		bridge, err := netlink.LinkByName("br0")
		must(t, err)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = role, bridge.Attrs().Index
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.Handle)}))
		port, err := netlink.LinkByName(role)
		must(t, err)
		must(t, netlink.LinkSetUp(port))
	})
	n.Do(t, func() { setUp(t, addresses...) })
	return n
}

// CompleteChecksums has a port write the checksums of what it sends to its machine, for a
// program at XDP there that sends the packets on.
func (s Switch) CompleteChecksums(t testing.TB, port string) {
	t.Helper()
	s.Do(t, func() {
		e, err := ethtool.NewEthtool()
		must(t, err)
		defer e.Close()
		must(t, e.Change(port, map[string]bool{"tx-checksum-ip-generic": false}))
	})
}
