package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/agent/web/pattern"
	"l4lab/bpf"
)

// slowAndSilent is about clients that take their time, and about peers that are
// not heard of any more.
func (b *balanced) slowAndSilent() {
	It("lets a slow client's window close and open again while others lose nothing, in either mode", func() {
		b.needs(namespaces)
		load := b.gatherBoth(askLimit)
		before := b.counters("client", "/proc/net/netstat")
		var wait sync.WaitGroup
		errs := make([]error, 2)
		for i, mode := range []string{"dsr", "snat"} {
			_, body := b.download(frontends[mode](), slowBytes, uint64(i))
			wait.Go(func() { errs[i] = readSlowly(body, uint64(i)) })
		}
		wait.Wait()
		after := b.counters("client", "/proc/net/netstat")
		for _, counter := range []string{"TcpExt TCPToZeroWindowAdv", "TcpExt TCPFromZeroWindowAdv"} {
			Expect(after[counter]-before[counter]).To(BeNumerically(">=", 2), "%s: windows that closed and opened", counter)
		}
		Expect(errs).To(HaveEach(BeNil()))
		load.loseNothing("two clients read 1 KB/s for three seconds")
	})

	It("forgets a handshake that nobody ends after its lifetime, and keeps an idle connection beyond it", func() {
		b.needs(namespaces)
		b.withConfig(func(c *bpf.LBLbConfig) { c.TcpSynNs = uint64(handshake) })
		// In SNAT a backend's repeated SYN-ACK passes the balancer, and the handshake is not over.
		for _, name := range b.t.Backends() {
			b.sysctl(name, "net/ipv4/tcp_synack_retries", "0")
		}
		ids, kept, before := []uint32{directID, translatedID}, [2][]*conversation{}, [2]map[netip.AddrPort]api.Connection{}
		for i, mode := range []string{"dsr", "snat"} {
			kept[i] = b.keep(frontends[mode](), 5)
			before[i] = b.known(ids[i])
			b.beginHandshakes(frontends[mode](), ids[i], i)
		}
		time.Sleep(handshake + handshake/4) // nothing may be sent meanwhile: silence is what is tried
		for i, mode := range []string{"dsr", "snat"} {
			again := b.beginHandshakes(frontends[mode](), ids[i], i) // flows that are known would not begin
			flows := b.begun(ids[i])
			Expect(all(kept[i])).To(BeEmpty(), "connections that were idle for longer than a handshake may take")
			Expect(b.begun(ids[i])).To(Equal(flows), "flows that began: the idle ones are known still")
			now := b.known(ids[i])
			for _, c := range kept[i] {
				Expect(now[c.local()].RxPackets).To(BeNumerically(">", before[i][c.local()].RxPackets), "packets of the flow that it was")
			}
			reportFigures("half-open and idle in "+mode, fmt.Sprintf("handshakes that nobody ended, forgotten after %s: %d begin anew; %d connections idle for longer, 0 lost",
				handshake, again, len(kept[i])))
		}
	})

	for _, mode := range []string{"dsr", "snat"} {
		It("ends a connection at the backend and in the table when its client vanished without FIN, in "+mode, Label(mode), func() {
			b.needs(namespaces)
			conn, _ := b.download(frontends[mode](), slowBytes, 1)
			from := conn.LocalAddr().(*net.TCPAddr).AddrPort()
			flow := b.flow(from, frontends[mode]())
			backend, _ := b.t.MachineAt(flow.Backend.Addr())
			peer := from.Port()
			if mode == "snat" {
				peer = flow.NATPort
			}
			Expect(b.establishedWith(backend, peer)).To(Equal(1), "the backend's connections with port %d", peer)
			vanished(&conversation{conn: conn})
			// What the backend still has to say is answered by a reset.
			Eventually(func() int { return b.establishedWith(backend, peer) }).Should(BeZero())
			Eventually(func() api.ConnectionState { return b.flow(from, frontends[mode]()).State }).Should(Equal(api.Closing))
		})
	}
}

// slowBytes is more than the socket buffers between a backend and a client who does not read hold.
const slowBytes = 8 << 20

// download begins one, most of which waits at the backend until somebody reads.
func (b *balanced) download(to netip.AddrPort, n int64, seed uint64) (*net.TCPConn, io.Reader) {
	GinkgoHelper()
	dialled, err := b.dial("client", "tcp", to, askLimit)
	Expect(err).NotTo(HaveOccurred())
	conn := dialled.(*net.TCPConn)
	DeferCleanup(func() { _ = conn.Close() })
	Expect(conn.SetDeadline(time.Now().Add(30 * time.Second))).To(Succeed())
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/bytes?n=%d&seed=%d", to, n, seed), nil)
	Expect(err).NotTo(HaveOccurred())
	request.Close = true
	Expect(request.Write(conn)).To(Succeed())
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), request)
	Expect(err).NotTo(HaveOccurred())
	return conn, response.Body
}

// readSlowly reads 1 KB/s for three seconds and all the rest at once.
func readSlowly(body io.Reader, seed uint64) error {
	hash := sha256.New()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for range 3 {
		<-second.C
		if _, err := io.CopyN(hash, body, 1<<10); err != nil {
			return fmt.Errorf("while it was slow: %w", err)
		}
	}
	if _, err := io.Copy(hash, body); err != nil {
		return err
	}
	want, err := pattern.SHA256(slowBytes, seed)
	if got := hex.EncodeToString(hash.Sum(nil)); err == nil && got != want {
		return fmt.Errorf("SHA-256 %s, want %s", got, want)
	}
	return err
}

// handshake is how long one may take in the spec below: a minute otherwise.
const handshake = 1500 * time.Millisecond

// beginHandshakes sends SYNs of clients that answer nothing, always the same ones for a
// service, and returns how many flows began: in SNAT a part is lost before the balancer.
func (b *balanced) beginHandshakes(to netip.AddrPort, id uint32, which int) (began uint64) {
	GinkgoHelper()
	const syns = 500
	before := b.begun(id)
	b.flood(to, which*syns, syns)
	Eventually(func() uint64 {
		began = b.begun(id) - before
		return began
	}).Should(BeNumerically(">", syns/2), "new flows by %d SYNs", syns)
	return began
}

// sysctl sets something of a machine's kernel until the spec ends.
func (b *balanced) sysctl(machine, name, value string) {
	GinkgoHelper()
	path := "/proc/sys/" + name
	before := strings.TrimSpace(b.exec(b.t.Name, machine, "cat", path))
	b.exec(b.t.Name, machine, "sh", "-c", "echo "+value+" > "+path)
	DeferCleanup(b.exec, b.t.Name, machine, "sh", "-c", "echo "+before+" > "+path)
}

// establishedWith counts a machine's established TCP connections with a port of the
// other end's (proc_net_tcp(5)).
func (b *balanced) establishedWith(machine string, port uint16) (n int) {
	GinkgoHelper()
	for line := range strings.Lines(b.exec(b.t.Name, machine, "cat", "/proc/net/tcp")) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[3] == "01" && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", port)) {
			n++
		}
	}
	return n
}
