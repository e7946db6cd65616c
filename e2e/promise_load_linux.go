package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/provider"
)

const (
	// residents is how many connections of each crowd stay open all the time.
	residents = 20
	// residentPause is between two requests on one of them.
	residentPause = 100 * time.Millisecond
	// crowdRate is how many connections a second come and go besides.
	crowdRate = 100
)

// figures are what a promise under load is judged by. The report has them.
type figures struct {
	Opened            int     `json:"opened"`
	FailedNew         int     `json:"failedNew"`
	Established       int     `json:"established"`
	FailedEstablished int     `json:"failedEstablished"`
	Answers           int64   `json:"answers"`
	Bytes             int64   `json:"bytes"`
	Seconds           float64 `json:"seconds"`
}

func (f figures) String() string {
	return fmt.Sprintf("%d connections opened, %d of them failed; %d kept open, %d of them failed; %d answers, %d bytes, %.1f s",
		f.Opened, f.FailedNew, f.Established, f.FailedEstablished, f.Answers, f.Bytes, f.Seconds)
}

// reportFigures puts what a promise was measured by into the report.
func reportFigures(what string, value any) {
	AddReportEntry(what, value, ReportEntryVisibilityFailureOrVerbose)
}

// resident is a connection that stays open, and asks now and then.
type resident struct {
	*conversation
	// peer is the client as its backend saw it first: in another mode it would
	// be another one.
	peer    netip.AddrPort
	answers atomic.Int64
}

// newcomer is how a connection came off that was opened, asked once and closed.
type newcomer struct {
	began, ended time.Time
	backend      string
	err          error
}

// crowd puts a VIP under load: some connections stay, others come and go.
type crowd struct {
	from     provider.Machine
	to       netip.AddrPort
	patience time.Duration
	began    time.Time
	stop     chan struct{}
	stopped  sync.Once
	wait     sync.WaitGroup
	bytes    atomic.Int64
	answers  atomic.Int64
	stay     []*resident

	mu    sync.Mutex
	came  []newcomer
	fell  map[*resident]error
	ended time.Time
}

// gather starts a crowd, whose residents are open when it returns. patience is
// how long each of its requests may take.
func (b *balanced) gather(to netip.AddrPort, patience time.Duration) *crowd {
	GinkgoHelper()
	// On a Hyper-V host each is a process of the shell's, of which WinRM allows 25.
	b.needs(manyConnections)
	c := &crowd{from: b.machine("client"), to: to, patience: patience, began: time.Now(), stop: make(chan struct{}), fell: map[*resident]error{}}
	DeferCleanup(c.disperse)
	for n := range residents {
		conn, who, err := c.converse()
		if err != nil {
			for _, r := range c.stay { // nobody resides on them yet
				r.close()
			}
		}
		Expect(err).NotTo(HaveOccurred(), "the connection of resident %d to %s", n+1, to)
		c.stay = append(c.stay, &resident{conversation: conn, peer: who.Client})
	}
	for _, r := range c.stay {
		c.wait.Go(func() { c.reside(r) })
	}
	c.wait.Go(c.comeAndGo)
	return c
}

// converse opens a connection and asks once.
func (c *crowd) converse() (*conversation, whoami, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	conn, err := c.from.Guest.Dial(ctx, "tcp", "", c.to.String())
	if err != nil {
		return nil, whoami{}, err
	}
	conn = countedConn{conn, &c.bytes}
	talk := &conversation{conn: conn, reader: bufio.NewReader(conn), limit: c.patience}
	who, err := talk.ask()
	if err != nil {
		talk.close()
		return nil, who, err
	}
	c.answers.Add(1)
	talk.backend = who.Name
	return talk, who, nil
}

// reside asks until the crowd disperses or the connection fails.
func (c *crowd) reside(r *resident) {
	defer r.close()
	pause := time.NewTicker(residentPause)
	defer pause.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-pause.C:
		}
		who, err := r.ask()
		if err == nil && who.Client != r.peer {
			err = fmt.Errorf("%s sees %s now, and saw %s", r.backend, who.Client, r.peer)
		}
		if err != nil {
			c.mu.Lock()
			c.fell[r] = err
			c.mu.Unlock()
			return
		}
		c.answers.Add(1)
		r.answers.Add(1)
	}
}

func (c *crowd) comeAndGo() {
	next := time.NewTicker(time.Second / crowdRate)
	defer next.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-next.C:
			c.wait.Go(func() {
				n := newcomer{began: time.Now()}
				var conn *conversation
				if conn, _, n.err = c.converse(); n.err == nil {
					n.backend = conn.backend
					conn.close()
				}
				n.ended = time.Now()
				c.mu.Lock()
				defer c.mu.Unlock()
				c.came = append(c.came, n)
			})
		}
	}
}

// goesOn waits until connections that began from now on have come and gone, and
// every resident that did not fail has had two answers more.
func (c *crowd) goesOn(more int) {
	GinkgoHelper()
	from := time.Now()
	before := make([]int64, len(c.stay))
	for i, r := range c.stay {
		before[i] = r.answers.Load()
	}
	Eventually(func(g Gomega) {
		c.mu.Lock()
		defer c.mu.Unlock()
		begun := 0
		for _, n := range c.came {
			if n.began.After(from) {
				begun++
			}
		}
		g.Expect(begun).To(BeNumerically(">=", more), "connections to %s that began since, and ended", c.to)
		for i, r := range c.stay {
			if c.fell[r] == nil {
				g.Expect(r.answers.Load()-before[i]).To(BeNumerically(">=", 2), "answers since on %s to %s", r.local(), r.backend)
			}
		}
	}).WithTimeout(30 * time.Second).Should(Succeed())
}

// disperse ends the load; what is under way comes to its end first.
func (c *crowd) disperse() figures {
	c.stopped.Do(func() {
		close(c.stop)
		c.wait.Wait()
		c.ended = time.Now()
	})
	f := figures{
		Opened: len(c.came), Established: len(c.stay), FailedEstablished: len(c.fell),
		Answers: c.answers.Load(), Bytes: c.bytes.Load(), Seconds: c.ended.Sub(c.began).Seconds(),
	}
	for _, n := range c.came {
		if n.err != nil {
			f.FailedNew++
		}
	}
	return f
}

// failures say what went wrong so far, but for residents of some backends.
func (c *crowd) failures(but ...string) (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, err := range c.fell {
		if !slices.Contains(but, r.backend) {
			list = append(list, fmt.Sprintf("established %s to %s by %s: %v", r.local(), r.backend, c.to, err))
		}
	}
	for _, n := range c.came {
		if n.err != nil {
			list = append(list, fmt.Sprintf("new at %s by %s, after %s: %v", n.began.Format(time.StampMilli), c.to, n.ended.Sub(n.began).Round(time.Millisecond), n.err))
		}
	}
	return list
}

// crowds are those of several VIPs, judged together.
type crowds []*crowd

// gatherBoth puts the same backends under load in either mode.
func (b *balanced) gatherBoth(patience time.Duration) crowds {
	GinkgoHelper()
	return crowds{b.gather(vip(), patience), b.gather(translatedVIP(), patience)}
}

func (cs crowds) goesOn(more int) {
	GinkgoHelper()
	for _, c := range cs {
		c.goesOn(more)
	}
}

// sum ends the load and adds its figures up.
func (cs crowds) sum() (sum figures) {
	for _, c := range cs {
		f := c.disperse()
		sum.Opened, sum.FailedNew = sum.Opened+f.Opened, sum.FailedNew+f.FailedNew
		sum.Established, sum.FailedEstablished = sum.Established+f.Established, sum.FailedEstablished+f.FailedEstablished
		sum.Answers, sum.Bytes, sum.Seconds = sum.Answers+f.Answers, sum.Bytes+f.Bytes, max(sum.Seconds, f.Seconds)
	}
	return sum
}

func (cs crowds) failures(but ...string) (list []string) {
	for _, c := range cs {
		list = append(list, c.failures(but...)...)
	}
	return list
}

// loseNothing ends the load and expects that not a single connection failed.
func (cs crowds) loseNothing(while string) {
	GinkgoHelper()
	f := cs.sum()
	reportFigures("while "+while, f)
	Expect(cs.failures()).To(BeEmpty(), "while %s: %s", while, f)
	Expect(f.Opened).To(BeNumerically(">", 0))
}

// countedConn counts what it carries both ways.
type countedConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}
