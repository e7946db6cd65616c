package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/agent/web"
	"l4lab/agent/web/pattern"
)

const (
	// throng are open at once, half of them through each mode.
	throng = 10_000
	// atOnce is how many of them are opened, or asked, side by side.
	atOnce = 64
	// otherFiles is what a process has open besides.
	otherFiles = 500

	// bulk is what goes through each mode in each direction, over two connections: 1 GB in all.
	bulk        = 500_000_000
	bulkStreams = 2
	// stormShare is the share of segments that may be sent again. On a busy machine some
	// packets find a full queue; where a path loses what it should carry it is another figure.
	stormShare = 0.02
)

// inBulk is about very many connections, and about very many bytes.
func (b *balanced) inBulk() {
	It(fmt.Sprintf("holds %d connections open at once, half in each mode, of which each is answered and closed", throng), Label("dsr", "snat", "slow"), func() {
		b.needs(namespaces)
		b.hold()
	})
	expected := sync.OnceValues(func() ([]string, error) {
		hashes := make([]string, bulkStreams)
		for seed := range hashes {
			var err error
			if hashes[seed], err = pattern.SHA256(bulk/bulkStreams, uint64(seed)); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	})
	for _, mode := range []string{"dsr", "snat"} {
		It("carries 1 GB, half of it up and half down, in "+mode+", every byte, and sends hardly any twice", Label(mode, "slow"), func() {
			b.needs(namespaces)
			want, err := expected()
			Expect(err).NotTo(HaveOccurred())
			for _, way := range []struct {
				name  string
				carry func(to netip.AddrPort, n int64, seed uint64) (hash string, err error)
			}{{"up", b.sendUp}, {"down", b.fetchDown}} {
				before, begin := b.segments(), time.Now()
				got, errs := make([]string, bulkStreams), make([]error, bulkStreams)
				var wait sync.WaitGroup
				for seed := range uint64(bulkStreams) {
					wait.Go(func() { got[seed], errs[seed] = way.carry(frontends[mode](), bulk/bulkStreams, seed) })
				}
				wait.Wait()
				took := time.Since(begin)
				Expect(errs).To(HaveEach(BeNil()))
				Expect(got).To(Equal(want), "SHA-256 of each connection's bytes")
				sent := b.segments().since(before)
				reportFigures("0.5 GB "+way.name+" in "+mode, fmt.Sprintf("%d bytes in %.2f s: %.2f Gbit/s; %d segments, %d of them sent again",
					int64(bulk), took.Seconds(), bulk*8/took.Seconds()/1e9, sent.out, sent.again))
				Expect(sent.again).To(BeNumerically("<=", stormShare*float64(sent.out)), "segments sent again of %d", sent.out)
			}
		})
	}
}

// hold opens very many connections, asks each while all are open, compares the
// balancer's table with them, and closes them. Each is asked when it opens, too: a web
// server waits ten seconds for a first request, in which a busy machine does not open all of them.
func (b *balanced) hold() {
	GinkgoHelper()
	var limit unix.Rlimit
	Expect(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)).To(Succeed())
	if limit.Max < throng+otherFiles {
		Skip(fmt.Sprintf("a process may open %d files here: %d connections are too many (ulimit -Hn)", limit.Max, throng))
	}
	from, modes, ids := b.machine("client"), []string{"dsr", "snat"}, []uint32{directID, translatedID}
	many, bytes, begin := make([]*conversation, throng), &atomic.Int64{}, time.Now()
	DeferCleanup(func() { closeAll(many) })
	failed := sideBySide(func(i int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 4*askLimit)
		defer cancel()
		conn, err := from.Guest.Dial(ctx, "tcp", "", frontends[modes[i%2]]().String())
		if err != nil {
			return err
		}
		conn = countedConn{conn, bytes}
		many[i] = &conversation{conn: conn, reader: bufio.NewReaderSize(conn, 512), limit: 4 * askLimit}
		who, err := many[i].ask()
		many[i].backend = who.Name
		return err
	})
	Expect(failed).To(BeEmpty(), "connections that could not be opened")
	failed = sideBySide(func(i int) error {
		_, err := many[i].ask() // another backend's answer is an error
		return err
	})
	Expect(failed).To(BeEmpty(), "connections that were not answered while all were open")

	type row struct {
		client  netip.AddrPort
		service uint32
	}
	listed := map[row]bool{}
	for _, c := range connections(b.suite, "--name", b.t.Name) {
		listed[row{c.Source, c.ServiceID}] = true
	}
	known := []map[netip.AddrPort]api.Connection{b.known(ids[0]), b.known(ids[1])}
	open, table := map[string]int{}, map[string]int{}
	for i, c := range many {
		mode := modes[i%2]
		open[mode+" "+c.backend]++
		its, isKnown := known[i%2][c.local()]
		if !isKnown || its.Mode != mode || its.State == api.Closing || !listed[row{c.local(), ids[i%2]}] {
			Fail(fmt.Sprintf("%s, open in %s: the balancer's table has %+v; labctl lists it: %t", c.local(), mode, its, listed[row{c.local(), ids[i%2]}]))
		}
		node, _ := b.t.MachineAt(its.Backend.Addr())
		table[mode+" "+node]++
	}
	Expect(table).To(Equal(open), "connections by mode and backend: the balancer's table, and who answered")
	Expect(open).To(HaveLen(8))

	closeAll(many)
	Eventually(func() (left int) {
		now := []map[netip.AddrPort]api.Connection{b.known(ids[0]), b.known(ids[1])}
		for i, c := range many {
			if its, isKnown := now[i%2][c.local()]; isKnown && its.State != api.Closing {
				left++
			}
		}
		return left
	}).Should(BeZero(), "closed connections that the balancer takes for open")
	f := figures{Opened: throng, Established: throng, Answers: 2 * throng, Bytes: bytes.Load(), Seconds: time.Since(begin).Seconds()}
	reportFigures(fmt.Sprintf("%d connections at once, half in each mode", throng), f)
}

// known are a service's connections by their client.
func (b *balanced) known(id uint32) map[netip.AddrPort]api.Connection {
	GinkgoHelper()
	list, err := b.agent.Connections(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	known := make(map[netip.AddrPort]api.Connection, len(list))
	for _, c := range list {
		known[c.Source] = c
	}
	return known
}

// sideBySide calls fn for each of very many connections and returns what failed.
func sideBySide(fn func(i int) error) (failed []string) {
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		next atomic.Int64
	)
	for range atOnce {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < throng; i = next.Add(1) - 1 {
				if err := fn(int(i)); err != nil {
					mu.Lock()
					failed = append(failed, fmt.Sprintf("connection %d: %v", i, err))
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	return failed
}

func closeAll(many []*conversation) {
	for _, c := range many {
		if c != nil {
			c.close()
		}
	}
}

// sendUp uploads the pattern of a seed and returns the backend's hash of it.
func (b *balanced) sendUp(to netip.AddrPort, n int64, seed uint64) (hash string, err error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+to.String()+"/sink", pattern.Reader(n, seed))
	if err != nil {
		return "", err
	}
	request.ContentLength = n
	err = b.exchange(to, request, func(body io.Reader) error {
		var got web.Sink
		if err := json.NewDecoder(body).Decode(&got); err != nil {
			return err
		}
		if hash = got.SHA256; got.Bytes != n {
			return fmt.Errorf("%d of %d bytes arrived", got.Bytes, n)
		}
		return nil
	})
	return hash, err
}

// fetchDown downloads the pattern of a seed and returns its hash.
func (b *balanced) fetchDown(to netip.AddrPort, n int64, seed uint64) (hash string, err error) {
	request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/bytes?n=%d&seed=%d", to, n, seed), nil)
	if err != nil {
		return "", err
	}
	err = b.exchange(to, request, func(body io.Reader) error {
		sum := sha256.New()
		got, err := io.CopyBuffer(sum, body, make([]byte, 256<<10))
		if hash = hex.EncodeToString(sum.Sum(nil)); err == nil && got != n {
			err = fmt.Errorf("%d of %d bytes came", got, n)
		}
		return err
	})
	return hash, err
}

// exchange sends a request over a connection of its own and has its answer read.
func (b *balanced) exchange(to netip.AddrPort, request *http.Request, read func(body io.Reader) error) error {
	conn, err := b.dial("client", "tcp", to, askLimit)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	request.Close = true
	if err := request.Write(wide{conn}); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 256<<10), request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return read(response.Body)
}

// wide takes a request's body in large pieces.
type wide struct{ net.Conn }

func (w wide) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w.Conn}, struct{ io.Reader }{r}, make([]byte, 256<<10))
}

// segments counts TCP segments that machines have sent (RFC 4022), and sent again.
type segments struct{ out, again int64 }

func (s segments) since(before segments) segments {
	return segments{s.out - before.out, s.again - before.again}
}

// segments adds up those of the client and of all backends.
func (b *balanced) segments() (sum segments) {
	GinkgoHelper()
	for _, machine := range append(b.t.Backends(), b.t.Client.Name) {
		counters := b.counters(machine, "/proc/net/snmp")
		sum.out += counters["Tcp OutSegs"]
		sum.again += counters["Tcp RetransSegs"]
	}
	return sum
}

// counters reads a table of the kernel's counters on a machine: lines of names,
// each followed by one of values.
func (b *balanced) counters(machine, path string) map[string]int64 {
	GinkgoHelper()
	counters, names := map[string]int64{}, []string{}
	for line := range strings.Lines(b.exec(b.t.Name, machine, "cat", path)) {
		fields := strings.Fields(line)
		if len(names) == 0 || names[0] != fields[0] {
			names = fields
			continue
		}
		for i, value := range fields[1:] {
			n, err := strconv.ParseInt(value, 10, 64)
			Expect(err).NotTo(HaveOccurred())
			counters[strings.TrimSuffix(names[0], ":")+" "+names[i+1]] = n
		}
		names = nil
	}
	return counters
}
