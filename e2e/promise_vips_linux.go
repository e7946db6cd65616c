package e2e

import (
	"maps"
	"net/netip"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/agent/web/pattern"
	"l4lab/topology"
)

// Numbers of the services that the specs below add.
const (
	besideID = 40
	ip6ID    = 41
)

// sideBySideVIPs is about several virtual addresses at once, of both families.
func (b *balanced) sideBySideVIPs() {
	It("keeps two addresses apart that differ in mode and backends, under load and while either is switched", func() {
		b.needs(linuxClient)
		other := netip.AddrPortFrom(netip.MustParseAddr("40.1.1.2"), 80)
		DeferCleanup(b.restart) // gives the first one all backends again, after all else went
		b.addIn("client", "route", other.Addr().String()+"/32", "via", b.t.Nodes["lb"].Address.String())
		for _, name := range []string{"be3", "be4"} {
			b.addIn(name, "address", other.Addr().String()+"/32", "dev", "lo")
		}
		b.setBackends(directID, map[string]uint16{"be1": 1, "be2": 1})
		b.put(api.Service{ID: besideID, Frontend: other, Mode: "snat"}, b.backend("be3", 80), b.backend("be4", 80))
		load := crowds{b.gather(vip(), askLimit), b.gather(other, askLimit)}
		for _, modes := range [][2]string{{"dsr", "snat"}, {"snat", "snat"}, {"snat", "dsr"}, {"dsr", "dsr"}} {
			for i, id := range []uint32{directID, besideID} {
				Expect(b.agent.SetMode(GinkgoT().Context(), api.ModeUpdate{ServiceID: id, Mode: modes[i]})).To(Succeed())
			}
			load.goesOn(crowdRate / 5)
			for i, to := range []netip.AddrPort{vip(), other} {
				c, err := converseFrom(b.machine("client"), to)
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(c.close)
				Expect(peer(c).Addr()).To(Equal(b.seenIn(modes[i])), "whom the backend of %s in %s sees", to, modes[i])
			}
		}
		load.loseNothing("two addresses were switched in turn")
		Expect(load[0].backends()).To(Equal([]string{"be1", "be2"}))
		Expect(load[1].backends()).To(Equal([]string{"be3", "be4"}))
	})

	// Last, since it restarts the agent, which then has an address of IPv6, too.
	It("loses no connection to an IPv6 address while its mode is switched to and fro under load", func() {
		b.needs(namespaces)
		b.needs(processes)
		DeferCleanup(b.silenceIP6)
		six := b.speakIP6()
		to := netip.AddrPortFrom(six.vip, 80)
		var its []netip.AddrPort
		for _, name := range b.t.Backends() {
			its = append(its, netip.AddrPortFrom(six.backends[name], to.Port()))
		}
		b.put(api.Service{ID: ip6ID, Frontend: to, Mode: string(topology.DSR)}, its...)
		load := crowds{b.gather(to, askLimit), b.gather(vip(), askLimit)}
		for _, mode := range []string{"snat", "dsr", "snat"} {
			Expect(b.agent.SetMode(GinkgoT().Context(), api.ModeUpdate{ServiceID: ip6ID, Mode: mode})).To(Succeed())
			load.goesOn(crowdRate / 5)
			c, err := converseFrom(b.machine("client"), to)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.close)
			Expect(peer(c).Addr()).To(Equal(map[string]netip.Addr{"dsr": six.client, "snat": six.own}[mode]))
			const size = 4 << 20
			want, err := pattern.SHA256(size, 7)
			Expect(err).NotTo(HaveOccurred())
			Expect(b.sendUp(to, size, 7)).To(Equal(want), "an upload in %s, at first in packets that are too large for 6in6", mode)
			Expect(b.fetchDown(to, size, 7)).To(Equal(want))
		}
		load.loseNothing("an IPv6 address was switched three times")
		Expect(load[0].backends()).To(Equal(b.t.Backends()))
	})
}

// seenIn is the client as a backend sees it in a mode.
func (b *balanced) seenIn(mode string) netip.Addr {
	return map[string]netip.Addr{"dsr": b.t.Client.Address, "snat": b.t.Nodes["lb"].Address}[mode]
}

// backends are those who answered what came and what stays.
func (c *crowd) backends() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	answered := map[string]bool{}
	for _, r := range c.stay {
		answered[r.backend] = true
	}
	for _, n := range c.came {
		if n.err == nil {
			answered[n.backend] = true
		}
	}
	return slices.Sorted(maps.Keys(answered))
}
