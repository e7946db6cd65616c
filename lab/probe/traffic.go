package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// parallel is how many connections are made at a time.
const parallel = 16

// exchange makes the plan's small requests: first each tuple once, then, when
// those connections were seen to end, some of them again, and the pairs.
func (p *pass) exchange(ctx context.Context, plan plan, r *recorder, e *Evidence) {
	e.Exchanges = p.askAll(plan.once, func(client netip.AddrPort) (x Exchange) {
		p.fromFree(ctx, plan, client, func(client netip.AddrPort) error {
			x = p.ask(ctx, client)
			return x.Err
		})
		return x
	})
	asked := map[netip.AddrPort]Exchange{}
	for i, x := range e.Exchanges {
		asked[plan.once[i]] = x
	}
	p.settle(ctx, r, e)
	e.Exchanges = append(e.Exchanges, p.askAll(plan.again, func(client netip.AddrPort) Exchange {
		return p.askAgain(ctx, asked[client])
	})...)
	for _, pair := range plan.together {
		e.Exchanges = append(e.Exchanges, p.askPair(ctx, plan, pair)...)
	}
}

func (p *pass) askAll(clients []netip.AddrPort, ask func(netip.AddrPort) Exchange) []Exchange {
	exchanges := make([]Exchange, len(clients))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i, client := range clients {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			exchanges[i] = ask(client)
		})
	}
	wg.Wait()
	return exchanges
}

func (p *pass) ask(ctx context.Context, client netip.AddrPort) Exchange {
	return p.askTogether(ctx, [2]netip.AddrPort{client})[0]
}

// A client that is elsewhere gives a port back a moment after its connection was closed
// here: the relay there waits for late datagrams first.
const (
	portPatience = 5 * time.Second
	portPause    = 100 * time.Millisecond
)

// askAgain asks from the port of an earlier connection, once that is given back. One
// that was somebody else's then is not waited for.
func (p *pass) askAgain(ctx context.Context, before Exchange) Exchange {
	patience, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for {
		x := p.ask(ctx, before.Client)
		if !inUse(x.Err) || inUse(before.Err) {
			return x
		}
		select {
		case <-patience.Done():
			return x
		case <-time.After(portPause):
		}
	}
}

// inUse says that a connection was not begun, since its port is somebody else's
// on the client machine, or was: a connection that the client closed first keeps its
// port for a minute (TIME_WAIT, RFC 9293 section 3.6.1). The balancer may have
// forgotten it by then, and only the client's system knows.
func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// fromFree connects from a client's port, or, while its port is in use, from
// others in its place.
func (p *pass) fromFree(ctx context.Context, plan plan, client netip.AddrPort, connect func(netip.AddrPort) error) {
	for range scannedPorts {
		if err := connect(client); !inUse(err) || ctx.Err() != nil {
			return
		}
		client = plan.another(client)
	}
}

// askPair asks from two clients together, or, while a port of theirs is in use,
// from another pair. One whose connection was open by then is asked nevertheless.
func (p *pass) askPair(ctx context.Context, plan plan, pair [2]netip.AddrPort) (all []Exchange) {
	for range scannedPorts {
		asked := p.askTogether(ctx, pair)
		last := asked[len(asked)-1]
		next, found := plan.pair(pair[1].Addr())
		if !inUse(last.Err) || ctx.Err() != nil || !found {
			return append(all, asked...)
		}
		all, pair = append(all, asked[:len(asked)-1]...), next
	}
	return all
}

// askTogether opens a connection from each client that is set, as far as a port
// that is in use, and asks once all are open.
func (p *pass) askTogether(ctx context.Context, clients [2]netip.AddrPort) []Exchange {
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.Timeout,
		fmt.Errorf("no answer within %s", p.options.Timeout))
	defer cancel()
	var exchanges []Exchange
	var conns []net.Conn
	for _, client := range clients {
		if !client.IsValid() {
			continue
		}
		x := Exchange{Client: client}
		begun := time.Now()
		conn, err := p.dial(ctx, client)
		if err != nil {
			x.Err, x.Took = err, time.Since(begun)
		}
		exchanges, conns = append(exchanges, x), append(conns, conn)
		if inUse(err) {
			break
		}
	}
	for i, conn := range conns {
		if conn == nil {
			continue
		}
		begun := time.Now()
		if p.service.Protocol == topology.UDP {
			exchanges[i].Answer, exchanges[i].Err = askUDP(conn)
		} else {
			exchanges[i].Answer, exchanges[i].Err = p.askTCP(conn)
		}
		exchanges[i].Took = time.Since(begun)
	}
	return exchanges
}

// dial connects from a client's address to the service. The connection ends
// with the context's deadline.
func (p *pass) dial(ctx context.Context, client netip.AddrPort) (net.Conn, error) {
	conn, err := p.lab.DialClient(ctx, string(p.service.Protocol), client, p.service.Frontend())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

func (p *pass) askTCP(conn net.Conn) (Answer, error) {
	var answer Answer
	err := p.roundTrip(conn, http.MethodGet, "/whoami", nil, 0, func(r *http.Response) error {
		return json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&answer)
	})
	return answer, err
}

// roundTrip makes one HTTP request on a connection of its own. The server
// closes first, so that the client's port is free again at once.
func (p *pass) roundTrip(conn net.Conn, method, path string, body io.Reader, length int64, read func(*http.Response) error) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	request, err := http.NewRequest(method, "http://"+p.service.Frontend().String()+path, body)
	if err != nil {
		return err
	}
	request.Close = true
	request.ContentLength = length
	if err := request.Write(conn); err != nil {
		return fmt.Errorf("send %s %s: %w", method, path, err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %s", method, path, response.Status)
	}
	if err := read(response); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return fmt.Errorf("%s %s: wait for the server to close: %w", method, path, err)
	}
	return nil
}

func askUDP(conn net.Conn) (answer Answer, err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	// The text differs for each flow and time, so that the captures can tell
	// the datagrams apart.
	question := fmt.Sprintf("whoami %s %d\n", conn.LocalAddr(), time.Now().UnixNano())
	if _, err := io.WriteString(conn, question); err != nil {
		return Answer{}, fmt.Errorf("send a datagram: %w", err)
	}
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	if err != nil {
		return Answer{}, fmt.Errorf("wait for the answer to a datagram: %w", err)
	}
	if err := json.Unmarshal(buffer[:n], &answer); err != nil {
		return Answer{}, fmt.Errorf("read the answer %q: %w", buffer[:n], err)
	}
	return answer, nil
}

// foreignTimeout is how long the balancer's own interface may take to show the
// packet that is not for a service.
const foreignTimeout = 2 * time.Second

// sendForeign sends a packet for an address beside the VIP through the balancer.
// Nobody answers there: it ends when the balancer's own interface has seen it.
func (p *pass) sendForeign(ctx context.Context, plan plan, r *recorder, e *Evidence) {
	ctx, cancel := context.WithTimeout(ctx, foreignTimeout)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		var conn net.Conn
		var err error
		p.fromFree(ctx, plan, plan.foreign, func(client netip.AddrPort) error {
			conn, err = p.lab.DialClient(ctx, string(p.service.Protocol), client, e.Foreign.Dest)
			return err
		})
		if err != nil {
			return // no answer is what is expected; the captures show whether a packet was sent
		}
		if p.service.Protocol == topology.UDP {
			if _, err := io.WriteString(conn, "for nobody\n"); err != nil {
				p.say("service %d, mode %s: send a datagram to %s: %v", p.service.ID, p.mode, e.Foreign.Dest, err)
			}
		}
		if err := conn.Close(); err != nil {
			p.say("service %d, mode %s: close the connection to %s: %v", p.service.ID, p.mode, e.Foreign.Dest, err)
		}
	})
	own := capture.Place{Machine: p.topology.LoadBalancer()}
	err := r.sessions[own].Wait(ctx, func(frames []capture.Frame) bool {
		for _, packet := range evidence.Decode(own, frames) {
			if packet.Dest() == e.Foreign.Dest {
				return true
			}
		}
		return false
	})
	switch {
	case errors.Is(err, capture.ErrNotLive):
		// Unwatched: whatever sends it has all of the time to do so. A dial that
		// nobody answers ends with the context, a datagram is soon out.
		wg.Wait()
		settleBlind(ctx)
		return
	case err != nil:
		p.say("service %d, mode %s: the packet for %s was not seen: %v", p.service.ID, p.mode, e.Foreign.Dest, err)
	}
	cancel()
	wg.Wait()
}
