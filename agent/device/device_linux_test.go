package device

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"l4lab/agent/testnet"
)

func TestReadChoosesTheAddress(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	pair.Balancer.Do(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		second, _ := netlink.ParseAddr("20.1.1.2/24")
		if err := netlink.AddrAdd(eth0, second); err != nil {
			t.Error(err)
		}
		d, err := Read("eth0", netip.Addr{})
		if err != nil || d.Address.String() != "20.1.1.1" || d.Index != eth0.Attrs().Index || d.MTU != 1500 ||
			string(d.MAC[:]) != string(eth0.Attrs().HardwareAddr) {
			t.Errorf("the first address: got %+v, %v", d, err)
		}
		if d, err := Read("eth0", netip.MustParseAddr("20.1.1.2")); err != nil || d.Address.String() != "20.1.1.2" {
			t.Errorf("the address that was asked for: got %+v, %v", d, err)
		}
		for _, c := range []struct{ name, device, address, want string }{
			{"an address that it does not have", "eth0", "20.1.1.3", "20.1.1.1 20.1.1.2"},
			{"an interface that is not there", "eth7", "", "there are lo eth0"},
			{"loopback", "lo", "", "no Ethernet address"},
		} {
			address, _ := netip.ParseAddr(c.address)
			if _, err := Read(c.device, address); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.want)
			}
		}
		if err := netlink.AddrDel(eth0, second); err != nil {
			t.Error(err)
		}
		first, _ := netlink.ParseAddr("20.1.1.1/24")
		if err := netlink.AddrDel(eth0, first); err != nil {
			t.Error(err)
		}
		if _, err := Read("eth0", netip.Addr{}); err == nil || !strings.Contains(err.Error(), "no IPv4 address") {
			t.Errorf("without an address: got %v", err)
		}
	})
}

func TestWatchSeesChangesAndTheEnd(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	changes, ended := make(chan Device), make(chan error, 1)
	pair.Balancer.Do(t, func() {
		d, err := Read("eth0", netip.Addr{})
		if err != nil {
			t.Error(err)
			return
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		watching := make(chan struct{})
		go func() {
			// Its socket must be opened in the namespace, its reads need not be.
			pair.Balancer.Do(t, func() {
				close(watching)
				ended <- Watch(t.Context(), d, func(d Device) { changes <- d })
			})
		}()
		<-watching
		if err := netlink.LinkSetMTU(eth0, 1400); err != nil {
			t.Error(err)
		}
		if d := <-changes; d.MTU != 1400 || d.Address.String() != "20.1.1.1" {
			t.Errorf("got %+v", d)
		}
		if err := netlink.LinkDel(eth0); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, ErrGone) {
			t.Errorf("after the interface went: %v", err)
		}
	})
}
