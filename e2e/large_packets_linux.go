package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/agent/web"
	"l4lab/agent/web/pattern"
	"l4lab/bpf"
)

// largePackets is about what fits the wire, and does not with 20 bytes more.
func (b *balanced) largePackets() {
	const size = 5 << 20
	// fullSize gives the client a route to the VIP that has the whole MTU, and
	// nothing learned yet.
	fullSize := func() {
		GinkgoHelper()
		via := b.t.Nodes["lb"].Address.String()
		before := b.ipIn("client", "route", "show", vip().Addr().String())
		Expect(before).To(ContainSubstring("mtu 1480"))
		b.ipIn("client", "route", "replace", vip().Addr().String(), "via", via, "dev", "eth0", "proto", "76", "mtu", "1500")
		b.ipIn("client", "route", "flush", "cache")
		DeferCleanup(func() {
			b.ipIn("client", "route", "replace", vip().Addr().String(), "via", via, "dev", "eth0", "proto", "76", "mtu", "1480")
			b.ipIn("client", "route", "flush", "cache")
		})
	}

	It("teaches the client's kernel the path MTU of DSR, and the upload arrives whole", Label("dsr"), func() {
		fullSize()
		before := b.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT)
		mtu := b.upload(vip(), size)
		Expect(mtu).To(Equal(1480), "the path MTU of the client's socket")
		Expect(b.ipIn("client", "route", "get", vip().Addr().String())).To(ContainSubstring("mtu 1480"))
		Expect(b.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT)).To(BeNumerically(">", before))
	})

	It("takes the client's full size in SNAT", Label("snat"), func() {
		fullSize()
		before := b.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT)
		Expect(b.upload(translatedVIP(), size)).To(Equal(1500), "the path MTU of the client's socket")
		Expect(b.deeds(bpf.LBIcmpDeedICMP_TOO_BIG_SENT)).To(Equal(before))
	})

	for _, mode := range []string{"dsr", "snat"} {
		It("carries datagrams of 4000 bytes in fragments both ways in "+mode, Label(mode), func() {
			frontend := netip.AddrPortFrom(vip().Addr(), 9000)
			its := []netip.AddrPort{b.backend("be1", 9000), b.backend("be3", 9000)}
			for i, name := range []string{"be1", "be3"} {
				b.echo(name, map[string]netip.AddrPort{"dsr": frontend, "snat": its[i]}[mode])
			}
			b.put(api.Service{ID: 20, Frontend: frontend, Protocol: "udp", Mode: mode}, its...)
			lost := b.drops("fragment")
			for i := range 20 {
				conn, err := b.dial("client", "udp", frontend, askLimit)
				Expect(err).NotTo(HaveOccurred())
				echoes(conn, bytes.Repeat([]byte{byte(i)}, 4000))
			}
			Expect(b.drops("fragment")).To(Equal(lost))
			counters, err := b.agent.Counters(GinkgoT().Context())
			Expect(err).NotTo(HaveOccurred())
			for _, c := range counters.Services {
				if c.ID == 20 {
					Expect(c.Traffic).To(HaveField("RxPackets", BeNumerically(">=", 20*3)), "three fragments each")
				}
			}
		})
	}
}

// echoes sends a datagram, expects it back, and closes.
func echoes(conn net.Conn, datagram []byte) {
	GinkgoHelper()
	defer conn.Close()
	Expect(conn.SetDeadline(time.Now().Add(askLimit))).To(Succeed())
	_, err := conn.Write(datagram)
	Expect(err).NotTo(HaveOccurred())
	buffer := make([]byte, len(datagram)+1)
	n, err := conn.Read(buffer)
	Expect(err).NotTo(HaveOccurred())
	Expect(bytes.Equal(buffer[:n], datagram)).To(BeTrue(), "%d bytes of %d came back", n, len(datagram))
}

// upload sends bytes that the backend hashes, and returns the path MTU that the
// socket ended with.
func (b *balanced) upload(to netip.AddrPort, size int64) (mtu int) {
	GinkgoHelper()
	conn, err := b.dial("client", "tcp", to, askLimit)
	Expect(err).NotTo(HaveOccurred())
	defer conn.Close()
	Expect(conn.SetDeadline(time.Now().Add(2 * askLimit))).To(Succeed())
	request, err := http.NewRequest(http.MethodPost, "http://"+to.String()+"/sink", pattern.Reader(size, 1))
	Expect(err).NotTo(HaveOccurred())
	request.ContentLength = size
	Expect(request.Write(conn)).To(Succeed())
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	Expect(err).NotTo(HaveOccurred())
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	var got web.Sink
	Expect(json.Unmarshal(body, &got)).To(Succeed(), string(body))
	want, err := pattern.SHA256(size, 1)
	Expect(err).NotTo(HaveOccurred())
	Expect(got).To(Equal(web.Sink{Bytes: size, SHA256: want}))
	return pathMTU(conn)
}

// pathMTU is what the kernel takes for a connection's.
func pathMTU(conn net.Conn) (mtu int) {
	GinkgoHelper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	Expect(err).NotTo(HaveOccurred())
	var failed error
	Expect(raw.Control(func(fd uintptr) { mtu, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU) })).To(Succeed())
	Expect(failed).NotTo(HaveOccurred())
	return mtu
}
