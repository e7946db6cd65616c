package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// patience bounds connecting and asking: on a Hyper-V host each connection of the
// client's begins with a command over WinRM.
const patience = 20 * time.Second

// The client's ports: all in the pool of SNAT, which keeps them where they are free.
const firstPort, lastPort = 33000, 60999

// ports hands out source ports of the client's, each once until all were used, so
// that a connection is known by its port even when it fails.
type ports struct {
	mu   sync.Mutex
	next uint16
}

func newPorts() *ports {
	return &ports{next: firstPort + uint16(rand.IntN(lastPort-firstPort+1))}
}

// take returns the next port that suits; one that none suits gets any.
func (p *ports) take(suits func(uint16) bool) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range lastPort - firstPort + 1 {
		port := p.next
		if p.next++; p.next > lastPort {
			p.next = firstPort
		}
		if suits == nil || suits(port) {
			return port
		}
	}
	return p.next
}

// taken says that a connection was not tried, since somebody else has its port. A
// guest's error matches the same whatever system its machine has: package relay says
// of Windows' own number (WSAEADDRINUSE, 10048) what it means.
func taken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// conversation is one connection of the client's to the VIP.
type conversation struct {
	conn   net.Conn
	reader *bufio.Reader
	client netip.AddrPort
	at     netip.AddrPort
	// backend is who answered first: nobody else may ever answer.
	backend string
}

// converse connects from a port that suits (nil: any), within the patience. It
// returns the port also when it fails.
func (w *walk) converse(ctx context.Context, suits func(uint16) bool) (*conversation, uint16, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		port := w.ports.take(suits)
		client := netip.AddrPortFrom(w.topology.Client.Address, port)
		conn, err := w.client.Guest.Dial(ctx, "tcp", client.String(), w.service.Frontend().String())
		if taken(err) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, port, fmt.Errorf("connect from port %d: %w", port, err)
		}
		return &conversation{conn: conn, reader: bufio.NewReader(conn), client: client, at: w.service.Frontend()}, port, nil
	}
}

func (c *conversation) close() { _ = c.conn.Close() }

// direct says that its bytes come straight from the lab's network, and not by a
// longer way from another machine.
func (c *conversation) direct() bool {
	_, ok := c.conn.(syscall.Conn)
	return ok
}

// answer is what a request brought.
type answer struct {
	backend string
	body    []byte
}

// get asks for a path. The page ends its connection, so that each refresh has a
// port of its own; other paths keep it open unless it is to be the last request.
func (c *conversation) get(path string, last bool) (answer, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, err
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+c.at.String()+path, nil)
	if err != nil {
		return answer{}, err
	}
	request.Close = last
	if err := request.Write(c.conn); err != nil {
		return answer{}, err
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		return answer{}, fmt.Errorf("GET %s: %w", request.URL, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, fmt.Errorf("GET %s: %w", request.URL, err)
	}
	if response.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("GET %s: %s", request.URL, response.Status)
	}
	a := answer{backend: response.Header.Get("X-Backend"), body: body}
	if c.backend == "" {
		c.backend = a.backend
	}
	if a.backend != c.backend {
		return a, fmt.Errorf("%s answered on a connection to %s", a.backend, c.backend)
	}
	return a, nil
}

// peer asks whom the backend sees at the other end.
func (c *conversation) peer(last bool) (netip.AddrPort, error) {
	a, err := c.get("/whoami", last)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var who struct{ Client netip.AddrPort }
	if err := json.Unmarshal(a.body, &who); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read what %s says of itself: %w", a.backend, err)
	}
	return who.Client, nil
}

// once connects, asks for a path and closes.
func (w *walk) once(ctx context.Context, path string) (answer, uint16, error) {
	c, port, err := w.converse(ctx, nil)
	if err != nil {
		return answer{}, port, err
	}
	defer c.close()
	a, err := c.get(path, true)
	return a, port, err
}
