package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/bpf"
	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// balanced is one lab of the demo's four backends whose services are set at the
// agent, as its operator would: the lab's file has the first two alone.
type balanced struct {
	*suite
	t     topology.Topology
	l     *lab.Lab
	agent *api.Client
}

// Numbers of the services that the lab's file has.
const (
	directID     = 1 // DSR, on the demo's VIP and port
	translatedID = 2 // SNAT, on port 81
	drainedID    = 3 // DSR, on port 8080
)

// translatedVIP and drainedVIP are those services' frontends.
func translatedVIP() netip.AddrPort { return netip.AddrPortFrom(vip().Addr(), 81) }
func drainedVIP() netip.AddrPort    { return netip.AddrPortFrom(vip().Addr(), 8080) }

// frontends are the same backends' in either mode.
var frontends = map[string]func() netip.AddrPort{"dsr": vip, "snat": translatedVIP}

// balancing is about what a client and an operator of the balancer see of its behaviours.
func (s *suite) balancing() {
	b := &balanced{suite: s}
	BeforeAll(b.start)
	// First, since it takes the agent a while to be sure that a backend has no flow left.
	Describe("draining", Label("churn"), b.draining)
	Describe("large packets", Label("mtu"), b.largePackets)
	Describe("ICMP", Label("icmp"), b.icmp)
	Describe("services", b.options)
	Describe("flow by flow", b.flows)
	Describe("what an operator relies on", Label("churn"), b.relied)
	Describe("a SYN flood", Label("slow"), b.flooded)
	// Last, since it takes up to 30 s from the first spec on.
	It("lets a drained backend leave by itself once its connections have ended", Label("dsr", "churn"), b.drainedLeaves)
}

func (b *balanced) start() {
	b.t = demo(b.name("bal"))
	second, third := b.t.Services[0], b.t.Services[0]
	second.ID, second.Port, second.Mode = translatedID, translatedVIP().Port(), topology.SNAT
	third.ID, third.Port = drainedID, drainedVIP().Port()
	b.t.Services = append(b.t.Services, second, third)
	b.up(b.t)
	b.l = b.open(b.t.Name)
	var err error
	b.agent, err = b.l.Agent()
	Expect(err).NotTo(HaveOccurred())
}

// machine is a node, or the client.
func (b *balanced) machine(name string) provider.Machine {
	GinkgoHelper()
	m, err := b.l.Machine(name)
	Expect(err).NotTo(HaveOccurred())
	return m
}

// backend is a backend's address and port.
func (b *balanced) backend(name string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(b.t.Nodes[name].Address, port)
}

// put sets a service of the spec's own, which goes with it.
func (b *balanced) put(service api.Service, backends ...netip.AddrPort) {
	GinkgoHelper()
	for _, address := range backends {
		service.Backends = append(service.Backends, api.Backend{Address: address})
	}
	service.TableSize = 251
	_, err := b.agent.PutService(GinkgoT().Context(), service)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx context.Context) {
		Expect(b.agent.DeleteService(ctx, service.ID)).To(Succeed())
	})
}

// operate runs one of lbagent's client commands, as the operator does.
func (b *balanced) operate(args ...string) string {
	GinkgoHelper()
	return b.suite.agent(b.t.Name, args...)
}

// drops are the counted drops of one reason.
func (b *balanced) drops(reason string) uint64 {
	GinkgoHelper()
	counters, err := b.agent.Counters(GinkgoT().Context())
	Expect(err).NotTo(HaveOccurred())
	Expect(counters.Drops).To(HaveKey(reason))
	return counters.Drops[reason]
}

// deeds are what the balancer did about ICMP, of one kind.
func (b *balanced) deeds(kind bpf.LBIcmpDeed) (sum uint64) {
	GinkgoHelper()
	b.needs(folders)
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(b.state, b.t.Name, "bpf", "lb", "lb", "icmp_packets"), nil)
	Expect(err).NotTo(HaveOccurred())
	defer pinned.Close()
	var perCPU []uint64
	Expect(pinned.Lookup(uint32(kind), &perCPU)).To(Succeed())
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// ipIn runs iproute2's command in a node's namespace or the switch's, past labctl, which
// knows of no switch and does not reach into a node that is broken.
func (b *balanced) ipIn(node string, args ...string) string {
	GinkgoHelper()
	b.needs(namespaces)
	r := run(b.ip(append([]string{"-n", b.t.Name + "-" + node}, args...)...))
	Expect(r.Code).To(BeZero(), "ip %s: %s", strings.Join(args, " "), r.Stderr)
	return r.Stdout
}

// addIn adds something with iproute2 in a node, and takes it back when the spec ends.
func (b *balanced) addIn(node, object, what string, args ...string) {
	GinkgoHelper()
	family := "-4"
	if prefix, err := netip.ParsePrefix(what); err == nil && prefix.Addr().Is6() {
		family = "-6"
	}
	change := func(verb string) {
		GinkgoHelper()
		b.exec(b.t.Name, node, append([]string{"ip", family, object, verb, what}, args...)...)
	}
	change("add")
	DeferCleanup(change, "delete")
}

// echo answers datagrams with themselves, on one of a node's addresses, until the spec ends.
func (b *balanced) echo(node string, address netip.AddrPort) {
	GinkgoHelper()
	b.needs(namespaces)
	socket, err := in(b.t.Name+"-"+node, func() (net.PacketConn, error) {
		return net.ListenPacket("udp", address.String())
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = socket.Close() })
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(buffer[:n], from)
		}
	}()
}

// dial connects from a node within a limit.
func (b *balanced) dial(node, network string, to netip.AddrPort, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := b.machine(node).Guest.Dial(ctx, network, "", to.String())
	if err != nil {
		return nil, fmt.Errorf("from %s to %s: %w", node, to, err)
	}
	return conn, nil
}

// reached opens n connections from a node and counts them by who answered.
func (b *balanced) reached(node string, to netip.AddrPort, n int) map[string]int {
	GinkgoHelper()
	from, count := b.machine(node), map[string]int{}
	for range n {
		c, err := converseFrom(from, to)
		Expect(err).NotTo(HaveOccurred())
		count[c.backend]++
		c.close()
	}
	return count
}

// restart starts the agent again as it was, and waits until it answers.
func (b *balanced) restart() {
	GinkgoHelper()
	Expect(b.labctl("up", "--name", b.t.Name)).To(Succeeds())
}

// setMode switches the demo's service, to DSR again when the spec ends.
func (b *balanced) setMode(mode string) {
	GinkgoHelper()
	b.setModeOf(directID, mode)
}

// setBackends gives a service backends with their weights.
func (b *balanced) setBackends(id uint32, weights map[string]uint16) {
	GinkgoHelper()
	service, err := b.agent.Service(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	service.Backends = nil
	for _, name := range b.t.Backends() {
		if weight, wanted := weights[name]; wanted {
			service.Backends = append(service.Backends, api.Backend{Address: b.backend(name, service.Frontend.Port()), Weight: &weight})
		}
	}
	_, err = b.agent.PutService(GinkgoT().Context(), service)
	Expect(err).NotTo(HaveOccurred())
}

// keep opens conversations that are closed when the spec ends.
func (b *balanced) keep(to netip.AddrPort, n int) []*conversation {
	GinkgoHelper()
	from, many := b.machine("client"), make([]*conversation, n)
	for i := range many {
		var err error
		many[i], err = converseFrom(from, to)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(many[i].close)
	}
	return many
}
