package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"l4lab/agent/web/pattern"
	"l4lab/e2e/chaos"
)

const (
	// newRate is how many connections a second are opened to each service.
	newRate = 15
	// keptPerService connections are asked every askEvery for as long as they live.
	keptPerService = 8
	askEvery       = 250 * time.Millisecond
	// walkDownload is read in pieces, with a pause after each: about three seconds long.
	walkDownload      = 3 << 20
	walkDownloadPiece = 64 << 10
	walkDownloadPause = 60 * time.Millisecond
	// buffered is how long ago what a download reads may have come, at the most.
	buffered = 2 * time.Second
)

// startLoads has clients use all services, until end is called.
func (w *randomWalk) startLoads() (end func()) {
	ctx, cancel := context.WithCancel(w.stopped)
	var wait sync.WaitGroup
	for _, id := range []uint32{directID, translatedID, secondID} {
		wait.Go(func() { w.openMany(ctx, id, &wait) })
		for range keptPerService {
			k := w.rounds.add(id)
			wait.Go(func() { w.always(ctx, id, func(ctx context.Context, _ uint32) { w.keepOne(ctx, k) }) })
		}
		wait.Go(func() { w.always(ctx, id, w.download) })
	}
	wait.Go(func() { w.watchCounters(ctx) })
	return sync.OnceFunc(func() {
		cancel()
		wait.Wait()
		w.dialing.Wait()
	})
}

// always does something again and again, while the service is there.
func (w *randomWalk) always(ctx context.Context, id uint32, do func(context.Context, uint32)) {
	for sleep(ctx, askEvery/2) {
		if w.line.Has(id) {
			do(ctx, id)
		}
	}
}

// openMany opens connections at a steady rate, asks once on each and closes it.
func (w *randomWalk) openMany(ctx context.Context, id uint32, wait *sync.WaitGroup) {
	for sleep(ctx, time.Second/newRate) {
		if w.line.Has(id) {
			wait.Go(func() {
				if c := w.converse(id); c != nil {
					c.close()
				}
			})
		}
	}
}

// chat is a conversation with what the walk knows of it.
type chat struct {
	*conversation
	service uint32
	ports   *localPorts
	// lost says that it broke, well when the last answer came, peer whom the backend saw.
	lost bool
	well time.Duration
	peer string
}

// converse opens a connection and asks; what comes of it is judged. It is nil
// when nothing did.
func (w *randomWalk) converse(id uint32) *chat {
	seen := chaos.Seen{Service: id, New: true, From: w.now()}
	c, local, err := w.connect(id)
	seen.Local = local.String()
	if err == nil {
		var who whoami
		if who, err = c.ask(); err == nil {
			c.backend, c.peer = who.Name, who.Client.String()
			seen.Backend, seen.Mode = who.Name, w.modeOf(who)
		}
	}
	seen.To, seen.Err = w.now(), err
	w.judge(seen)
	w.rounds.opens(id, seen.From)
	if err != nil {
		if c != nil {
			c.lost = true
			c.close()
		}
		return nil
	}
	c.well = seen.To
	return c
}

// connect says from which address and port, also when it fails.
func (w *randomWalk) connect(id uint32) (*chat, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	conn, local, err := w.ports.dial(func(local netip.AddrPort) (net.Conn, error) {
		return w.client.Guest.Dial(ctx, "tcp", local.String(), frontendOf(id).String())
	})
	if err != nil {
		return nil, local, err
	}
	return &chat{conversation: &conversation{conn: conn, reader: bufio.NewReader(conn)}, service: id, ports: w.ports}, local, nil
}

// close ends the conversation, if it has not ended already. One that is lost is
// reset: its end would be sent again and again, to whom nobody answers for.
func (c *chat) close() {
	if tcp, ok := c.conn.(*net.TCPConn); ok && c.lost {
		_ = tcp.SetLinger(0) // it fails on what has ended
	}
	c.conversation.close()
	if !c.lost {
		c.ports.giveBack(c.local())
	}
}

// modeOf is how a backend was reached: in SNAT its peer is the balancer.
func (w *randomWalk) modeOf(who whoami) string {
	if who.Client.Addr() == balancerAddress() {
		return "snat"
	}
	return "dsr"
}

// keepOne has one conversation until it breaks or the service goes.
func (w *randomWalk) keepOne(ctx context.Context, k *keeper) {
	ended := k.asks(w.now())
	c := w.converse(k.service)
	ended()
	if c == nil {
		return
	}
	defer c.close()
	for sleep(ctx, askEvery) {
		ended := k.asks(w.now())
		who, err := c.ask()
		ended()
		seen := chaos.Seen{Service: k.service, From: c.well, To: w.now(), Local: c.local().String(), Backend: c.backend, Err: err}
		switch {
		case who.Name != "" && who.Name != c.backend:
			seen.Wrong = err.Error()
		case err == nil && who.Client.String() != c.peer:
			seen.Wrong = fmt.Sprintf("its peer was %s, and now is %s", c.peer, who.Client)
		}
		w.judge(seen)
		if err != nil {
			c.lost = true
			return
		}
		c.well = seen.To
	}
}

// download fetches some megabytes slowly, and compares.
func (w *randomWalk) download(ctx context.Context, id uint32) {
	seen := chaos.Seen{Service: id, New: true, From: w.now()}
	c, local, err := w.connect(id)
	seen.Local = local.String()
	var response *http.Response
	if err == nil {
		defer c.close()
		response, err = c.request(fmt.Sprintf("http://%s/bytes?n=%d&seed=%d", frontendOf(id), walkDownload, id))
	}
	seen.To, seen.Err = w.now(), err
	if err == nil {
		c.backend, c.well = response.Header.Get("X-Backend"), seen.To
		seen.Backend = c.backend
	}
	w.judge(seen) // its mode is not seen: the answer does not say whom the backend saw
	if err != nil {
		if c != nil {
			c.lost = true
		}
		return
	}
	if err := w.fetch(ctx, c, response.Body); err != nil && ctx.Err() == nil {
		c.lost = true
		w.judge(chaos.Seen{Service: id, From: c.well, To: w.now(), Local: seen.Local, Backend: c.backend, Err: err})
	}
}

// request sends a GET and reads the answer's header.
func (c *chat) request(url string) (*http.Response, error) {
	if err := c.conn.SetDeadline(time.Now().Add(askLimit)); err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if err := request.Write(c.conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(c.reader, request)
}

// fetch reads a download's body to its end.
func (w *randomWalk) fetch(ctx context.Context, c *chat, body io.Reader) error {
	if err := c.conn.(*net.TCPConn).SetReadBuffer(walkDownloadPiece); err != nil {
		return err
	}
	hash := sha256.New()
	for {
		if err := c.conn.SetDeadline(time.Now().Add(askLimit)); err != nil {
			return err
		}
		_, err := io.CopyN(hash, body, walkDownloadPiece)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		c.well = max(c.well, w.now()-buffered)
		if !sleep(ctx, walkDownloadPause) {
			return ctx.Err()
		}
	}
	want, err := pattern.SHA256(walkDownload, uint64(c.service))
	if got := hex.EncodeToString(hash.Sum(nil)); err == nil && got != want {
		w.judge(chaos.Seen{Service: c.service, Local: c.local().String(), Backend: c.backend, To: w.now(),
			Wrong: fmt.Sprintf("a download has SHA-256 %s, want %s", got, want)})
	}
	return err
}

// sleep says whether there is more to do after a pause.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
