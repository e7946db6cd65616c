package e2e

import (
	"fmt"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/lab/provider"
	"l4lab/lab/provider/netns"
	"l4lab/lab/role"
)

// checkEvery and checkFall bound how long a dead backend gets new connections:
// so many checks must fail, and the last one may take as long as the pause.
const (
	checkEvery = 200 * time.Millisecond
	checkFall  = 3
	checkBound = (checkFall + 1) * checkEvery
	// busySlack is what a machine with more to do than it can may add.
	busySlack = 1500 * time.Millisecond
)

// killed is what the report says of a backend's end.
type killed struct {
	figures
	// LastFailed is when the last new connection began that failed, QuarantinedAfter
	// when the agent knew, both in milliseconds since the end.
	LastFailed       int64 `json:"lastFailedBeganMs"`
	QuarantinedAfter int64 `json:"quarantinedAfterMs"`
	Slowest          int64 `json:"slowestMs"`
}

func (k killed) String() string {
	return fmt.Sprintf("%s; quarantined after %d ms, the last new one that failed began after %d ms (bound: %s), the slowest took %d ms",
		k.figures, k.QuarantinedAfter, k.LastFailed, checkBound, k.Slowest)
}

// backendsUnderLoad is about backends that come, go, die and come back while
// connections in both modes stay open, and others come and go.
func (b *balanced) backendsUnderLoad() {
	both := []uint32{directID, translatedID}

	It("loses no connection while backends are added, removed and weighted anew", func() {
		load := b.gatherBoth(askLimit)
		for _, weights := range []map[string]uint16{
			{"be1": 1, "be2": 1, "be3": 1}, {"be1": 9, "be2": 1, "be3": 1, "be4": 1}, {"be2": 1, "be3": 0, "be4": 5},
			{"be4": 1}, {"be1": 1, "be2": 1, "be3": 1, "be4": 1},
		} {
			for _, id := range both {
				b.setBackends(id, weights)
			}
			load.goesOn(crowdRate / 5)
		}
		load.loseNothing("backends were added, removed and weighted anew")
	})

	It("loses no connection while a backend drains and returns, and gives it no new one meanwhile", func() {
		load := b.gatherBoth(askLimit)
		DeferCleanup(b.restart) // should it fail half-way
		for _, id := range both {
			service := b.service(id)
			b.operate("service", "drain", "--id", fmt.Sprint(id), "--backend", b.backend("be2", service.Frontend.Port()).String())
		}
		load.goesOn(crowdRate / 5)
		for _, mode := range []string{"dsr", "snat"} {
			Expect(b.reached("client", frontends[mode](), 40)).NotTo(HaveKey("be2"), "while it drains")
		}
		for _, id := range both {
			b.setBackends(id, map[string]uint16{"be1": 1, "be2": 1, "be3": 1, "be4": 1})
		}
		load.goesOn(crowdRate / 5)
		for _, mode := range []string{"dsr", "snat"} {
			Expect(b.reached("client", frontends[mode](), 60)).To(HaveKey("be2"), "after it returned")
		}
		load.loseNothing("a backend drained and returned")
	})

	It("loses a killed web server's connections alone, and gives it no new one once its check has failed", Label("faults"), func() {
		b.needs(processes)
		b.check()
		server := node(b.status(b.t.Name), "be2").PIDs["web"]
		b.dies("a web server was killed", "be2", func() { kill(server, syscall.SIGKILL) })
		load := b.gatherBoth(askLimit)
		page := role.PageOf(b.t, "be2")
		page.Program, page.Hash = b.agentProgram()
		Expect(b.machine("be2").System.EnsurePage(GinkgoT().Context(), page)).To(Succeed())
		for _, id := range both {
			b.awaitHealth(id, "be2", "healthy")
		}
		load.goesOn(crowdRate / 5)
		for _, mode := range []string{"dsr", "snat"} {
			Expect(b.reached("client", frontends[mode](), 60)).To(HaveKey("be2"), "after its check said that it is back")
		}
		load.loseNothing("a killed web server came back")
	})

	It("loses a vanished machine's connections alone, and gives it no new one once its check has failed", Label("faults"), func() {
		b.needs(namespaces)
		b.check()
		b.dies("a machine vanished", "be3", func() {
			b.pull("be3")
			Expect(netns.New().RemoveNode(GinkgoT().Context(), provider.Lab{Topology: b.t, Dir: b.l.Dir()}, "be3")).To(Succeed())
		})
		load := b.gatherBoth(askLimit)
		b.restart()
		load.goesOn(crowdRate / 5)
		for _, mode := range []string{"dsr", "snat"} {
			Expect(b.reached("client", frontends[mode](), 60)).To(HaveKey("be3"), "after up made it anew")
		}
		load.loseNothing("a vanished machine was made anew")
	})
}

// dies ends a backend under load, and holds against it what may be lost with it.
func (b *balanced) dies(how, backend string, end func()) {
	GinkgoHelper()
	load := b.gatherBoth(deadPatience)
	load.goesOn(crowdRate / 5)
	Expect(load.failures()).To(BeEmpty(), "before")
	its := load.residentsOf(backend)
	Expect(its).To(BeNumerically(">", 0), "connections that are open to %s", backend)
	died := time.Now()
	end()
	for _, id := range []uint32{directID, translatedID} {
		b.awaitHealth(id, backend, "quarantined")
	}
	known := time.Now()
	load.goesOn(crowdRate / 2)
	Eventually(load.fallen).WithTimeout(2*deadPatience).Should(Equal(its), "connections to %s that failed", backend)
	k := killed{figures: load.sum(), QuarantinedAfter: known.Sub(died).Milliseconds()}
	last := died
	for _, c := range load {
		for _, n := range c.came {
			k.Slowest = max(k.Slowest, n.ended.Sub(n.began).Milliseconds())
			if n.err != nil && n.began.After(last) {
				last = n.began
			}
		}
	}
	k.LastFailed = last.Sub(died).Milliseconds()
	reportFigures("when "+how, k)
	Expect(load.failuresOfResidents(backend)).To(BeEmpty(), "established connections to other backends")
	Expect(k.FailedEstablished).To(Equal(its))
	Expect(last).To(BeTemporally("<=", known), "the beginning of the last new connection that failed: %v", load.failures(backend))
	Expect(known.Sub(died)).To(BeNumerically("<=", checkBound+busySlack), "until the agent knew")
}

// deadPatience is how long a request to a machine that is gone is waited for: longer
// than a lost SYN, which is sent again after a second.
const deadPatience = 2500 * time.Millisecond

// service is one as the agent has it.
func (b *balanced) service(id uint32) api.Service {
	GinkgoHelper()
	service, err := b.agent.Service(GinkgoT().Context(), id)
	Expect(err).NotTo(HaveOccurred())
	return service
}

// check has the agent check the backends of both services until the spec ends.
func (b *balanced) check() {
	GinkgoHelper()
	for _, id := range []uint32{directID, translatedID} {
		service := b.service(id)
		service.HealthCheck = &api.HealthCheck{
			Type: "tcp", Interval: api.Duration(checkEvery), Timeout: api.Duration(checkEvery), Rise: 2, Fall: checkFall,
		}
		_, err := b.agent.PutService(GinkgoT().Context(), service)
		Expect(err).NotTo(HaveOccurred())
		for _, name := range b.t.Backends() {
			b.awaitHealth(id, name, "healthy")
		}
	}
	DeferCleanup(b.restart)
}

// awaitHealth waits until the checks say so of a backend.
func (b *balanced) awaitHealth(id uint32, backend, health string) {
	GinkgoHelper()
	Eventually(func() string {
		service := b.service(id)
		for _, has := range service.Backends {
			if has.Address == b.backend(backend, service.Frontend.Port()) {
				return has.Health
			}
		}
		return "no such backend"
	}).Should(Equal(health), "%s of service %d", backend, id)
}

// pull takes a machine's cable out: nothing that it still sends arrives.
func (b *balanced) pull(machine string) {
	GinkgoHelper()
	Expect(run(b.ip("-n", b.t.Name+"-switch", "link", "set", machine, "down"))).To(Succeeds())
}

// residentsOf counts the connections that are kept open to a backend.
func (cs crowds) residentsOf(backend string) (n int) {
	for _, c := range cs {
		for _, r := range c.stay {
			if r.backend == backend {
				n++
			}
		}
	}
	return n
}

// fallen counts the connections that were to stay open and failed.
func (cs crowds) fallen() (n int) {
	for _, c := range cs {
		c.mu.Lock()
		n += len(c.fell)
		c.mu.Unlock()
	}
	return n
}

// failuresOfResidents are those of the connections that were to stay open, but
// those to one backend.
func (cs crowds) failuresOfResidents(but string) (list []string) {
	for _, c := range cs {
		c.mu.Lock()
		for r, err := range c.fell {
			if r.backend != but {
				list = append(list, fmt.Sprintf("%s to %s: %v", r.local(), r.backend, err))
			}
		}
		c.mu.Unlock()
	}
	return list
}
