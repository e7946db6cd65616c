package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/topology"
)

// resettingID is a service of the suite's own servers, one for each mode, on a port
// that no web server of the lab has.
const resettingID = 30

// firstReused is before the client's ports that specs take. They lie in SNAT's pool,
// and above those that the client's kernel gives out by itself.
const firstReused = 61100

// portEnd is a way in which a connection ends. Its port is free when it returns.
type portEnd struct {
	name string
	end  func(c *conversation)
	// seen says in which modes the balancer sees the end: in DSR a backend's reset never passes it.
	seen map[string]bool
	// rounds is how often the port is taken again, limit what half of the rounds may take at most.
	rounds int
	limit  time.Duration
}

// portReuse is about a client that takes the port of a connection that just ended.
func (b *balanced) portReuse() {
	var port atomic.Uint32 // of this lab's client
	port.Store(firstReused)
	next := func() netip.AddrPort { return netip.AddrPortFrom(b.t.Client.Address, uint16(port.Add(1))) }

	eitherMode := map[string]bool{"dsr": true, "snat": true}
	for _, e := range []portEnd{
		{"its backend closed it first and waits (TIME_WAIT)", closedByBackend, eitherMode, 20, sentOnce},
		{"its client reset it", resetByClient, eitherMode, 20, sentOnce},
		{"its backend reset it", resetByBackend, map[string]bool{"snat": true}, 20, sentOnce},
		// The backend says that it has a connection of that port, the client that it has
		// none, and then the client's SYN, sent again, begins another one (RFC 9293, 3.5.2).
		{"its client vanished without a word", vanished, eitherMode, 1, 2 * time.Second},
	} {
		It("takes the port of a connection again in either mode after "+e.name, func() {
			b.needs(namespaces)
			for i, mode := range []string{"dsr", "snat"} {
				service := b.serveEndings(mode, resettingID+uint32(i))
				from, took := next(), []time.Duration{}
				for range e.rounds {
					e.end(b.converseAt(from, service))
					begin := time.Now()
					c := b.converseAt(from, service)
					took = append(took, time.Since(begin))
					Expect(b.flow(from, service)).To(SatisfyAll(HaveField("Mode", mode), HaveField("State", api.Active)))
					if e.seen[mode] {
						Expect(b.flow(from, service).RxPackets).To(BeNumerically("<=", 6), "packets of one that began anew")
					}
					resetByClient(c)
				}
				slices.Sort(took)
				reportFigures(fmt.Sprintf("a port taken again in %s after %s", mode, e.name),
					fmt.Sprintf("%d times, 0 failed, median %s, slowest %s", len(took), took[len(took)/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond)))
				Expect(took[len(took)/2]).To(BeNumerically("<", e.limit), "half of the rounds")
			}
		})
	}

	It("gives the next connection of a port the mode and the backends of now", func() {
		b.needs(namespaces)
		service, from := b.serveEndings("dsr", resettingID), next()
		before := b.converseAt(from, service)
		closedByBackend(before)
		its := b.service(resettingID)
		its.Mode = "snat"
		its.Backends = slices.DeleteFunc(its.Backends, func(has api.Backend) bool {
			return has.Address.Addr() == b.t.Nodes[before.backend].Address
		})
		_, err := b.agent.PutService(GinkgoT().Context(), its)
		Expect(err).NotTo(HaveOccurred())
		after := b.converseAt(from, service)
		defer after.close()
		Expect(after.backend).NotTo(Equal(before.backend))
		Expect(peer(after).Addr()).To(Equal(b.t.Nodes["lb"].Address), "whom the backend sees in SNAT")
		Expect(b.flow(from, service).Mode).To(Equal("snat"))
	})
}

// sentOnce is less than the second after which a lost SYN is sent again.
const sentOnce = 900 * time.Millisecond

// converseAt opens a conversation from a port of the client's.
func (b *balanced) converseAt(from, to netip.AddrPort) *conversation {
	GinkgoHelper()
	var conn net.Conn
	Eventually(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		defer cancel()
		conn, err = b.machine("client").Guest.Dial(ctx, "tcp", from.String(), to.String())
		if errors.Is(err, syscall.EADDRINUSE) {
			return err // the last acknowledgement is on its way
		}
		if err != nil {
			return StopTrying("the connection failed").Wrap(err)
		}
		return nil
	}).Should(Succeed())
	c := &conversation{conn: conn, reader: bufio.NewReader(conn)}
	DeferCleanup(c.close)
	who, err := c.ask()
	Expect(err).NotTo(HaveOccurred())
	c.backend = who.Name
	return c
}

// flow is the one that the balancer knows of a client's port to a frontend: the client's
// kernel gives one port to connections to several.
func (b *balanced) flow(from, to netip.AddrPort) api.Connection {
	GinkgoHelper()
	connections, err := b.agent.Connections(GinkgoT().Context(), 0)
	Expect(err).NotTo(HaveOccurred())
	connections = slices.DeleteFunc(connections, func(c api.Connection) bool { return c.Source != from || c.Dest != to })
	Expect(connections).To(HaveLen(1), "what is known of %s to %s", from, to)
	return connections[0]
}

// serveEndings has two backends of either kind answer /whoami, and /bye and /reset by
// closing and resetting, behind a service of its own until the spec ends.
func (b *balanced) serveEndings(mode string, id uint32) netip.AddrPort {
	GinkgoHelper()
	frontend := netip.AddrPortFrom(vip().Addr(), 9100+uint16(id))
	var its []netip.AddrPort
	for _, name := range []string{"be1", "be2", "be3"} {
		listener, err := in(b.t.Name+"-"+name, func() (net.Listener, error) {
			return net.Listen("tcp4", fmt.Sprintf(":%d", frontend.Port()))
		})
		Expect(err).NotTo(HaveOccurred())
		server := &http.Server{Handler: endings(name, b.t.Nodes[name].OS)}
		DeferCleanup(server.Close)
		go func() { _ = server.Serve(listener) }()
		its = append(its, b.backend(name, frontend.Port()))
	}
	b.put(api.Service{ID: id, Frontend: frontend, Mode: mode}, its...)
	return frontend
}

func endings(name string, os topology.OS) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"name":%q,"os":%q,"client":%q}`, name, os, r.RemoteAddr)
	})
	cut := func(w http.ResponseWriter, linger int) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(linger)
		_ = conn.Close()
	}
	mux.HandleFunc("/bye", func(w http.ResponseWriter, _ *http.Request) { cut(w, -1) })
	mux.HandleFunc("/reset", func(w http.ResponseWriter, _ *http.Request) { cut(w, 0) })
	return mux
}

// tell asks for an ending and returns what then comes of reading.
func tell(c *conversation, path string) error {
	GinkgoHelper()
	Expect(c.conn.SetDeadline(time.Now().Add(askLimit))).To(Succeed())
	_, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: endings\r\n\r\n", path)
	Expect(err).NotTo(HaveOccurred())
	_, err = c.reader.ReadByte()
	return err
}

func closedByBackend(c *conversation) {
	GinkgoHelper()
	Expect(tell(c, "/bye")).To(MatchError(io.EOF))
	c.close()
}

func resetByBackend(c *conversation) {
	GinkgoHelper()
	Expect(tell(c, "/reset")).To(MatchError(syscall.ECONNRESET))
	c.close()
}

func resetByClient(c *conversation) {
	GinkgoHelper()
	Expect(c.conn.(*net.TCPConn).SetLinger(0)).To(Succeed())
	c.close()
}

// vanished forgets the connection on the client's side as a machine does that lost
// its power: a socket in repair mode is closed without a packet.
func vanished(c *conversation) {
	GinkgoHelper()
	raw, err := c.conn.(*net.TCPConn).SyscallConn()
	Expect(err).NotTo(HaveOccurred())
	var failed error
	Expect(raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	})).To(Succeed())
	Expect(failed).NotTo(HaveOccurred())
	c.close()
}
