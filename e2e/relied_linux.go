package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/oracle"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
)

// relied is about what the balancer's other specs do not show: what its neighbours, its
// backends' health and its options do while traffic flows.
func (b *balanced) relied() {
	BeforeEach(func() { b.needs(namespaces) })

	It("says in the VIP's name that a packet does not fit the tunnel", Label("dsr", "icmp", "mtu"), func() {
		conn, err := b.dial("client", "udp", b.udpService(27, 9004, "dsr"), askLimit)
		Expect(err).NotTo(HaveOccurred())
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		Expect(err).NotTo(HaveOccurred())
		var failed error
		Expect(raw.Control(func(fd uintptr) { // whatever the route says, with DF
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		})).To(Succeed())
		Expect(failed).NotTo(HaveOccurred())
		seen := b.seenAt("client", func() {
			_, err := conn.Write(make([]byte, b.t.Switch.MTU-28)) // IP and UDP
			Expect(err).NotTo(HaveOccurred())
			Expect(conn.SetReadDeadline(time.Now().Add(time.Second))).To(Succeed())
			_, err = conn.Read(make([]byte, 1))
			Expect(err).To(MatchError(unix.EMSGSIZE), "what the client's socket says")
		})
		Expect(seen).To(ContainElement(Satisfy(func(p evidence.Packet) bool {
			const icmp, unreachable, fragmentationNeeded = 1, 3, 4
			return p.IsIPv4() && p.IP.Protocol == icmp && p.IP.Payload()[0] == unreachable && p.IP.Payload()[1] == fragmentationNeeded &&
				p.IP.Src == vip().Addr() && p.IP.Dst == b.t.Client.Address
		})), "fragmentation needed, from the VIP")
	})

	It("bounds the segment size of handshakes both ways", Label("snat", "mtu"), func() {
		b.serve("be3", optionsVIP().Port())
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "snat", MSS: 1000}, b.backend("be3", optionsVIP().Port()))
		for machine, sender := range map[string]netip.Addr{"be3": b.t.Nodes["lb"].Address, "client": vip().Addr()} {
			var sizes []uint16
			for _, p := range b.seenAt(machine, func() { b.reached("client", optionsVIP(), 1) }) {
				if p.IP.Src == sender && p.Transport.Has(evidence.SYN) {
					sizes = append(sizes, segmentSize(p))
				}
			}
			Expect(sizes).To(HaveEach(uint16(1000)), "the segment size that %s is told", machine)
		}
	})

	It("keeps a client at its backend when others come", Label("dsr"), func() {
		service := api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr", Affinity: api.Duration(time.Minute)}
		for _, name := range b.t.Backends() {
			b.serve(name, optionsVIP().Port())
		}
		b.put(service, b.backend("be3", optionsVIP().Port()))
		Expect(b.reached("client", optionsVIP(), 1)).To(HaveKey("be3"))
		for _, newcomers := range [][]string{{"be1", "be2", "be3", "be4"}, {"be2", "be3"}, {"be1", "be3"}} {
			weights := make(map[string]uint16)
			for _, name := range newcomers {
				weights[name] = 1
			}
			b.setBackends(optionsID, weights)
			Expect(b.reached("client", optionsVIP(), 5)).To(Equal(map[string]int{"be3": 5}), "of %v", newcomers)
		}
	})

	It("lets a frame with a VLAN tag pass to the stack", func() {
		const mark = 0x4c344c42 // its sequence number, by which it is known again
		untagged := make([]byte, 14+20+20)
		syn(untagged, b.hardware("client"), b.hardware("lb"), netip.AddrPortFrom(b.t.Client.Address, 45002), vip(), mark)
		// Two tags (IEEE 802.1ad): the bridge takes the outer one out of the frame, as a card does.
		tagged := slices.Insert(untagged, 12, 0x88, 0xa8, 0x00, 78, 0x81, 0x00, 0x00, 77)
		place := capture.Place{Machine: "lb"}
		session, err := b.l.Capture(GinkgoT().Context(), place)
		Expect(err).NotTo(HaveOccurred())
		b.sendRaw("client", tagged)
		_, err = session.Stop()
		Expect(err).NotTo(HaveOccurred())
		Expect(session.Frames()).To(ContainElement(Satisfy(func(f capture.Frame) bool {
			return bytes.Contains(f.Data, binary.BigEndian.AppendUint32(nil, mark))
		})), "the tagged frame behind XDP")
	})

	It("sends to the MAC address that the neighbour table has by now", Label("dsr"), func() {
		b.serve("be1", optionsVIP().Port())
		b.put(api.Service{ID: optionsID, Frontend: optionsVIP(), Mode: "dsr"}, b.backend("be1", optionsVIP().Port()))
		b.reached("client", optionsVIP(), 1)
		learn := func(mac net.HardwareAddr) {
			GinkgoHelper()
			b.ipIn("lb", "neighbour", "replace", b.t.Nodes["be1"].Address.String(), "lladdr", mac.String(), "dev", "eth0", "nud", "permanent")
		}
		was, other := b.hardware("be1"), b.hardware("be2")
		DeferCleanup(learn, was)
		learn(other)
		Eventually(func() []evidence.Packet {
			return b.seenAt("lb", func() {
				conn, err := b.dial("client", "tcp", optionsVIP(), 50*time.Millisecond)
				if err == nil {
					_ = conn.Close()
				}
			})
		}).WithTimeout(3*time.Second).Should(ContainElement(Satisfy(func(p evidence.Packet) bool {
			return p.Encapsulated() && p.Outer.Dst == b.t.Nodes["be1"].Address && bytes.Equal(p.DstMAC, other)
		})), "a frame for be1 to its new MAC address")
		learn(was)
		Eventually(func() error {
			conn, err := b.dial("client", "tcp", optionsVIP(), 50*time.Millisecond)
			if err == nil {
				err = conn.Close()
			}
			return err
		}).WithTimeout(3 * time.Second).Should(Succeed())
	})

	It("takes a backend that is well again back", Label("dsr"), func() {
		stop := b.serve("be1", optionsVIP().Port())
		b.serve("be3", optionsVIP().Port())
		b.put(api.Service{
			ID: optionsID, Frontend: optionsVIP(), Mode: "dsr",
			HealthCheck: &api.HealthCheck{Type: "tcp", Interval: api.Duration(100 * time.Millisecond), Timeout: api.Duration(100 * time.Millisecond), Rise: 2, Fall: 2},
		}, b.backend("be1", optionsVIP().Port()), b.backend("be3", optionsVIP().Port()))
		Expect(b.reached("client", optionsVIP(), 20)).To(HaveLen(2))
		stop()
		Eventually(b.healthOf).WithArguments("be1").Should(Equal("quarantined"))
		Expect(b.reached("client", optionsVIP(), 20)).To(Equal(map[string]int{"be3": 20}))
		b.serve("be1", optionsVIP().Port())
		Eventually(b.healthOf).WithArguments("be1").Should(Equal("healthy"))
		Expect(b.reached("client", optionsVIP(), 20)).To(HaveLen(2))
	})

	It("has a backend for every packet while backends come and go", Label("snat"), func() {
		service := api.Service{ID: 28, Frontend: netip.AddrPortFrom(vip().Addr(), 8093), Mode: "snat", TableSize: 251}
		// None of the later ones has been a backend before: a port makes it another one.
		put := func(port uint16) {
			GinkgoHelper()
			service.Backends = []api.Backend{{Address: b.backend("be1", port)}, {Address: b.backend("be3", port)}}
			_, err := b.agent.PutService(GinkgoT().Context(), service)
			Expect(err).NotTo(HaveOccurred())
		}
		put(20000)
		DeferCleanup(func(ctx context.Context) { Expect(b.agent.DeleteService(ctx, service.ID)).To(Succeed()) })
		none, unknown, begun := b.drops("no_backend"), b.drops("no_neighbour"), b.begun(service.ID)
		stop := make(chan struct{})
		var flooding sync.WaitGroup
		flooding.Go(func() {
			defer GinkgoRecover()
			for first := 0; ; first += 500 {
				select {
				case <-stop:
					return
				default:
					b.flood(service.Frontend, first, 500)
				}
			}
		})
		for port := range uint16(60) {
			put(20001 + port)
		}
		close(stop)
		flooding.Wait()
		Expect(b.begun(service.ID)).To(BeNumerically(">", begun+1000), "flows while backends came and went")
		Expect(b.drops("no_backend")-none).To(BeZero(), "packets for which there was no backend")
		Expect(b.drops("no_neighbour")-unknown).To(BeZero(), "packets whose backend had no MAC")
	})
}

// udpService sets a service of one backend, and returns its frontend.
func (b *balanced) udpService(id uint32, port uint16, mode string) netip.AddrPort {
	GinkgoHelper()
	frontend := netip.AddrPortFrom(vip().Addr(), port)
	b.put(api.Service{ID: id, Frontend: frontend, Protocol: "udp", Mode: mode}, b.backend("be3", port))
	return frontend
}

// sendRaw sends a frame from a machine as it is.
func (b *balanced) sendRaw(machine string, frame []byte) {
	GinkgoHelper()
	_, err := in(b.t.Name+"-"+machine, func() (any, error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return nil, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		return nil, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index})
	})
	Expect(err).NotTo(HaveOccurred())
}

// segmentSize is the MSS option of a SYN, 0 without one.
func segmentSize(p evidence.Packet) uint16 {
	GinkgoHelper()
	frame, err := oracle.Read(p.Frame.Data)
	Expect(err).NotTo(HaveOccurred())
	return oracle.MSS(frame)
}

// healthOf is what the agent's checks say of a backend of the options' service.
func (b *balanced) healthOf(backend string) (string, error) {
	all, err := b.agent.Health(GinkgoT().Context())
	if err != nil {
		return "", err
	}
	for _, h := range all {
		if h.ServiceID == optionsID && h.Backend == b.backend(backend, optionsVIP().Port()) {
			return h.Health, nil
		}
	}
	return "", nil
}
