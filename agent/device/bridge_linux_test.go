package device

import (
	"testing"

	"github.com/vishvananda/netlink"

	"l4lab/agent/testnet"
)

// A port that leaves its bridge is announced as AF_BRIDGE's RTM_DELLINK, with the
// index of the interface, which is still there.
func TestInterfaceThatLeavesABridgeHasNotGone(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	changes, ended := make(chan Device, 8), make(chan error, 1)
	pair.Balancer.Do(t, func() {
		d, err := Read("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			err = netlink.LinkAdd(bridge)
		}
		if err != nil {
			t.Error(err)
			return
		}
		watching := make(chan struct{})
		go pair.Balancer.Do(t, func() {
			close(watching)
			ended <- Watch(t.Context(), d, func(d Device) { changes <- d })
		})
		<-watching
		change := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		change(netlink.LinkSetMTU(eth0, 1450))
		if d := <-changes; d.MTU != 1450 { // it listens from here on
			t.Errorf("got %+v", d)
		}
		change(netlink.LinkSetMaster(eth0, bridge))
		change(netlink.LinkSetNoMaster(eth0))
		change(netlink.LinkSetMTU(eth0, 1400))
		select {
		case d := <-changes:
			if d.MTU != 1400 {
				t.Errorf("got %+v", d)
			}
		case err := <-ended:
			t.Errorf("it ended: %v", err)
		}
	})
}
