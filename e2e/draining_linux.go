package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/web/pattern"
	"l4lab/topology"
)

// draining takes backends out of the third service, which nothing else uses.
func (b *balanced) draining() {
	It("breaks none of 20 slow downloads and gives the backend no new connection", Label("dsr"), func() {
		b.needs(folders, manyConnections)
		slow := b.startDownloads(20)
		Expect(slow.to["be1"]).To(BeNumerically(">", 0), "one of the downloads is the drained backend's: %v", slow.to)
		b.operate("service", "drain", "--id", "3", "--backend", b.backend("be1", drainedVIP().Port()).String())
		Expect(b.reached("client", drainedVIP(), 40)).NotTo(HaveKey("be1"))
		Expect(slow.ended()).To(BeZero(), "downloads were running all the while")
		Expect(slow.finish()).To(BeEmpty())
	})

	It("cuts what a backend has left at its deadline", Label("dsr"), func() {
		b.needs(folders)
		kept := talkTo(b.l, drainedVIP(), "be2")
		defer kept.close()
		begin := time.Now()
		b.operate("service", "drain", "--id", "3", "--backend", b.backend("be2", drainedVIP().Port()).String(), "--deadline", "1s")
		goesOn(kept, "the beginning of the draining")
		Eventually(func() []string { return b.addresses(drainedID) }).
			ShouldNot(ContainElement(b.backend("be2", drainedVIP().Port()).String()))
		Expect(time.Since(begin)).To(BeNumerically(">=", time.Second))
		_, err := kept.ask()
		Expect(err).To(HaveOccurred(), "after the deadline")
	})

	It("gives a backend of weight 0 no new connection and keeps those that it has", Label("dsr"), func() {
		b.needs(folders)
		kept := talkTo(b.l, drainedVIP(), "be3")
		defer kept.close()
		weigh := func(weight string) {
			GinkgoHelper()
			b.operate("service", "weight", "--id", "3", "--backend", b.backend("be3", drainedVIP().Port()).String(), "--weight", weight)
		}
		weigh("0")
		Expect(b.reached("client", drainedVIP(), 30)).To(Equal(map[string]int{"be4": 30}))
		goesOn(kept, "the weight of 0")
		weigh("2")
		Expect(b.reached("client", drainedVIP(), 30)).To(HaveKey("be3"))
	})
}

// drainedLeaves is the end of the first spec above: 10 s of a closed connection's
// lifetime, and two sweeps that find none, 10 s apart. Without that one it begins here.
func (b *balanced) drainedLeaves() {
	b.needs(folders)
	be1 := b.backend("be1", drainedVIP().Port())
	service, err := b.agent.Service(GinkgoT().Context(), drainedID)
	Expect(err).NotTo(HaveOccurred())
	for _, member := range service.Backends {
		if member.Address == be1 && member.State == "" {
			talkTo(b.l, drainedVIP(), "be1").close()
			b.operate("service", "drain", "--id", "3", "--backend", be1.String())
		}
	}
	Eventually(func() []string { return b.addresses(drainedID) }).WithTimeout(40 * time.Second).
		ShouldNot(ContainElement(be1.String()))
}

// addresses are those of a service's backends.
func (b *balanced) addresses(id uint32) (list []string) {
	GinkgoHelper()
	service, err := b.agent.Service(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	for _, backend := range service.Backends {
		list = append(list, backend.Address.String())
	}
	return list
}

// downloads run side by side, slowly until finish lets them go.
type downloads struct {
	to    map[string]int
	hurry chan struct{}
	wait  sync.WaitGroup

	mu     sync.Mutex
	done   int
	broken []string
}

// downloadSize is more than the socket buffers between a backend and a slow reader hold.
const downloadSize = 8 << 20

// startDownloads returns once all of them have begun.
func (b *balanced) startDownloads(n int) *downloads {
	GinkgoHelper()
	d := &downloads{to: map[string]int{}, hurry: make(chan struct{})}
	for seed := range uint64(n) {
		conn, err := b.dial(topology.Default().Client.Name, "tcp", drainedVIP(), askLimit)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = conn.Close() })
		Expect(conn.(*net.TCPConn).SetReadBuffer(64 << 10)).To(Succeed())
		Expect(conn.SetDeadline(time.Now().Add(30 * time.Second))).To(Succeed())
		request, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/bytes?n=%d&seed=%d", drainedVIP(), downloadSize, seed), nil)
		Expect(err).NotTo(HaveOccurred())
		request.Close = true
		Expect(request.Write(conn)).To(Succeed())
		response, err := http.ReadResponse(bufio.NewReader(conn), request)
		Expect(err).NotTo(HaveOccurred())
		d.to[response.Header.Get("X-Backend")]++
		d.wait.Go(func() {
			err := d.read(response.Body, seed)
			_ = conn.Close()
			d.mu.Lock()
			defer d.mu.Unlock()
			d.done++
			if err != nil {
				d.broken = append(d.broken, fmt.Sprintf("%s: %v", response.Header.Get("X-Backend"), err))
			}
		})
	}
	return d
}

// read reads a little every now and then, and all the rest when it is to hurry.
func (d *downloads) read(body io.Reader, seed uint64) error {
	hash := sha256.New()
	now := time.NewTicker(50 * time.Millisecond)
	defer now.Stop()
	for slow := true; slow; {
		select {
		case <-d.hurry:
			slow = false
		case <-now.C:
			if _, err := io.CopyN(hash, body, 4<<10); err != nil {
				return fmt.Errorf("while it was slow: %w", err)
			}
		}
	}
	if _, err := io.Copy(hash, body); err != nil {
		return err
	}
	want, err := pattern.SHA256(downloadSize, seed)
	if got := hex.EncodeToString(hash.Sum(nil)); err == nil && got != want {
		return fmt.Errorf("SHA-256 %s, want %s", got, want)
	}
	return err
}

func (d *downloads) ended() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// finish lets all come to their ends and returns what went wrong.
func (d *downloads) finish() []string {
	close(d.hurry)
	d.wait.Wait()
	return d.broken
}
