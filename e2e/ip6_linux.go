package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/role"
)

// ipFamily is one version of IP on the lab: the addresses of everybody.
type ipFamily struct {
	name                             string
	client, stranger, vip, own, gone netip.Addr
	// spread has no machine of the lab in it.
	spread   netip.Prefix
	backends map[string]netip.Addr
	// outer is what an outer header takes of the MTU.
	outer int
}

// four and six are the two. The stranger is an address of the client's link that
// nobody answers to; gone is a VIP that is none.
func (b *balanced) four() ipFamily {
	f := ipFamily{
		name: "IPv4", client: b.t.Client.Address, stranger: netip.MustParseAddr("20.1.1.200"), vip: vip().Addr(),
		own: b.t.Nodes["lb"].Address, gone: netip.MustParseAddr("40.1.1.77"), spread: netip.MustParsePrefix("20.1.2.0/24"), backends: map[string]netip.Addr{}, outer: 20,
	}
	for _, name := range b.t.Backends() {
		f.backends[name] = b.t.Nodes[name].Address
	}
	return f
}

func (b *balanced) six() ipFamily {
	f := ipFamily{
		name: "IPv6", client: netip.MustParseAddr("fd00:20::100"), stranger: netip.MustParseAddr("fd00:20::200"), vip: netip.MustParseAddr("fd00:40::1"),
		own: netip.MustParseAddr("fd00:20::1"), gone: netip.MustParseAddr("fd00:40::77"), spread: netip.MustParsePrefix("fd00:21::/120"), backends: map[string]netip.Addr{}, outer: 40,
	}
	for i, name := range b.t.Backends() {
		f.backends[name] = netip.MustParseAddr(fmt.Sprintf("fd00:20::%d0", i+1))
	}
	return f
}

// speakIP6 has a lab speak IPv6, too: machines get addresses, backends the VIP and
// decapsulation for both families, the client a route to the VIP with more, if need be, and a
// new agent, which takes the addresses that the interface has when it starts.
func (b *balanced) speakIP6(route ...string) ipFamily {
	GinkgoHelper()
	six := b.six()
	b.speak("lb", six.own)
	b.speak("client", six.client, "ip -6 route add "+six.vip.String()+"/128 via "+six.own.String()+" dev eth0 "+strings.Join(route, " "))
	for _, name := range b.t.Backends() {
		b.speak(name, six.backends[name], "ip -6 address add "+six.vip.String()+"/128 dev lo nodad")
		b.decapsulate(name, b.four(), six)
	}
	b.endAgent()
	b.restart()
	return six
}

// silenceIP6 takes all of it back.
func (b *balanced) silenceIP6() {
	GinkgoHelper()
	for _, name := range b.t.MachineNames() {
		b.exec(b.t.Name, name, "sh", "-c", fmt.Sprintf(forbidIP6, 1)) // its addresses go with it
	}
	for _, name := range b.t.Backends() {
		b.decapsulate(name, b.four())
	}
	b.endAgent()
	b.restart()
	b.expectHealthy(b.t.Name)
}

// forbidIP6 says whether a machine's links may not speak IPv6: none of a lab does unless somebody
// has it do so. The settings for all links are labctl's: up would mend them.
const forbidIP6 = "for i in lo eth0; do echo %d > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"

// speak gives a machine an address of IPv6 and runs further commands there.
func (b *balanced) speak(machine string, address netip.Addr, more ...string) {
	GinkgoHelper()
	commands := append([]string{fmt.Sprintf(forbidIP6, 0), "ip -6 address add " + address.String() + "/64 dev eth0 nodad"}, more...)
	b.exec(b.t.Name, machine, "sh", "-ec", strings.Join(commands, "\n"))
}

// decapsulate has a backend take the balancer's packets of some families out of their outer headers.
func (b *balanced) decapsulate(backend string, families ...ipFamily) {
	GinkgoHelper()
	hook := role.HookOf(b.t.Nodes[backend].OS)
	command := []string{"lbagent", "decap", "attach", "--interface", "eth0", "--hook", string(hook), "--pin-dir", b.decapPins(b.t.Name, backend)}
	for _, f := range families {
		command = append(command, "--address", f.backends[backend].String(), "--balancer", f.own.String())
	}
	b.exec(b.t.Name, backend, command...)
}

// endAgent ends the agent, which leaves its programs and maps where they are.
func (b *balanced) endAgent() {
	GinkgoHelper()
	agent, err := b.l.Agent()
	Expect(err).NotTo(HaveOccurred())
	status, err := agent.Status(context.Background())
	Expect(err).NotTo(HaveOccurred())
	kill(status.PID, syscall.SIGTERM)
}
