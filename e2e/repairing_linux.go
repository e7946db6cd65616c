package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/topology"
)

// repairing is about a lab that somebody broke: status says what is wrong, up
// mends it, and what was whole is not disturbed.
func (s *suite) repairing() {
	var t topology.Topology
	BeforeEach(func() {
		s.needs(namespaces, processes, manyLabs)
		t = demo(s.name("fix"), "be1", "be2", "be3")
		s.up(t)
	})
	// mend brings the lab up again and expects it whole.
	mend := func() {
		GinkgoHelper()
		up := s.labctl("up", "--name", t.Name)
		Expect(up).To(Succeeds(), up.String())
		Expect(up.Stdout).NotTo(ContainSubstring("nothing to change"))
		s.expectHealthy(t.Name)
		for _, b := range t.Backends() {
			talkTo(s.open(t.Name), vip(), b).close()
		}
		Expect(s.labctl("up", "--name", t.Name).Stdout).To(ContainSubstring("nothing to change"))
	}

	It("starts a killed web server again, alone", func() {
		kept := talkTo(s.open(t.Name), vip(), "be3")
		defer kept.close()
		before := s.status(t.Name)
		kill(node(before, "be1").PIDs["web"], syscall.SIGKILL)
		broken := s.status(t.Name)
		Expect(node(broken, "be1")).To(SatisfyAll(HaveField("Healthy", false), HaveField("Health", ContainSubstring("page"))))
		Expect(node(broken, "be3").Healthy).To(BeTrue(), "one backend is one process")
		mend()
		after := s.status(t.Name)
		Expect(node(after, "be1").PIDs["web"]).NotTo(Equal(node(before, "be1").PIDs["web"]))
		Expect(node(after, "be3").PIDs).To(Equal(node(before, "be3").PIDs))
		goesOn(kept, "the repair of another backend")
	})

	It("starts a killed agent again; meanwhile traffic flows", func() {
		l := s.open(t.Name)
		kept := talk(l, vip())
		defer kept.close()
		kill(node(s.status(t.Name), "lb").PIDs["agent"], syscall.SIGKILL)
		Expect(node(s.status(t.Name), "lb").Healthy).To(BeFalse())
		goesOn(kept, "the agent's death")
		talk(l, vip()).close() // a new one as well
		mend()
		goesOn(kept, "the agent's return")
		agent, err := l.Agent()
		Expect(err).NotTo(HaveOccurred())
		status, err := agent.Status(GinkgoT().Context())
		Expect(err).NotTo(HaveOccurred())
		Expect(status.TookOver).To(BeTrue())
	})

	DescribeTable("mends what was broken by hand",
		func(breakIt func(), unhealthy string) {
			breakIt()
			Expect(node(s.status(t.Name), unhealthy).Healthy).To(BeFalse())
			mend()
		},
		Entry("a deleted namespace", func() { s.deleteNamespace(t.Name, "be3") }, "be3"),
		Entry("the balancer's namespace", func() { s.deleteNamespace(t.Name, "lb") }, "lb"),
		Entry("the client's namespace", func() { s.deleteNamespace(t.Name, "client") }, "client"),
		Entry("the switch", func() { s.deleteNamespace(t.Name, "switch") }, "be1"),
		Entry("decapsulation detached from XDP", func() { s.detach(t.Name, "be1") }, "be1"),
		Entry("decapsulation detached from TC", func() { s.detach(t.Name, "be3") }, "be3"),
		Entry("the balancer's program detached", func() {
			Expect(os.Remove(filepath.Join(s.state, t.Name, "bpf", "lb", "lb", "link"))).To(Succeed())
			Eventually(func() bool { return s.hasXDP(t.Name, "lb", "eth0") }).Should(BeFalse())
		}, "lb"),
		Entry("the program of the balancer's port removed", func() {
			Expect(run(s.ip("-n", t.Name+"-switch", "link", "set", "lb", "xdp", "off"))).To(Succeeds())
		}, "lb"),
		Entry("an interface set down", func() {
			Expect(run(s.ip("-n", t.Name+"-be1", "link", "set", "eth0", "down"))).To(Succeeds())
		}, "be1"),
		Entry("a port set down", func() {
			Expect(run(s.ip("-n", t.Name+"-switch", "link", "set", "be2", "down"))).To(Succeeds())
		}, "be2"),
		Entry("a port taken off the bridge", func() {
			Expect(run(s.ip("-n", t.Name+"-switch", "link", "set", "be2", "nomaster"))).To(Succeeds())
		}, "be2"),
		Entry("a cable cut", func() {
			Expect(run(s.ip("-n", t.Name+"-switch", "link", "delete", "be2"))).To(Succeeds())
		}, "be2"),
		Entry("an address removed", func() {
			Expect(run(s.ip("-n", t.Name+"-be3", "addr", "flush", "dev", "eth0"))).To(Succeeds())
		}, "be3"),
		Entry("the VIP taken off a backend", func() {
			Expect(run(s.ip("-n", t.Name+"-be3", "addr", "delete", "40.1.1.1/32", "dev", "lo"))).To(Succeeds())
		}, "be3"),
		Entry("the client's route removed", func() {
			Expect(run(s.ip("-n", t.Name+"-client", "route", "delete", "40.1.1.1"))).To(Succeeds())
		}, "client"),
		Entry("a neighbour's MAC falsified", func() {
			Expect(run(s.ip("-n", t.Name+"-be1", "neigh", "replace", "20.1.1.100", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent"))).To(Succeeds())
		}, "be1"),
		Entry("a service deleted at the agent", func() {
			s.agent(t.Name, "service", "delete", "--id", "1")
			Expect(s.status(t.Name).Services).To(HaveEach(HaveField("Healthy", false)))
			kill(node(s.status(t.Name), "lb").PIDs["agent"], syscall.SIGKILL) // and the agent on top
		}, "lb"),
	)

	It("says so and is mended when the agent has another set of backends", func() {
		s.agent(t.Name, "service", "update", "--frontend=40.1.1.1:80", "--backends=20.1.1.10:80", "--id=1", "--mode=dsr")
		st := s.status(t.Name)
		Expect(st.Healthy).To(BeFalse())
		Expect(st.Services[0].Health).To(ContainSubstring("20.1.1.30:80"))
		mend()
	})
}

// agent runs one of lbagent's client commands in the balancer's node.
func (s *suite) agent(lab string, args ...string) string {
	GinkgoHelper()
	s.needs(folders)
	socket := filepath.Join(s.state, lab, "nodes", "lb", "agent.sock")
	return s.exec(lab, "lb", append(append([]string{"lbagent"}, args...), "--socket", socket)...)
}

// deleteNamespace does what `ip netns delete` does.
func (s *suite) deleteNamespace(lab, machine string) {
	GinkgoHelper()
	Expect(run(s.ip("netns", "delete", lab+"-"+machine))).To(Succeeds())
}

// detach takes a backend's decapsulation away.
func (s *suite) detach(lab, backend string) {
	GinkgoHelper()
	s.exec(lab, backend, "lbagent", "decap", "detach", "--pin-dir", s.decapPins(lab, backend))
}

func (s *suite) decapPins(lab, backend string) string {
	return filepath.Join(s.state, lab, "bpf", backend, "decap")
}

func (s *suite) hasXDP(lab, machine, name string) (attached bool) {
	GinkgoHelper()
	withLink(lab+"-"+machine, name, func(_ *netlink.Handle, link netlink.Link) error {
		attached = link.Attrs().Xdp != nil && link.Attrs().Xdp.Attached
		return nil
	})
	return attached
}

// kill ends one process of a lab and waits until it is gone.
func kill(pid int, sig syscall.Signal) {
	GinkgoHelper()
	Expect(pid).To(BeNumerically(">", 1), "a daemon's pid")
	fd, err := unix.PidfdOpen(pid, 0)
	Expect(err).NotTo(HaveOccurred())
	defer unix.Close(fd)
	Expect(unix.PidfdSendSignal(fd, sig, nil, 0)).To(Succeed())
	Eventually(func() error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n == 0 {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	}).Should(Succeed())
}
