package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/bpf"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
)

// flows are about single flows whose packets, ports and ends are looked at one by one.
// Each of these is something that a mutant (e2e/mutants) would otherwise get away with.
func (b *balanced) flows() {
	BeforeEach(func() { b.needs(namespaces) })

	It("gives two flows of one client port, to one backend, a port each in SNAT", Label("snat"), func() {
		b.serve("be1", 8090)
		frontends := []netip.AddrPort{netip.AddrPortFrom(vip().Addr(), 8091), netip.AddrPortFrom(vip().Addr(), 8092)}
		const port = 45001
		var peers []netip.AddrPort
		var open []*conversation
		for i, frontend := range frontends {
			b.put(api.Service{ID: uint32(22 + i), Frontend: frontend, Mode: "snat"}, b.backend("be1", 8090))
			c, err := b.converseFromPort(port, frontend)
			Expect(err).NotTo(HaveOccurred(), "flow %d of the client's port", i+1)
			DeferCleanup(c.close)
			peers, open = append(peers, peer(c)), append(open, c)
		}
		Expect(peers[0]).NotTo(Equal(peers[1]), "whom the backend sees")
		Expect(all(open)).To(BeEmpty())
	})

	It("gives a flow a port of the pool where the client's own lies outside of it", Label("snat"), func() {
		config := b.config()
		Expect(config.NatMin).To(BeNumerically(">", 2000))
		const port = 1999
		c, err := b.converseFromPort(port, translatedVIP())
		Expect(err).NotTo(HaveOccurred(), "a client's port outside of the pool")
		defer c.close()
		Expect(peer(c).Port()).To(And(BeNumerically(">=", config.NatMin), BeNumerically("<=", config.NatMax)))
	})

	for _, mode := range []string{"dsr", "snat"} {
		It("hands a client's reset to the backend and takes it for the connection's end in "+mode, Label(mode), func() {
			c, err := converseFrom(b.machine("client"), frontends[mode]())
			Expect(err).NotTo(HaveOccurred())
			from := peer(c)
			seen := b.seenAt(c.backend, func() {
				Expect(c.conn.(*net.TCPConn).SetLinger(0)).To(Succeed())
				c.close()
				b.isClosing(mode, c)
			})
			Expect(seen).To(ContainElement(Satisfy(func(p evidence.Packet) bool {
				return p.Source() == from && p.Transport.Has(evidence.RST)
			})), "a reset from %s", from)
		})

		It("takes the FINs that it sees for the connection's end in "+mode, Label(mode), func() {
			c, err := converseFrom(b.machine("client"), frontends[mode]())
			Expect(err).NotTo(HaveOccurred())
			c.close()
			b.isClosing(mode, c)
		})
	}

	It("lets a connection of DSR go on whose flow it has forgotten", Label("dsr"), func() {
		c, err := converseFrom(b.machine("client"), vip())
		Expect(err).NotTo(HaveOccurred())
		defer c.close()
		table := b.balancerMap(b.t.Name, "flows4")
		defer table.Close()
		Expect(table.Delete(bpf.LBFlow4{
			Saddr: wire(c.local().Addr()).Word[0], Daddr: wire(vip().Addr()).Word[0],
			Sport: bigEndian(c.local().Port()), Dport: bigEndian(vip().Port()), Proto: protocolTCP,
		})).To(Succeed())
		goesOn(c, "its flow was forgotten")
	})

	It("chooses anew for a flow whose lifetime is over", Label("dsr"), func() {
		frontend := netip.AddrPortFrom(vip().Addr(), 9001)
		for _, name := range []string{"be1", "be3"} {
			b.answerUDP(name, frontend, name)
		}
		weights := func(be1, be3 uint16) {
			GinkgoHelper()
			service := api.Service{ID: 24, Frontend: frontend, Protocol: "udp", Mode: "dsr", TableSize: 251, Backends: []api.Backend{
				{Address: b.backend("be1", frontend.Port()), Weight: &be1}, {Address: b.backend("be3", frontend.Port()), Weight: &be3},
			}}
			_, err := b.agent.PutService(GinkgoT().Context(), service)
			Expect(err).NotTo(HaveOccurred())
		}
		weights(1, 0)
		DeferCleanup(func(ctx context.Context) { Expect(b.agent.DeleteService(ctx, 24)).To(Succeed()) })
		conn, err := b.dial("client", "udp", frontend, askLimit)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		Expect(askUDP(conn)).To(Equal("be1"))
		weights(0, 1)
		Expect(askUDP(conn)).To(Equal("be1"), "a known flow stays")
		b.withConfig(func(c *bpf.LBLbConfig) { c.NonTcpNs = 1 })
		Eventually(askUDP).WithArguments(conn).WithTimeout(2*time.Second).Should(Equal("be3"), "who answers a flow that is over")
	})

	It("tells a client of SNAT that its backend's port is closed", Label("snat", "icmp"), func() {
		frontend := netip.AddrPortFrom(vip().Addr(), 9002)
		b.put(api.Service{ID: 25, Frontend: frontend, Protocol: "udp", Mode: "snat"}, b.backend("be1", frontend.Port()))
		conn, err := b.dial("client", "udp", frontend, askLimit)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		_, err = conn.Write([]byte("is anybody there?"))
		Expect(err).NotTo(HaveOccurred())
		Expect(conn.SetReadDeadline(time.Now().Add(time.Second))).To(Succeed())
		_, err = conn.Read(make([]byte, 1))
		Expect(err).To(MatchError(syscall.ECONNREFUSED), "what the client's socket says")
	})

	for _, mode := range []string{"dsr", "snat"} {
		It("tells a backend that the client's port is closed by now in "+mode, Label(mode), func() {
			frontend := netip.AddrPortFrom(vip().Addr(), 9003)
			b.put(api.Service{ID: 26, Frontend: frontend, Protocol: "udp", Mode: mode}, b.backend("be3", frontend.Port()))
			its := map[string]netip.AddrPort{"dsr": frontend, "snat": b.backend("be3", frontend.Port())}[mode]
			Expect(b.refusedAtBackend("be3", its, frontend)).To(MatchError(syscall.ECONNREFUSED), "what the backend's socket says")
		})
	}
}

// converseFromPort is converseFrom, of one of the client's ports, which several may have.
func (b *balanced) converseFromPort(port int, to netip.AddrPort) (*conversation, error) {
	GinkgoHelper()
	dialer := net.Dialer{
		Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: b.t.Client.Address.AsSlice(), Port: port},
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}), err)
		},
	}
	conn, err := in(b.t.Name+"-client", func() (net.Conn, error) { return dialer.Dial("tcp4", to.String()) })
	if err != nil {
		return nil, err
	}
	return startConversation(conn)
}

// seenAt are the packets on a machine's port of the switch while something is done.
func (b *balanced) seenAt(machine string, do func()) []evidence.Packet {
	GinkgoHelper()
	place := capture.Place{Machine: machine, Port: true}
	session, err := b.l.Capture(GinkgoT().Context(), place)
	Expect(err).NotTo(HaveOccurred())
	do()
	_, err = session.Stop()
	Expect(err).NotTo(HaveOccurred())
	return evidence.Decode(place, session.Frames())
}

// isClosing waits until the balancer knows that a connection of a mode's service is over.
func (b *balanced) isClosing(mode string, c *conversation) {
	GinkgoHelper()
	id := map[string]uint32{"dsr": directID, "snat": translatedID}[mode]
	Eventually(func(g Gomega) {
		connections, err := b.agent.Connections(GinkgoT().Context(), id)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(connections).To(ContainElement(And(HaveField("Source", c.local()), HaveField("State", api.Closing))))
	}).WithTimeout(2*time.Second).WithPolling(20*time.Millisecond).Should(Succeed(), "the closed connection is closing")
}

// config is what the data path goes by.
func (b *balanced) config() (config bpf.LBLbConfig) {
	GinkgoHelper()
	m := b.balancerMap(b.t.Name, "config")
	defer m.Close()
	Expect(m.Lookup(uint32(0), &config)).To(Succeed())
	return config
}

// withConfig has the data path go by something else until the spec ends.
func (b *balanced) withConfig(edit func(*bpf.LBLbConfig)) {
	GinkgoHelper()
	was := b.config()
	put := func(config bpf.LBLbConfig) {
		m := b.balancerMap(b.t.Name, "config")
		defer m.Close()
		Expect(m.Put(uint32(0), config)).To(Succeed())
	}
	edited := was
	edit(&edited)
	put(edited)
	DeferCleanup(put, was)
}

// answerUDP answers each datagram with a text, until the spec ends.
func (b *balanced) answerUDP(node string, address netip.AddrPort, text string) {
	GinkgoHelper()
	socket, err := in(b.t.Name+"-"+node, func() (net.PacketConn, error) {
		return net.ListenPacket("udp4", address.String())
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = socket.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			_, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo([]byte(text), from)
		}
	}()
}

// askUDP sends a datagram and returns the answer.
func askUDP(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("who is it?")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// refusedAtBackend has a client ask and go; it returns what the backend's socket then
// says to a second answer.
func (b *balanced) refusedAtBackend(backend string, its, frontend netip.AddrPort) error {
	GinkgoHelper()
	node := b.t.Name + "-" + backend
	listener, err := in(node, func() (net.PacketConn, error) { return net.ListenPacket("udp4", its.String()) })
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	client, err := b.dial("client", "udp", frontend, askLimit)
	Expect(err).NotTo(HaveOccurred())
	defer client.Close()
	_, err = client.Write([]byte("I shall not wait for an answer"))
	Expect(err).NotTo(HaveOccurred())
	Expect(listener.SetReadDeadline(time.Now().Add(askLimit))).To(Succeed())
	_, from, err := listener.ReadFrom(make([]byte, 1500))
	Expect(err).NotTo(HaveOccurred())
	Expect(listener.Close()).To(Succeed())
	Expect(client.Close()).To(Succeed())
	conn, err := in(node, func() (net.Conn, error) {
		return net.DialUDP("udp4", net.UDPAddrFromAddrPort(its), from.(*net.UDPAddr))
	})
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	if _, err := conn.Write([]byte("an answer")); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	Expect(conn.SetReadDeadline(time.Now().Add(time.Second))).To(Succeed())
	_, err = conn.Read(make([]byte, 1))
	return err
}
