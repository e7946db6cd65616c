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
		d, err := Read("eth0")
		if err != nil || d.Address4.String() != "20.1.1.1" || d.Index != eth0.Attrs().Index || d.MTU != 1500 ||
			string(d.MAC[:]) != string(eth0.Attrs().HardwareAddr) {
			t.Errorf("the first address: got %+v, %v", d, err)
		}
		if d, err := Read("eth0"); err != nil || d.Address6.IsValid() {
			t.Errorf("with a link-local IPv6 address only: got %+v, %v", d, err)
		}
		testnet.AddAddress(t, eth0, "fd00::1/64")
		testnet.AddAddress(t, eth0, "fd00::2/64")
		if d, err := Read("eth0", netip.MustParseAddr("fd00::1")); err != nil || d.Address6.String() != "fd00::1" || d.Address4.String() != "20.1.1.1" {
			t.Errorf("IPv6's that was asked for and IPv4's first: got %+v, %v", d, err)
		}
		if _, err := Read("eth0", netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")); !errors.Is(err, ErrUnusable) {
			t.Errorf("two of one family: got %v", err)
		}
		if d, err := Read("eth0", netip.MustParseAddr("20.1.1.2")); err != nil || d.Address4.String() != "20.1.1.2" {
			t.Errorf("the address that was asked for: got %+v, %v", d, err)
		}
		for _, c := range []struct{ name, device, address, want string }{
			{"an address that it does not have", "eth0", "20.1.1.3", "20.1.1.1 20.1.1.2"},
			{"an interface that is not there", "eth7", "", "there are lo eth0"},
			{"loopback", "lo", "", "no Ethernet address"},
		} {
			var asked []netip.Addr
			if c.address != "" {
				asked = append(asked, netip.MustParseAddr(c.address))
			}
			if _, err := Read(c.device, asked...); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), c.want) {
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
		if d, err := Read("eth0"); err != nil || d.Address4.IsValid() || !d.Address6.IsValid() {
			t.Errorf("with IPv6 alone: got %+v, %v", d, err)
		}
		for _, cidr := range []string{"fd00::1/64", "fd00::2/64"} {
			address, _ := netlink.ParseAddr(cidr)
			if err := netlink.AddrDel(eth0, address); err != nil {
				t.Error(err)
			}
		}
		if _, err := Read("eth0"); err == nil || !strings.Contains(err.Error(), "has no address") {
			t.Errorf("without an address: got %v", err)
		}
	})
}

func TestWatchSeesChangesAndTheEnd(t *testing.T) {
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	changes, ended := make(chan Device), make(chan error, 1)
	pair.Balancer.Do(t, func() {
		d, err := Read("eth0")
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
		if d := <-changes; d.MTU != 1400 || d.Address4.String() != "20.1.1.1" {
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
