package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/agent/web/pattern"
	"l4lab/lab/role"
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
		other := netip.AddrPortFrom(netip.MustParseAddr("40.1.1.2"), 80)
		DeferCleanup(b.restart) // gives the first one all backends again, after all else went
		b.ipExec("client", "route", other.Addr().String()+"/32", "via", b.t.Nodes["lb"].Address.String())
		for _, name := range []string{"be3", "be4"} {
			b.ipExec(name, "address", other.Addr().String()+"/32", "dev", "lo")
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
		to := b.speakIP6()
		load := crowds{b.gather(to, askLimit), b.gather(vip(), askLimit)}
		for _, mode := range []string{"snat", "dsr", "snat"} {
			Expect(b.agent.SetMode(GinkgoT().Context(), api.ModeUpdate{ServiceID: ip6ID, Mode: mode})).To(Succeed())
			load.goesOn(crowdRate / 5)
			c, err := converseFrom(b.machine("client"), to)
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(c.close)
			Expect(peer(c).Addr()).To(Equal(map[string]netip.Addr{"dsr": ip6Of(b.t.Client.Address), "snat": ip6Of(b.t.Nodes["lb"].Address)}[mode]))
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

// ipExec adds something with iproute2 on a machine, and takes it back when the spec ends.
func (b *balanced) ipExec(machine, object string, args ...string) {
	GinkgoHelper()
	family := "-4"
	if prefix, err := netip.ParsePrefix(args[0]); err == nil && prefix.Addr().Is6() {
		family = "-6"
	}
	b.exec(b.t.Name, machine, append([]string{"ip", family, object, "add"}, args...)...)
	DeferCleanup(func() {
		b.exec(b.t.Name, machine, append([]string{"ip", family, object, "delete"}, args...)...)
	})
}

// endAgent ends the agent, which leaves its programs and maps where they are.
func (b *balanced) endAgent() {
	GinkgoHelper()
	status, err := b.agent.Status(context.Background())
	Expect(err).NotTo(HaveOccurred())
	kill(status.PID, syscall.SIGTERM)
}

// ip6Of is a machine's address of IPv6: fd00:: and the last byte of the other one.
func ip6Of(a netip.Addr) netip.Addr {
	six := netip.MustParseAddr("fd00::").As16()
	six[15] = a.As4()[3]
	return netip.AddrFrom16(six)
}

// speakIP6 gives the lab's machines addresses of IPv6, and a service to that family,
// in DSR; all of it goes with the spec.
func (b *balanced) speakIP6() netip.AddrPort {
	GinkgoHelper()
	to := netip.MustParseAddrPort("[fd00:40::1]:80")
	lb := b.t.Nodes["lb"]
	DeferCleanup(func() { // the agent has had an address that is gone by now
		b.endAgent()
		b.restart()
		b.expectHealthy(b.t.Name)
	})
	// No machine of a lab speaks IPv6 unless somebody has it do so; its addresses go when it no longer may.
	speak := func(machine string, commands ...string) {
		GinkgoHelper()
		const forbid = "for i in all default lo eth0; do echo %d > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"
		DeferCleanup(b.exec, b.t.Name, machine, "sh", "-c", fmt.Sprintf(forbid, 1))
		address, _ := b.t.Address(machine)
		commands = append([]string{fmt.Sprintf(forbid, 0), "ip -6 address add " + ip6Of(address).String() + "/64 dev eth0 nodad"}, commands...)
		b.exec(b.t.Name, machine, "sh", "-ec", strings.Join(commands, "\n"))
	}
	speak("lb")
	speak("client", "ip -6 route add "+to.Addr().String()+"/128 via "+ip6Of(lb.Address).String())
	var its []netip.AddrPort
	for _, name := range b.t.Backends() {
		address, hook := b.t.Nodes[name].Address, role.HookOf(b.t.Nodes[name].OS)
		attach := func(families ...func(netip.Addr) string) {
			GinkgoHelper()
			command := []string{"lbagent", "decap", "attach", "--interface", "eth0", "--hook", string(hook), "--pin-dir", b.decapPins(b.t.Name, name)}
			for _, of := range families {
				command = append(command, "--address", of(address), "--balancer", of(lb.Address))
			}
			b.exec(b.t.Name, name, command...)
		}
		speak(name, "ip -6 address add "+to.Addr().String()+"/128 dev lo nodad")
		attach(netip.Addr.String, func(a netip.Addr) string { return ip6Of(a).String() })
		DeferCleanup(func() { attach(netip.Addr.String) })
		its = append(its, netip.AddrPortFrom(ip6Of(address), 80))
	}
	b.endAgent()
	program, hash := b.agentProgram()
	Expect(b.machine("lb").System.EnsureAgent(GinkgoT().Context(), role.Agent{Address: lb.Address, Program: program, Hash: hash})).To(Succeed())
	b.put(api.Service{ID: ip6ID, Frontend: to, Mode: string(topology.DSR)}, its...)
	return to
}
