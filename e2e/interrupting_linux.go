package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/topology"
)

// moments is how many moments each spec tries, spread over an up at random.
// Ginkgo prints the seed; -ginkgo.seed repeats them.
const moments = 6

// lastMoment is the number of an event shortly before the end of the demo's
// up, which has 45.
const lastMoment = 40

// someMoments returns numbers of events, one in each of as many equal parts.
func someMoments() []int {
	r := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), uint64(GinkgoParallelProcess())))
	all := make([]int, moments)
	for i := range all {
		all[i] = (i*lastMoment + r.IntN(lastMoment)) / moments
	}
	return all
}

// interrupting is about an up that does not come to its end.
func (s *suite) interrupting() {
	BeforeEach(func() { s.needs(namespaces, processes, manyLabs) })
	// cutOff starts an up and sends it a signal after some events; it returns
	// the exit code.
	cutOff := func(file, name string, events int, sig syscall.Signal) int {
		GinkgoHelper()
		up := s.start("up", file, "-o", "json")
		if events == 0 {
			Eventually(func() []string { return s.folders(name) }).ShouldNot(BeEmpty())
		}
		up.after(events)
		up.signal(sig)
		return up.wait()
	}

	It("undoes everything on Ctrl-C, at whatever moment, and exits 130", func() {
		t := demo(s.name("ctrlc"))
		file := s.file(t)
		s.takenDown(t.Name)
		for _, n := range someMoments() {
			By(fmt.Sprintf("after %d events", n))
			Expect(cutOff(file, t.Name, n, syscall.SIGINT)).To(Equal(130))
			Expect(s.leftovers(t.Name)).To(BeEmpty())
		}
	})

	It("treats SIGTERM like Ctrl-C", func() {
		t := demo(s.name("term"), "be1", "be3")
		s.takenDown(t.Name)
		Expect(cutOff(s.file(t), t.Name, 6, syscall.SIGTERM)).To(Equal(130))
		Expect(s.leftovers(t.Name)).To(BeEmpty())
	})

	It("has down clean after kill -9, at whatever moment", func() {
		t := demo(s.name("killdn"))
		file := s.file(t)
		s.takenDown(t.Name)
		for _, n := range someMoments() {
			By(fmt.Sprintf("after %d events", n))
			Expect(cutOff(file, t.Name, n, syscall.SIGKILL)).To(Equal(-1))
			s.down(t.Name)
		}
	})

	It("has the next up finish after kill -9, at whatever moment", func() {
		t := demo(s.name("killup"))
		file := s.file(t)
		s.takenDown(t.Name)
		for _, n := range someMoments() {
			By(fmt.Sprintf("after %d events", n))
			Expect(cutOff(file, t.Name, n, syscall.SIGKILL)).To(Equal(-1))
			again := s.labctl("up", file)
			Expect(again).To(Succeeds(), again.String())
			s.expectHealthy(t.Name)
			talk(s.open(t.Name), vip()).close()
			Expect(s.processes(t.Name)).To(HaveLen(1+len(t.Backends())), "one agent and one web server a backend")
			s.down(t.Name)
		}
	})

	It("goes back to the lab as it was when a change is interrupted", func() {
		t := demo(s.name("change"), "be1", "be3")
		s.up(t)
		kept := talkTo(s.open(t.Name), vip(), "be1")
		defer kept.close()
		edited := demo(t.Name)
		edited.Services = append(slices.Clone(edited.Services), topology.Service{
			ID: 2, VIP: netip.MustParseAddr("40.1.1.2"), Port: 8080, Protocol: topology.TCP, Mode: topology.SNAT,
			TableSize: topology.DefaultTableSize, Backends: []string{"be2", "be3"},
		})
		file := s.file(edited)
		for _, n := range []int{3, 9} {
			By(fmt.Sprintf("after %d events", n))
			Expect(cutOff(file, t.Name, n, syscall.SIGINT)).To(Equal(130))
			st := s.status(t.Name)
			Expect(st.Healthy).To(BeTrue())
			Expect(st.Nodes).To(HaveLen(4))
			Expect(st.Services).To(HaveLen(1))
			Expect(s.namespaces(t.Name)).To(HaveLen(5), "four machines and the switch")
			goesOn(kept, "the interrupted change")
		}
	})

	It("leaves nothing of a demo that is interrupted", func() {
		name := s.name("demo")
		s.takenDown(name)
		demo := s.start("demo", "--name", name)
		Eventually(func() []string { return s.processes(name) }).ShouldNot(BeEmpty())
		demo.signal(syscall.SIGINT)
		Expect(demo.wait()).To(Equal(130))
		Expect(s.leftovers(name)).To(BeEmpty())
	})

	Describe("a test", func() {
		var (
			t    topology.Topology
			test *running
		)
		lent := func() string {
			return s.exec(t.Name, "client", "ip", "-o", "-4", "addr", "show", "dev", "lo", "scope", "global") +
				s.exec(t.Name, "client", "ip", "route", "show", "40.1.1.2")
		}
		BeforeEach(func() {
			t = demo(s.name("test"), "be1", "be3")
			s.up(t)
			Expect(lent()).To(BeEmpty())
			test = s.start("test", "--mode", "snat", "--name", t.Name)
			Eventually(lent).ShouldNot(BeEmpty(), "what the client is lent for the test")
		})

		It("gives back what it borrowed on Ctrl-C", func() {
			test.signal(syscall.SIGINT)
			Expect(test.wait()).To(Equal(130))
			Expect(lent()).To(BeEmpty())
			Expect(s.status(t.Name).Services).To(HaveEach(HaveField("Mode", "dsr")))
			s.expectHealthy(t.Name)
		})

		It("has up give back what it borrowed after kill -9", func() {
			test.signal(syscall.SIGKILL)
			test.wait()
			Expect(s.labctl("up", "--name", t.Name)).To(Succeeds())
			Expect(lent()).To(BeEmpty())
			s.expectHealthy(t.Name)
			Expect(s.status(t.Name).Services).To(HaveEach(HaveField("Mode", "dsr")))
		})
	})

	It("lets a down that was killed be done again", func() {
		t := demo(s.name("downdn"))
		s.up(t)
		whole := len(s.namespaces(t.Name))
		down := s.start("down", "--name", t.Name)
		Eventually(func() int { return len(s.namespaces(t.Name)) }).Should(BeNumerically("<", whole))
		down.signal(syscall.SIGKILL)
		down.wait()
		s.down(t.Name)
	})
}
