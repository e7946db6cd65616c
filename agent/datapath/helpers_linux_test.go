package datapath

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
)

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func withPort(e netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(e.Addr(), port)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *host) deleteLink(t *testing.T) {
	t.Helper()
	link := h.Link(t)
	h.Do(t, func() { check(t, netlink.LinkDel(link)) })
}

// addBridge adds an interface whose driver has no native XDP.
func addBridge(t *testing.T) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	check(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := netlink.LinkByName("br0")
	check(t, err)
	check(t, netlink.LinkSetUp(link))
	return link.Attrs().Index
}

// swapMembers gives two members of a map's value one another's names.
func swapMembers(t *testing.T, m *ebpf.MapSpec, a, b string) {
	t.Helper()
	value, ok := m.Value.(*btf.Struct)
	if !ok {
		t.Fatalf("value is %T", m.Value)
	}
	swapped := 0
	for i := range value.Members {
		switch value.Members[i].Name {
		case a:
			value.Members[i].Name = b
			swapped++
		case b:
			value.Members[i].Name = a
			swapped++
		}
	}
	if swapped != 2 {
		t.Fatalf("no members %s and %s", a, b)
	}
}
