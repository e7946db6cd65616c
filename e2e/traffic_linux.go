package e2e

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// askLimit bounds one request: a lost segment is sent again after 200 ms.
const askLimit = 5 * time.Second

// whoami is what a backend says of itself and of its peer.
type whoami struct {
	Name    string         `json:"name"`
	Address netip.Addr     `json:"address"`
	OS      topology.OS    `json:"os"`
	Client  netip.AddrPort `json:"client"`
}

// conversation is one connection from the client through a VIP, over which
// requests follow one another.
type conversation struct {
	conn   net.Conn
	reader *bufio.Reader
	// backend is who answered first: nobody else may ever answer.
	backend string
	// limit bounds each request; 0: askLimit does.
	limit time.Duration
}

// converse connects, and asks once.
func converse(l *lab.Lab, to netip.AddrPort) (*conversation, error) {
	t, err := l.Topology()
	if err != nil {
		return nil, err
	}
	client, err := l.Machine(t.Client.Name)
	if err != nil {
		return nil, err
	}
	return converseFrom(client, to)
}

// converseFrom does so from any machine.
func converseFrom(from provider.Machine, to netip.AddrPort) (*conversation, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	conn, err := from.Guest.Dial(ctx, "tcp", "", to.String())
	if err != nil {
		return nil, err
	}
	return startConversation(conn)
}

// startConversation asks once on a connection that is there.
func startConversation(conn net.Conn) (*conversation, error) {
	c := &conversation{conn: conn, reader: bufio.NewReader(conn)}
	who, err := c.ask()
	if err != nil {
		c.close()
		return nil, err
	}
	c.backend = who.Name
	return c, nil
}

// ask sends one request; another backend's answer is an error.
func (c *conversation) ask() (whoami, error) {
	var who whoami
	if err := c.conn.SetDeadline(time.Now().Add(cmp.Or(c.limit, askLimit))); err != nil {
		return who, err
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+c.conn.RemoteAddr().String()+"/whoami", nil)
	if err != nil {
		return who, err
	}
	if err := request.Write(c.conn); err != nil {
		return who, err
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		return who, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&who); err != nil {
		return who, fmt.Errorf("status %s: %w", response.Status, err)
	}
	if c.backend != "" && who.Name != c.backend {
		return who, fmt.Errorf("%s answered on a connection to %s", who.Name, c.backend)
	}
	return who, nil
}

// local is the client's own address and port.
func (c *conversation) local() netip.AddrPort {
	return c.conn.LocalAddr().(*net.TCPAddr).AddrPort()
}

func (c *conversation) close() { _ = c.conn.Close() }

// part closes the connection once the backend has closed its side too, so that both have sent all
// that they had to.
func (c *conversation) part() {
	GinkgoHelper()
	defer c.close()
	Expect(c.conn.(interface{ CloseWrite() error }).CloseWrite()).To(Succeed())
	Expect(c.conn.SetReadDeadline(time.Now().Add(askLimit))).To(Succeed())
	_, err := io.Copy(io.Discard, c.reader)
	Expect(err).NotTo(HaveOccurred(), "until the backend closes its side")
}

// talk opens a conversation.
func talk(l *lab.Lab, to netip.AddrPort) *conversation {
	c, err := converse(l, to)
	ExpectWithOffset(1, err).NotTo(HaveOccurred())
	return c
}

// talkTo opens conversations until one is with a backend.
func talkTo(l *lab.Lab, to netip.AddrPort, backend string) *conversation {
	for range 200 {
		c, err := converse(l, to)
		ExpectWithOffset(1, err).NotTo(HaveOccurred())
		if c.backend == backend {
			return c
		}
		c.close()
	}
	ExpectWithOffset(1, backend).To(BeEmpty(), "200 connections, and none reached this backend")
	return nil
}

// goesOn expects a conversation to continue with the backend that it began with.
func goesOn(c *conversation, after string) {
	_, err := c.ask()
	ExpectWithOffset(1, err).NotTo(HaveOccurred(), "the connection to %s after %s", c.backend, after)
}

// all goes on with many conversations and returns what went wrong.
func all(conversations []*conversation) (broken []string) {
	for _, c := range conversations {
		if _, err := c.ask(); err != nil {
			broken = append(broken, fmt.Sprintf("%s to %s: %v", c.local(), c.backend, err))
		}
	}
	return broken
}

// vip is the demo's virtual address.
func vip() netip.AddrPort { return topology.Default().Services[0].Frontend() }

// demo is the demo's topology under another name, with the backends named
// (all without names).
func demo(name string, backends ...string) topology.Topology {
	t := topology.Default()
	t.Name = name
	if len(backends) == 0 {
		return t
	}
	nodes := map[string]topology.Node{"lb": t.Nodes["lb"]}
	for _, b := range backends {
		nodes[b] = t.Nodes[b]
	}
	t.Nodes, t.Services[0].Backends = nodes, backends
	return t
}

// occupy has the suite itself serve on a node's port until the spec ends.
func (s *suite) occupy(lab, node string, port int) {
	GinkgoHelper()
	s.needs(namespaces)
	listener, err := in(lab+"-"+node, func() (net.Listener, error) {
		return net.Listen("tcp4", fmt.Sprintf(":%d", port))
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { _ = listener.Close() })
	go func() { // it answers, and not as a backend would
		_ = http.Serve(listener, http.NotFoundHandler())
	}()
}
