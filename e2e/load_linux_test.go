package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
)

// loadRate is how many connections a second are opened, over all services under load.
const loadRate = 200

// underLoad is about changes while connections come and go all the time. None may
// fail, and none that was open before may break.
func (b *balanced) underLoad() {
	It("loses no connection while the mode is switched to and fro", func() {
		kept := b.keep(vip(), 10)
		steady := b.startLoad(vip(), loadRate)
		for _, mode := range []string{"snat", "dsr", "snat", "dsr"} {
			b.setMode(mode)
			steady.goesOn(loadRate / 4)
			Expect(all(kept)).To(BeEmpty(), "after the switch to %s", mode)
		}
		Expect(steady.end()).To(BeEmpty())
	})

	It("loses no connection while backends come, go and change their weights", func() {
		kept := b.keep(vip(), 20)
		steady := b.startLoad(vip(), loadRate)
		for _, weights := range []map[string]uint16{
			{"be1": 1, "be2": 1, "be3": 1}, {"be1": 9, "be2": 1, "be3": 1}, {"be2": 1, "be3": 0, "be4": 5},
			{"be4": 1}, {"be1": 1, "be2": 1, "be3": 1, "be4": 1},
		} {
			b.setBackends(directID, weights)
			steady.goesOn(loadRate / 4)
			Expect(all(kept)).To(BeEmpty(), "with the backends %v", weights)
		}
		Expect(steady.end()).To(BeEmpty())
	})

	// Late, since it takes up to 30 s from the first spec on, and before the lab,
	// whose file has the backend still, starts the agent anew.
	It("lets a drained backend leave by itself once its connections have ended", b.drainedLeaves)

	It("loses no connection in either mode when the agent is killed and its program replaced", func() {
		both := []*pressure{b.startLoad(vip(), loadRate/2), b.startLoad(translatedVIP(), loadRate/2)}
		more := func() {
			GinkgoHelper()
			for _, l := range both {
				l.goesOn(loadRate / 2)
			}
		}
		kept := append(b.keep(vip(), 10), b.keep(translatedVIP(), 10)...)
		more()
		before, err := b.agent.Status(GinkgoT().Context())
		Expect(err).NotTo(HaveOccurred())
		kill(node(b.status(b.t.Name), "lb").PIDs["agent"], syscall.SIGKILL)
		more()
		Expect(all(kept)).To(BeEmpty(), "without an agent")
		b.restart()
		after, err := b.agent.Status(GinkgoT().Context())
		Expect(err).NotTo(HaveOccurred())
		Expect(after).To(SatisfyAll(HaveField("TookOver", true), HaveField("ProgramID", Not(Equal(before.ProgramID)))))
		more()
		for _, l := range both {
			Expect(l.end()).To(BeEmpty())
		}
		Expect(all(kept)).To(BeEmpty(), "with another program")
	})
}

// restart starts the agent again as it was, and waits until it answers.
func (b *balanced) restart() {
	GinkgoHelper()
	Expect(b.labctl("up", "--name", b.t.Name)).To(Succeeds())
}

// setMode switches the demo's service, to DSR again when the spec ends.
func (b *balanced) setMode(mode string) {
	GinkgoHelper()
	Expect(b.agent.SetMode(GinkgoT().Context(), api.ModeUpdate{ServiceID: directID, Mode: mode})).To(Succeed())
	DeferCleanup(func(ctx context.Context) {
		Expect(b.agent.SetMode(ctx, api.ModeUpdate{ServiceID: directID, Mode: "dsr"})).To(Succeed())
	})
}

// setBackends gives a service backends with their weights.
func (b *balanced) setBackends(id uint32, weights map[string]uint16) {
	GinkgoHelper()
	service, err := b.agent.Service(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	service.Backends = nil
	for _, name := range b.t.Backends() {
		if weight, wanted := weights[name]; wanted {
			service.Backends = append(service.Backends, api.Backend{Address: b.backend(name, service.Frontend.Port()), Weight: &weight})
		}
	}
	_, err = b.agent.PutService(GinkgoT().Context(), service)
	Expect(err).NotTo(HaveOccurred())
}

// keep opens conversations that are closed when the spec ends.
func (b *balanced) keep(to netip.AddrPort, n int) []*conversation {
	GinkgoHelper()
	from, many := b.machine("client"), make([]*conversation, n)
	for i := range many {
		var err error
		many[i], err = converseFrom(from, to)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(many[i].close)
	}
	return many
}

// pressure opens connections to a VIP at a steady rate, asks once on each and closes it.
type pressure struct {
	stop    chan struct{}
	stopped sync.Once
	wait    sync.WaitGroup

	mu     sync.Mutex
	done   int
	failed []string
}

func (b *balanced) startLoad(to netip.AddrPort, rate int) *pressure {
	GinkgoHelper()
	l, from := &pressure{stop: make(chan struct{})}, b.machine("client")
	l.wait.Go(func() {
		next := time.NewTicker(time.Second / time.Duration(rate))
		defer next.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-next.C:
				l.wait.Go(func() {
					c, err := converseFrom(from, to)
					if err == nil {
						c.close()
					}
					l.note(err)
				})
			}
		}
	})
	DeferCleanup(l.end)
	return l
}

func (l *pressure) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("connection %d: %v", l.done, err))
	}
}

func (l *pressure) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// goesOn waits until so many connections more have come to their ends.
func (l *pressure) goesOn(more int) {
	GinkgoHelper()
	until := l.count() + more
	Eventually(l.count).Should(BeNumerically(">=", until))
}

// end stops and returns what failed.
func (l *pressure) end() []string {
	l.stopped.Do(func() { close(l.stop) })
	l.wait.Wait()
	return l.failed
}
