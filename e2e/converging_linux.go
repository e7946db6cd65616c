package e2e

import (
	"net/netip"
	"slices"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/topology"
)

// converging is about a lab that is up and is wanted otherwise: what differs
// is changed, all else stays, and with it the connections to it.
func (s *suite) converging() {
	BeforeEach(func() { s.needs(namespaces, processes, manyLabs) })
	It("changes nothing when nothing differs", func() {
		t := demo(s.name("same"), "be1", "be3")
		s.up(t)
		before := s.status(t.Name)
		file := s.file(t)
		r := s.labctl("up", file)
		Expect(r).To(Succeeds())
		Expect(r.Stdout).To(ContainSubstring("nothing to change"))
		Expect(r.Stderr).To(BeEmpty())
		Expect(doneIn(s.labctl("up", file, "-o", "json").Stdout)).To(BeEmpty())
		Expect(s.status(t.Name).Nodes).To(Equal(before.Nodes), "the same processes")
	})

	Describe("step by step", Ordered, func() {
		var (
			t    topology.Topology
			kept *conversation
		)
		BeforeAll(func() {
			t = demo(s.name("step"), "be1", "be3")
			s.up(t)
			kept = talkTo(s.open(t.Name), vip(), "be1")
			DeferCleanup(kept.close)
		})
		// change converges to the edited topology and holds up against it all
		// that every change promises.
		change := func(edit func(), says ...string) {
			GinkgoHelper()
			web := node(s.status(t.Name), "be1").PIDs["web"]
			edit()
			file := s.file(t)
			planned := s.planned(file)
			Expect(planned).NotTo(BeEmpty())
			up := s.labctl("up", file, "-o", "json")
			Expect(up).To(Succeeds(), up.String())
			Expect(doneIn(up.Stdout)).To(ConsistOf(planned), "it does what the dry run said")
			goesOn(kept, "the change")
			st := s.status(t.Name)
			Expect(st.Healthy).To(BeTrue())
			Expect(node(st, "be1").PIDs["web"]).To(Equal(web), "the untouched web server runs on")
			for _, text := range says {
				Expect(planned).To(ContainElement(HaveField("Reason", ContainSubstring(text))))
			}
			Expect(s.labctl("up", file).Stdout).To(ContainSubstring("nothing to change"))
		}

		It("adds a backend, which then gets connections", func() {
			change(func() {
				t.Nodes["be4"] = topology.Default().Nodes["be4"]
				t.Services[0].Backends = append(t.Services[0].Backends, "be4")
			}, "20.1.1.40")
			talkTo(s.open(t.Name), vip(), "be4").close()
		})

		It("shows first how the lab that is up differs", func() {
			file := s.file(t)
			r := s.labctl("up", file, "--mode", "snat")
			Expect(r).To(ExitsWith(0, "is up with another topology; converging", "mode", "snat"))
			Expect(s.labctl("up", file)).To(Succeeds())
		})

		It("gives a backend another address", func() {
			change(func() {
				n := t.Nodes["be3"]
				n.Address = netip.MustParseAddr("20.1.1.33")
				t.Nodes["be3"] = n
			}, "20.1.1.33")
			moved := talkTo(s.open(t.Name), vip(), "be3")
			defer moved.close()
			who, err := moved.ask()
			Expect(err).NotTo(HaveOccurred())
			Expect(who.Address.String()).To(Equal("20.1.1.33"))
		})

		It("adds a service of another protocol, address and port", func() {
			change(func() {
				t.Services = append(t.Services, topology.Service{
					ID: 2, VIP: netip.MustParseAddr("40.1.1.2"), Port: 53, Protocol: topology.UDP, Mode: topology.DSR,
					TableSize: topology.DefaultTableSize, Backends: []string{"be3", "be4"},
				})
			}, "40.1.1.2")
			Expect(s.exec(t.Name, "client", "sh", "-c", "ip route get 40.1.1.2")).To(ContainSubstring("via 20.1.1.1"))
		})

		It("switches the mode for new connections alone", func() {
			change(func() { t.Services[0].Mode = topology.SNAT }, "mode dsr -> snat")
			translated := talk(s.open(t.Name), vip())
			defer translated.close()
			Expect(connections(s, "--name", t.Name)).To(ContainElements(
				SatisfyAll(HaveField("Source", kept.local()), HaveField("Mode", "dsr")),
				SatisfyAll(HaveField("Source", translated.local()), HaveField("Mode", "snat"))))
		})

		It("sets another MTU everywhere", func() {
			change(func() { t.Switch.MTU = 1400 }, "mtu 1500 -> 1400")
			for _, name := range t.MachineNames() {
				Expect(s.exec(t.Name, name, "cat", "/sys/class/net/eth0/mtu")).NotTo(BeEmpty())
				Expect(run(s.ip("-n", t.Name+"-"+name, "link", "show", "eth0")).Stdout).To(ContainSubstring("mtu 1400"))
				Expect(run(s.ip("-n", t.Name+"-switch", "link", "show", name)).Stdout).To(ContainSubstring("mtu 1400"))
			}
		})

		It("removes a service and a backend, with all that was theirs", func() {
			change(func() {
				t.Services = t.Services[:1]
				t.Services[0].Backends = slices.DeleteFunc(t.Services[0].Backends, func(b string) bool { return b == "be4" })
				delete(t.Nodes, "be4")
			}, "not in the topology")
			Expect(s.leftovers(t.Name)).NotTo(ContainElement(ContainSubstring("be4")))
			Expect(run(s.ip("-n", t.Name+"-switch", "link", "show", "be4")).Code).NotTo(Equal(0))
		})

		It("keeps what labctl mode set when up is given no file", func() {
			Expect(s.labctl("mode", "dsr", "--name", t.Name)).To(Succeeds())
			r := s.labctl("up", "--name", t.Name)
			Expect(r).To(SatisfyAll(Succeeds(), HaveField("Stdout", ContainSubstring("nothing to change"))))
			goesOn(kept, "all of it")
		})

		It("refuses what it cannot change and leaves the lab as it is", func() {
			bad := t
			bad.Switch.MTU = 9000
			Expect(s.labctl("up", s.file(bad))).To(ExitsWith(2, "switch.mtu"))
			s.expectHealthy(t.Name)
			goesOn(kept, "a refused change")
		})
	})

	It("moves the balancer itself", func() {
		t := demo(s.name("move"), "be1", "be3")
		s.up(t)
		n := t.Nodes["lb"]
		n.Address = netip.MustParseAddr("20.1.1.2")
		t.Nodes["lb"] = n
		Expect(s.labctl("up", s.file(t))).To(Succeeds())
		s.expectHealthy(t.Name)
		for _, backend := range []string{"be1", "be3"} {
			talkTo(s.open(t.Name), vip(), backend).close()
		}
	})

	It("does not take another's server for its own", func() {
		t := demo(s.name("port"), "be1", "be3")
		s.up(t)
		kill(node(s.status(t.Name), "be3").PIDs["web"], syscall.SIGKILL)
		s.occupy(t.Name, "be3", 80)
		Expect(s.labctl("up", "--name", t.Name)).To(ExitsWith(1, "be3", "address already in use"))
	})

	It("takes a change that fails back, and the connections go on", func() {
		t := demo(s.name("back"), "be1", "be3")
		s.up(t)
		kept := talkTo(s.open(t.Name), vip(), "be1")
		defer kept.close()
		before := s.status(t.Name)
		// Somebody's server has the port that the new service wants.
		s.occupy(t.Name, "be3", 8080)
		edited := t
		edited.Services = append(slices.Clone(t.Services), topology.Service{
			ID: 2, VIP: netip.MustParseAddr("40.1.1.2"), Port: 8080, Protocol: topology.TCP, Mode: topology.DSR,
			TableSize: topology.DefaultTableSize, Backends: []string{"be3"},
		})
		Expect(s.labctl("up", s.file(edited))).To(ExitsWith(1, "be3", "8080"))
		goesOn(kept, "the change was taken back")
		st := s.status(t.Name)
		Expect(st.Healthy).To(BeTrue())
		Expect(st.Services).To(HaveLen(len(before.Services)))
		talkTo(s.open(t.Name), vip(), "be3").close()
	})
}
