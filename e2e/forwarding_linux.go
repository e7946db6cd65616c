package e2e

import (
	"net/netip"
	"strings"
	"sync"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/capture"
	"l4lab/lab/probe"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// forwarding is about the data path under real traffic.
func (s *suite) forwarding() {
	DescribeTable("proves both modes with captured packets",
		func(edit func(*topology.Topology)) {
			t := demo(s.name("paths"))
			edit(&t)
			s.up(t)
			r := s.proof("test", "--mode", "all", "--name", t.Name)
			Expect(r).To(Succeeds(), r.String())
			Expect(r.Stdout).NotTo(ContainSubstring("unverifiable  "))
		},
		Entry("of two services, TCP and UDP, on addresses of their own, at MTU 1400", func(t *topology.Topology) {
			t.Switch.MTU = 1400
			t.Services = append(t.Services, topology.Service{
				ID: 7, VIP: netip.MustParseAddr("40.2.2.2"), Port: 53, Protocol: topology.UDP, Mode: topology.SNAT,
				TableSize: 251, Backends: []string{"be1", "be3"},
			})
		}),
		Entry("of one backend, at MTU 3000", func(t *topology.Topology) { *t = one(*t, "be2") }),
	)

	It("proves both modes though the client holds hundreds of ports, of which the balancer knows nothing", func() {
		s.needs(namespaces)
		t := demo(s.name("busy"), "be1", "be3")
		s.up(t)
		const first, held = 40000, 300
		client, err := s.open(t.Name).Machine(t.Client.Name)
		Expect(err).NotTo(HaveOccurred())
		for i := range uint16(held) {
			// Both of the probe's ranges: 64 from the first on, and a few below SNAT's pool.
			for _, port := range []uint16{first + i, 12000 + first%12000 + i} {
				conn, err := client.Guest.Dial(GinkgoT().Context(), "tcp", netip.AddrPortFrom(t.Client.Address, port).String(), vip().String())
				Expect(err).NotTo(HaveOccurred())
				Expect(conn.Close()).To(Succeed()) // who closes first keeps the port for a minute
			}
		}
		s.forgetFlows(t.Name)
		_, err = client.Guest.Dial(GinkgoT().Context(), "tcp", netip.AddrPortFrom(t.Client.Address, first).String(), vip().String())
		Expect(err).To(MatchError(syscall.EADDRINUSE))
		for _, mode := range []topology.Mode{topology.DSR, topology.SNAT} {
			report, err := s.open(t.Name).Test(GinkgoT().Context(), probe.Options{
				Modes: []topology.Mode{mode}, FirstPort: first, Timeout: askLimit,
				TransferBytes: 256 << 10, // this process records, and may be slow: with the race detector, beside others
			})
			Expect(err).NotTo(HaveOccurred())
			var text strings.Builder
			Expect(report.WriteText(&text)).To(Succeed())
			Expect(report.Failed()).To(BeFalse(), text.String())
		}
	})

	It("keeps each connection in the mode in which it began", func() {
		s.needs(manyLabs)
		t := demo(s.name("modes"), "be1", "be3")
		s.up(t)
		l := s.open(t.Name)
		direct := talk(l, vip())
		defer direct.close()
		Expect(s.labctl("mode", "snat", "--name", t.Name)).To(Succeeds())
		translated := talk(l, vip())
		defer translated.close()
		Expect(peer(direct).Addr()).To(Equal(t.Client.Address))
		Expect(peer(translated).Addr()).To(Equal(t.Nodes["lb"].Address))
		Expect(s.repliesThroughBalancer(t, direct)).To(BeZero())
		Expect(s.repliesThroughBalancer(t, translated)).To(BeNumerically(">", 0))

		Expect(s.labctl("mode", "dsr", "--name", t.Name)).To(Succeeds())
		Expect(peer(direct).Addr()).To(Equal(t.Client.Address))
		Expect(peer(translated).Addr()).To(Equal(t.Nodes["lb"].Address))
		Expect(s.repliesThroughBalancer(t, translated)).To(BeNumerically(">", 0))
		again := talk(l, vip())
		defer again.close()
		Expect(s.repliesThroughBalancer(t, again)).To(BeZero())
	})

	It("loses none of 200 connections while the agent is stopped, killed, and started again", func() {
		s.needs(processes, manyConnections)
		t := demo(s.name("many"))
		s.up(t)
		direct := s.talkMany(t.Name, 100)
		Expect(s.labctl("mode", "snat", "--name", t.Name)).To(Succeeds())
		open := append(direct, s.talkMany(t.Name, 100)...)
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			kill(node(s.status(t.Name), "lb").PIDs["agent"], signal)
			Expect(all(open)).To(BeEmpty(), "without an agent, after %s", signal)
			Expect(s.labctl("up", "--name", t.Name)).To(Succeeds())
			Expect(all(open)).To(BeEmpty(), "with the next agent, after %s", signal)
		}
		listed := map[netip.AddrPort]string{}
		for _, c := range connections(s, "--name", t.Name) {
			listed[c.Source] = c.Mode
		}
		for i, c := range open {
			Expect(listed).To(HaveKeyWithValue(c.local(), map[bool]string{true: "dsr", false: "snat"}[i < 100]))
		}
	})

	It("holds established connections while services and backends change under load", func() {
		s.needs(manyConnections)
		t := demo(s.name("load"), "be1", "be3")
		s.up(t)
		open := s.talkMany(t.Name, 20)
		asking := make(chan struct{})
		var (
			broken []string
			asked  int
			wait   sync.WaitGroup
		)
		wait.Go(func() {
			for broken == nil {
				select {
				case <-asking:
					return
				default:
					broken = all(open)
					asked++
				}
			}
		})
		for _, backends := range [][]string{{"be1", "be2", "be3"}, {"be1", "be2", "be3", "be4"}, {"be1", "be3", "be4"}} {
			Expect(s.labctl("up", s.file(demo(t.Name, backends...)))).To(Succeeds())
		}
		close(asking)
		wait.Wait()
		Expect(broken).To(BeEmpty())
		Expect(asked).To(BeNumerically(">", 3), "rounds of questions during the changes")
	})
}

// one is a topology with a single backend and large frames.
func one(t topology.Topology, backend string) topology.Topology {
	t = demo(t.Name, backend)
	t.Switch.MTU = 3000
	return t
}

// peer asks whom the backend sees at the other end of a conversation.
func peer(c *conversation) netip.AddrPort {
	GinkgoHelper()
	who, err := c.ask()
	Expect(err).NotTo(HaveOccurred())
	return who.Client
}

// repliesThroughBalancer counts the packets of one answer that the balancer
// sent to the client.
func (s *suite) repliesThroughBalancer(t topology.Topology, c *conversation) (replies int) {
	GinkgoHelper()
	place := capture.Place{Machine: t.LoadBalancer(), Port: true}
	session, err := s.open(t.Name).Capture(GinkgoT().Context(), place)
	Expect(err).NotTo(HaveOccurred())
	_, askErr := c.ask()
	_, err = session.Stop()
	Expect(err).NotTo(HaveOccurred())
	Expect(askErr).NotTo(HaveOccurred())
	requests := 0
	for _, p := range evidence.Decode(place, session.Frames()) {
		switch {
		case p.Dest() == c.local() && !p.Frame.Outgoing:
			replies++
		case p.Source() == c.local() && p.Frame.Outgoing:
			requests++
		}
	}
	Expect(requests).To(BeNumerically(">", 0), "the request crosses the balancer in either mode")
	return replies
}

// talkMany opens conversations that are closed when the spec ends.
func (s *suite) talkMany(lab string, n int) []*conversation {
	GinkgoHelper()
	l := s.open(lab)
	many := make([]*conversation, n)
	for i := range many {
		many[i] = talk(l, vip())
		DeferCleanup(many[i].close)
	}
	return many
}
