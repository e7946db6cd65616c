package e2e

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/bpf"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
)

// icmp is about the VIP as ping and traceroute see it.
func (b *balanced) icmp() {
	for _, mode := range []string{"dsr", "snat"} {
		It("answers echo requests to the VIP while its service is in mode "+mode, Label(mode), func() {
			b.needs(namespaces)
			b.setMode(mode)
			before := b.deeds(bpf.LBIcmpDeedICMP_ECHO_ANSWERED)
			socket, err := in(b.t.Name+"-client", func() (*icmp.PacketConn, error) {
				return icmp.ListenPacket("ip4:icmp", "0.0.0.0")
			})
			Expect(err).NotTo(HaveOccurred())
			defer socket.Close()
			const pings = 5
			for i := range pings {
				data := make([]byte, 56+200*i)
				from, answer := ping(socket, vip().Addr(), i, data)
				Expect(from).To(Equal(vip().Addr()))
				Expect(answer).To(Equal(data))
			}
			Expect(b.deeds(bpf.LBIcmpDeedICMP_ECHO_ANSWERED)).To(Equal(before + pings))
		})
	}

	It("passes a traceroute's datagram to the VIP's closed port to the stack", func() {
		b.needs(namespaces)
		place := capture.Place{Machine: "lb"}
		session, err := b.l.Capture(GinkgoT().Context(), place)
		Expect(err).NotTo(HaveOccurred())
		const port = 33434
		probe, err := b.dial("client", "udp", netip.AddrPortFrom(vip().Addr(), port), askLimit)
		Expect(err).NotTo(HaveOccurred())
		defer probe.Close()
		Expect(ipv4.NewConn(probe).SetTTL(1)).To(Succeed())
		expired := b.drops("ttl_expired")
		_, err = probe.Write([]byte("where does this end?"))
		Expect(err).NotTo(HaveOccurred())
		_, err = session.Stop()
		Expect(err).NotTo(HaveOccurred())
		Expect(evidence.Decode(place, session.Frames())).To(ContainElement(Satisfy(func(p evidence.Packet) bool {
			return p.Source() == probe.LocalAddr().(*net.UDPAddr).AddrPort() && p.Dest().Port() == port && p.IP.TTL == 1 && !p.Frame.Outgoing
		})))
		Expect(b.drops("ttl_expired")).To(Equal(expired))
	})
}

// ping sends one echo request and returns who answered it with what.
func ping(socket *icmp.PacketConn, to netip.Addr, sequence int, data []byte) (netip.Addr, []byte) {
	GinkgoHelper()
	id := os.Getpid() & 0xffff
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: sequence, Data: data}}
	wire, err := request.Marshal(nil)
	Expect(err).NotTo(HaveOccurred())
	_, err = socket.WriteTo(wire, &net.IPAddr{IP: to.AsSlice()})
	Expect(err).NotTo(HaveOccurred())
	Expect(socket.SetReadDeadline(time.Now().Add(askLimit))).To(Succeed())
	buffer := make([]byte, 4096)
	for {
		n, peer, err := socket.ReadFrom(buffer)
		Expect(err).NotTo(HaveOccurred(), "echo request %d", sequence)
		answer, err := icmp.ParseMessage(1, buffer[:n]) // 1 is ICMP
		Expect(err).NotTo(HaveOccurred())
		echo, isEcho := answer.Body.(*icmp.Echo)
		if !isEcho || answer.Type != ipv4.ICMPTypeEchoReply || echo.ID != id || echo.Seq != sequence {
			continue
		}
		from, _ := netip.AddrFromSlice(peer.(*net.IPAddr).IP.To4())
		return from, echo.Data
	}
}
