package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"l4lab/agent/api"
	"l4lab/lab/state"
	"l4lab/topology"
)

// reboots has a backend's machine restart while connections to all are open and a
// health check watches.
func (s *suite) reboots(t topology.Topology) {
	GinkgoHelper()
	const rebooted = "be3"
	b := &balanced{suite: s, t: t, l: s.open(t.Name)}
	var err error
	b.agent, err = b.l.Agent()
	Expect(err).NotTo(HaveOccurred())
	health := func() string {
		ctx, cancel := context.WithTimeout(GinkgoT().Context(), time.Minute)
		defer cancel()
		all, err := b.agent.Service(ctx, directID)
		if err != nil {
			return err.Error()
		}
		for _, has := range all.Backends {
			if has.Address == b.backend(rebooted, all.Frontend.Port()) {
				return has.Health
			}
		}
		return "no such backend"
	}
	service := b.service(directID)
	service.HealthCheck = &api.HealthCheck{
		Type: "tcp", Interval: api.Duration(time.Second), Timeout: api.Duration(time.Second), Rise: 2, Fall: 2,
	}
	_, err = b.agent.PutService(GinkgoT().Context(), service)
	Expect(err).NotTo(HaveOccurred())
	// Status counts what the file has not. The agent's own changes count revisions up.
	uncheck := func(ctx context.Context) error {
		service, err := b.agent.Service(ctx, directID)
		if err == nil && service.HealthCheck != nil {
			service.HealthCheck = nil
			_, err = b.agent.PutService(ctx, service)
		}
		return err
	}
	DeferCleanup(func(ctx context.Context) { _ = uncheck(ctx) }) // where the spec fails before
	Eventually(health).WithTimeout(bootPatience).WithPolling(time.Second).Should(Equal("healthy"))
	before := s.exec(t.Name, rebooted, "cat", "/proc/sys/kernel/random/boot_id")

	others := map[string]*conversation{}
	for _, name := range t.Backends() {
		if name != rebooted {
			others[name] = talkTo(b.l, vip(), name)
			others[name].limit = bootPatience // only a broken connection counts
			defer others[name].close()
		}
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var mu sync.Mutex
	var failed []string
	asked := map[string]int{}
	for name, c := range others {
		asking.Go(func() {
			for pause := time.NewTicker(200 * time.Millisecond); ; <-pause.C {
				select {
				case <-stop:
					return
				default:
				}
				_, err := c.ask()
				mu.Lock()
				asked[name]++
				if err != nil {
					failed = append(failed, fmt.Sprintf("%s: %v", name, err))
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	ended := sync.OnceFunc(func() { close(stop); asking.Wait() })
	defer ended()

	began := time.Now()
	s.exec(t.Name, rebooted, "systemctl", "reboot", "--no-block")
	Eventually(health).WithTimeout(bootPatience).WithPolling(100 * time.Millisecond).Should(Equal("quarantined"))
	Eventually(health).WithTimeout(bootPatience).WithPolling(500*time.Millisecond).Should(Equal("healthy"), "with nobody's help")
	AddReportEntry("from the reboot until the health check has it back", time.Since(began).String())
	ended()
	Expect(failed).To(BeEmpty(), "connections to others, asked %v times", asked)
	for name := range others {
		Expect(asked[name]).To(BeNumerically(">", 3), "requests to %s meanwhile", name)
	}
	talkTo(b.l, vip(), rebooted).close()
	Expect(s.exec(t.Name, rebooted, "cat", "/proc/sys/kernel/random/boot_id")).NotTo(Equal(before))
	Expect(uncheck(GinkgoT().Context())).To(Succeed())
	Eventually(func() result { return s.labctl("status", "--name", t.Name) }).WithTimeout(bootPatience).WithPolling(time.Second).Should(Succeeds())
}

// fillDisk takes all room of a machine's disk, also what is reserved for root.
const fillDisk = `for size in 512M 64M 16M 4M 1M 256K 64K 4K; do
	n=0
	while fallocate -l $size /full.$size.$n 2>/dev/null; do n=$((n+1)); done
done`

// brokenMachines are what status says of machines that came to harm, and how up mends them.
func (s *suite) brokenMachines(t *topology.Topology) {
	mended := func(args ...string) {
		GinkgoHelper()
		r := s.labctl(append([]string{"up", "--name", t.Name}, args...)...)
		Expect(r).To(Succeeds(), r.String())
		s.expectHealthy(t.Name)
		// The balancer asks for the MAC of a backend that was away for long every five seconds.
		Eventually(func() error {
			c, err := converse(s.open(t.Name), vip())
			if err == nil {
				c.close()
			}
			return err
		}).WithTimeout(bootPatience).WithPolling(time.Second).Should(Succeed())
	}
	health := func(name string) string {
		GinkgoHelper()
		n := node(s.status(t.Name), name)
		Expect(n.Healthy).To(BeFalse(), name)
		return n.Health
	}

	It("whose disk is full get a clear error, and what they need once there is room", Label("faults"), func() {
		s.exec(t.Name, "be4", "sh", "-c", "rm /usr/local/bin/lbagent\n"+fillDisk)
		r := s.labctl("up", "--name", t.Name)
		Expect(r).To(ExitsWith(1, "be4", "no space left on the guest's disk"), r.String())
		s.exec(t.Name, "be4", "sh", "-c", "rm /full.*")
		mended()
	})

	It("that refuse the lab's key get a clear error, and are made anew by up --fresh-node", Label("faults"), func() {
		others := map[string]int{}
		for _, name := range t.NodeNames() {
			others[name] = s.machineProcess(t.Name, name)
		}
		s.exec(t.Name, "be4", "rm", "/root/.ssh/authorized_keys")
		Expect(health("be4")).To(ContainSubstring("guest refuses the login"))
		r := s.labctl("up", "--name", t.Name)
		Expect(r).To(ExitsWith(1, "be4", "guest refuses the login", "labctl up --fresh-node be4 --name "+t.Name), r.String())
		mended("--fresh-node", "be4")
		for name, pid := range others {
			if name != "be4" {
				Expect(s.machineProcess(t.Name, name)).To(Equal(pid), "%s was well and goes on", name)
			}
		}
	})

	It("that boot without a network are shown with the ends of their consoles, and are made anew by up --fresh-node", Label("faults"), func() {
		s.exec(t.Name, "be4", "systemctl", "mask", "systemd-networkd.service", "systemd-networkd.socket")
		s.exec(t.Name, "be4", "sync")
		Expect(unix.Kill(s.machineProcess(t.Name, "be4"), unix.SIGKILL)).To(Succeed())
		disk := filepath.Join(state.NodeDir(filepath.Join(s.state, t.Name), "be4"), "disk.qcow2")
		before, err := os.Stat(disk)
		Expect(err).NotTo(HaveOccurred())
		r := s.labctl("up", "--name", t.Name, "--boot-limit", "1m")
		Expect(r).To(ExitsWith(1, "be4", "answers SSH", "1m0s", "no route to host", "the end of its console"), r.String())
		after, err := os.Stat(disk)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.SameFile(before, after)).To(BeTrue(), "what is on its disk is not for a failed up to throw away")
		mended("--fresh-node", "be4")
	})

	It("that are killed, or whose kernels panic, are shown with the ends of their consoles, and up starts them again", Label("faults"), func() {
		killed := s.machineProcess(t.Name, "be3")
		Expect(killed).NotTo(BeZero())
		Expect(unix.Kill(killed, unix.SIGKILL)).To(Succeed())
		// Without this it restarts at once, as the image has it.
		s.exec(t.Name, "be4", "sh", "-c", "echo 0 >/proc/sys/kernel/panic; (sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &")
		Eventually(func() string { return health("be4") }).WithTimeout(bootPatience).WithPolling(time.Second).
			Should(MatchRegexp(`its kernel has panicked; .* Its console: Kernel panic - not syncing: sysrq triggered crash`))
		Expect(health("be3")).To(MatchRegexp("has ended; `labctl up` starts it again. The end of its console: .+"))
		mended()
		Expect(s.machineProcess(t.Name, "be3")).NotTo(BeElementOf(0, killed))
	})
}

// machinesOfSmallLabs is about coming up and going down, of labs of two machines.
func (s *suite) machinesOfSmallLabs() {
	small := func(suffix string) topology.Topology { return demo(s.name(suffix), "be3") }

	It("that never boot are shown with the ends of their consoles, and nothing is left", func() {
		empty := s.emptyDisk()
		t := small("vmn")
		block := topology.FilledQEMU(nil)
		block.Images.Linux = empty
		t.Providers.QEMU = &block
		s.takenDown(t.Name)
		r := s.labctl("up", s.file(t), "--boot-limit", "10s")
		Expect(r).To(ExitsWith(1, "answers SSH", "10s", "the end of its console"), r.String())
		Expect(s.leftovers(t.Name)).To(BeEmpty())
		Expect(s.labctl("image", "rm", empty)).To(Succeeds(), "no disk rests on it")
	})

	It("come up from what an earlier lab like theirs kept, beside that one", func() {
		first, second := small("vma"), small("vmb")
		s.up(first)
		kept, unfinished := s.setUps()
		Expect(kept).NotTo(BeEmpty())
		Expect(unfinished).To(BeEmpty())
		boot := s.exec(first.Name, "be3", "cat", "/proc/sys/kernel/random/boot_id")
		s.up(second)
		Expect(s.exec(second.Name, "be3", "cat", "/proc/sys/kernel/random/boot_id")).To(Equal(boot), "it went on from the other's memory")
		for _, t := range []topology.Topology{first, second} {
			s.expectHealthy(t.Name)
			s.exec(t.Name, "be3", "sh", "-c", "echo "+t.Name+" >/root/whose")
		}
		for _, t := range []topology.Topology{first, second} {
			Expect(s.exec(t.Name, "be3", "cat", "/root/whose")).To(Equal(t.Name+"\n"), "each has disks of its own")
			talk(s.open(t.Name), vip()).close()
		}
		s.down(first.Name)
		s.expectHealthy(second.Name)
		talk(s.open(second.Name), vip()).close()
	})

	It("leave nothing to down after kill -9 of the up that makes them, at whatever moment", func() {
		t := small("vmk")
		file := s.file(t)
		s.takenDown(t.Name)
		for _, moment := range []struct {
			when string
			come func(up *running) bool
		}{
			{"while they boot", func(*running) bool {
				return s.machineProcess(t.Name, "be3") != 0 && s.machineProcess(t.Name, "lb") != 0
			}},
			{"while they are set up", func(up *running) bool { return up.saw("node/be3", "done") }},
			{"while their state is kept", func(*running) bool { _, unfinished := s.setUps(); return len(unfinished) > 0 }},
		} {
			By(moment.when)
			up := s.start("up", file, "--fresh", "-o", "json")
			Eventually(func() bool { return moment.come(up) }).WithTimeout(2 * bootPatience).Should(BeTrue())
			up.signal(syscall.SIGKILL)
			Expect(up.wait()).To(Equal(-1), "it was killed before its end")
			s.down(t.Name)
		}
	})
}
