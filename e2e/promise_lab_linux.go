package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/topology"
)

// orchestrating is about what labctl promises of a lab that is in use, and of one
// whose labctl is killed.
func (s *suite) orchestrating() {
	Describe("under load", Ordered, ContinueOnFailure, Label("churn"), func() {
		b := &balanced{suite: s}
		BeforeAll(func() {
			b.t = demo(b.name("grow"), "be1")
			b.up(b.t)
			b.l = b.open(b.t.Name)
			var err error
			b.agent, err = b.l.Agent()
			Expect(err).NotTo(HaveOccurred())
		})

		It("loses no connection while a lab grows, though labctl is killed each time and begins again", func() {
			load := crowds{b.gather(vip(), askLimit)}
			kills := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 1))
			killed := []int{}
			for _, backends := range [][]string{{"be1", "be2"}, {"be1", "be2", "be3"}, {"be1", "be2", "be3", "be4"}} {
				file := writeTopology(GinkgoT(), demo(b.t.Name, backends...))
				up := b.suite.start("up", file, "-o", "json")
				events := kills.IntN(growthEvents)
				up.after(events)
				up.signal(syscall.SIGKILL)
				up.wait()
				killed = append(killed, events)
				load.goesOn(crowdRate / 10)
				Expect(b.labctl("up", file)).To(Succeeds())
				load.goesOn(crowdRate / 5)
				Expect(b.reached("client", vip(), 60)).To(HaveLen(len(backends)))
				b.t = demo(b.t.Name, backends...)
			}
			reportFigures("labctl was killed after so many events of each growth", killed)
			load.loseNothing("the lab grew threefold and labctl was killed each time")
			b.expectHealthy(b.t.Name)
		})

		It("changes nothing by up when nothing differs, and loses no connection by it", func() {
			load, before := crowds{b.gather(vip(), askLimit)}, b.status(b.t.Name).Nodes
			file := writeTopology(GinkgoT(), b.t)
			for range 2 {
				Expect(doneIn(b.labctl("up", file, "-o", "json").Stdout)).To(BeEmpty(), "steps")
				Expect(b.status(b.t.Name).Nodes).To(Equal(before), "the same processes")
			}
			load.goesOn(crowdRate / 5)
			load.loseNothing("up found nothing to change, twice")
		})

		It("takes a change back of which one step fails: all is as before, and no connection is lost", func() {
			b.needs(namespaces)
			// be4 has no connections: its page is what will be changed, and fail.
			b.t = demo(b.t.Name)
			b.t.Services[0].Backends = []string{"be1", "be2", "be3"}
			Expect(b.labctl("up", writeTopology(GinkgoT(), b.t))).To(Succeeds())
			b.occupy(b.t.Name, "be4", 8080)
			load := crowds{b.gather(vip(), askLimit)}
			before := b.everything("be4")
			edited := demo(b.t.Name)
			edited.Nodes["be5"] = topology.Node{Role: topology.RoleBackend, OS: topology.Linux, Address: netip.MustParseAddr("20.1.1.50")}
			beside, failing := b.t.Services[0], b.t.Services[0]
			beside.ID, beside.VIP, beside.Mode, beside.Backends = 2, netip.MustParseAddr("40.1.1.2"), topology.SNAT, []string{"be1", "be5"}
			failing.ID, failing.Port, failing.Backends = 3, 8080, []string{"be4"}
			edited.Services = []topology.Service{b.t.Services[0], beside, failing}
			Expect(b.labctl("up", writeTopology(GinkgoT(), edited))).To(ExitsWith(1, "be4", "address already in use"))
			load.goesOn(crowdRate / 5)
			for what, now := range b.everything("be4") {
				Expect(now).To(Equal(before[what]), what)
			}
			Expect(b.planned(writeTopology(GinkgoT(), b.t))).To(BeEmpty())
			load.loseNothing("a change failed and was taken back")
		})
	})

	It("goes down after its down was killed, at whatever moment, or comes up again whole", Label("slow"), func() {
		t := demo(s.name("dnkill"), "be1", "be3")
		s.takenDown(t.Name)
		file := writeTopology(GinkgoT(), t)
		Expect(s.labctl("up", file)).To(Succeeds())
		begin := time.Now()
		s.down(t.Name)
		whole := time.Since(begin)
		moments := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), 2))
		for i := range 3 {
			Expect(s.labctl("up", file)).To(Succeeds())
			down := s.start("down", "--name", t.Name)
			moment := time.Duration(moments.Int64N(int64(whole)))
			time.Sleep(moment) // the moment itself is what is tried
			down.signal(syscall.SIGKILL)
			down.wait()
			By(fmt.Sprintf("%s after the beginning of a down that takes %s", moment, whole))
			if i%2 == 0 {
				Expect(s.labctl("up", file)).To(Succeeds())
				s.expectHealthy(t.Name)
				for _, backend := range t.Backends() {
					talkTo(s.open(t.Name), vip(), backend).close()
				}
			}
			s.down(t.Name)
		}
	})

	It("lets two labs with the same addresses prove both modes at the same time", Label("dsr", "snat", "slow"), func() {
		labs := []topology.Topology{demo(s.name("twin1"), "be1", "be3"), demo(s.name("twin2"), "be1", "be3")}
		atOnce := func(do func(t topology.Topology) result) {
			GinkgoHelper()
			results := make([]result, len(labs))
			var wait sync.WaitGroup
			for i, t := range labs {
				wait.Go(func() {
					defer GinkgoRecover()
					results[i] = do(t)
				})
			}
			wait.Wait()
			for _, r := range results {
				Expect(r).To(Succeeds(), r.String())
			}
		}
		for _, t := range labs {
			s.takenDown(t.Name)
		}
		atOnce(func(t topology.Topology) result { return s.labctl("up", writeTopology(GinkgoT(), t)) })
		atOnce(func(t topology.Topology) result { return s.proof("test", "--mode", "all", "--name", t.Name) })
	})
}

// growthEvents are fewer than an up that adds one backend has.
const growthEvents = 10

// everything looks at a lab from all sides but its counters, and the pid of one
// backend's web server.
func (b *balanced) everything(but string) map[string]string {
	GinkgoHelper()
	st := b.status(b.t.Name)
	Expect(st.Healthy).To(BeTrue())
	restarted := fmt.Sprintf("process %d:", node(st, but).PIDs["web"])
	for i := range st.Nodes {
		if st.Nodes[i].Name == but {
			st.Nodes[i].PIDs = nil
		}
	}
	for i := range st.Services {
		for j := range st.Services[i].Backends {
			st.Services[i].Backends[j].Traffic = api.Traffic{}
		}
	}
	status, err := json.MarshalIndent(st, "", "  ")
	Expect(err).NotTo(HaveOccurred())
	data, err := os.ReadFile(filepath.Join(b.state, b.t.Name, "state.json"))
	Expect(err).NotTo(HaveOccurred())
	state := regexp.MustCompile(`"changed": "[^"]*"`).ReplaceAllString(string(data), "")
	processes := slices.DeleteFunc(b.processes(b.t.Name), func(line string) bool { return strings.HasPrefix(line, restarted) })
	all := map[string]string{
		"status": string(status), "state.json": state,
		"namespaces": strings.Join(b.namespaces(b.t.Name), "\n"), "processes": strings.Join(processes, "\n"),
		"ports of the switch": run(b.ip("-n", b.t.Name+"-switch", "-br", "link", "show", "type", "veth")).Stdout,
	}
	for _, machine := range b.t.MachineNames() {
		for _, what := range []string{"route", "neigh", "address"} {
			all[what+" of "+machine] = run(b.ip("-n", b.t.Name+"-"+machine, "-o", what, "show")).Stdout
		}
	}
	return all
}
