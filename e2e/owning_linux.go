package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// owning is about what is a lab's and what is not: labs share nothing, and
// nothing of anybody else's is touched.
func (s *suite) owning() {
	BeforeEach(func() { s.needs(namespaces, processes, manyLabs) })
	It("changes nothing of the host's network", func() {
		before := observeHost()
		t := demo(s.name("host"), "be1", "be3")
		s.up(t)
		talk(s.open(t.Name), vip()).close()
		Expect(observeHost()).To(Equal(before), "while the lab is up")
		for _, machine := range t.MachineNames() {
			namespace := t.Name + "-" + machine
			Expect(run(s.ip("-n", namespace, "route", "show", "default")).Stdout).To(BeEmpty(), "there is no way out")
			links := strings.Count(run(s.ip("-n", namespace, "-o", "link", "show")).Stdout, "\n")
			Expect(links).To(Equal(2), "lo and eth0 in %s", machine)
		}
		s.down(t.Name)
		Expect(observeHost()).To(Equal(before), "after it went")
	})

	It("keeps two labs with the same addresses apart", func() {
		a, b := demo(s.name("left"), "be1", "be3"), demo(s.name("right"), "be1", "be3")
		s.up(a)
		s.up(b)
		inA := talkTo(s.open(a.Name), vip(), "be1")
		defer inA.close()
		talkTo(s.open(b.Name), vip(), "be1").close()
		Expect(connections(s, "--name", a.Name)).To(ContainElement(HaveField("Source", inA.local())))
		Expect(connections(s, "--name", b.Name)).NotTo(ContainElement(HaveField("Source", inA.local())))
		s.down(b.Name)
		goesOn(inA, "the other lab went down")
		s.expectHealthy(a.Name)
	})

	It("refuses a foreign namespace of the lab's name and leaves it alone", func() {
		name := s.name("mine")
		foreign := name + "-be1"
		Expect(run(s.ip("netns", "add", foreign))).To(Succeeds())
		DeferCleanup(func() { Expect(run(s.ip("netns", "delete", foreign))).To(Succeeds()) })
		Expect(run(s.ip("-n", foreign, "link", "add", "keep", "type", "bridge"))).To(Succeeds())
		Expect(s.labctl("up", "--name", name)).To(ExitsWith(1, foreign, "does not belong to this lab", "--name"))
		Expect(s.leftovers(name)).To(ConsistOf(filepath.Join(runNetns, foreign)))
		Expect(s.labctl("down", "--name", name)).To(Succeeds())
		Expect(run(s.ip("-n", foreign, "link", "show", "keep"))).To(Succeeds(), "it is as it was")
	})

	It("leaves a foreign namespace alone that came while the lab was up", func() {
		t := demo(s.name("guest"), "be1")
		s.up(t)
		foreign := t.Name + "-own"
		Expect(run(s.ip("netns", "add", foreign))).To(Succeeds())
		DeferCleanup(func() { Expect(run(s.ip("netns", "delete", foreign))).To(Succeeds()) })
		s.expectHealthy(t.Name)
		Expect(s.labctl("down", "--name", t.Name)).To(Succeeds())
		Expect(s.leftovers(t.Name)).To(ConsistOf(filepath.Join(runNetns, foreign)))
	})

	It("never ends a process that merely got a daemon's pid", func() {
		t := demo(s.name("pid"), "be1", "be3")
		s.up(t)
		bystander := exec.Command("sleep", "1000")
		Expect(bystander.Start()).To(Succeed())
		gone := make(chan struct{})
		go func() {
			_ = bystander.Wait()
			close(gone)
		}()
		DeferCleanup(func() {
			_ = bystander.Process.Kill()
			<-gone
		})
		for _, record := range []string{"be1/web.json", "lb/agent.json"} {
			s.pointAt(filepath.Join(s.state, t.Name, "nodes", record), bystander.Process.Pid)
		}
		Expect(node(s.status(t.Name), "be1").Healthy).To(BeFalse(), "the record's process is not the web server")
		s.down(t.Name)
		Expect(gone).NotTo(BeClosed())
		Expect(bystander.Process.Signal(syscall.Signal(0))).To(Succeed())
	})

	It("goes down whatever became of the user's file", func() {
		t := demo(s.name("file"), "be1")
		s.takenDown(t.Name)
		file := s.file(t)
		Expect(s.labctl("up", file)).To(Succeeds())
		Expect(os.WriteFile(file, []byte("name: another\nnodes: nonsense\n"), 0o600)).To(Succeed())
		s.expectHealthy(t.Name)
		Expect(os.Remove(file)).To(Succeed())
		Expect(s.labctl("up", "--name", t.Name)).To(SatisfyAll(Succeeds(), HaveField("Stdout", ContainSubstring("nothing to change"))))
		s.down(t.Name)
	})

	DescribeTable("says that the state file is damaged, and still goes down",
		func(damage func(path string) error) {
			t := demo(s.name("damage"), "be1", "be3")
			s.up(t)
			Expect(damage(filepath.Join(s.state, t.Name, "state.json"))).To(Succeed())
			for _, command := range []string{"status", "up", "connections"} {
				Expect(s.labctl(command, "--name", t.Name)).To(ExitsWith(1, "state file is damaged", "state.json", "labctl down --name "+t.Name))
			}
			down := s.labctl("down", "--name", t.Name)
			Expect(down).To(ExitsWith(0, "state file is damaged"))
			Expect(s.leftovers(t.Name)).To(BeEmpty())
		},
		Entry("when it is cut short", func(path string) error { return os.Truncate(path, 100) }),
		Entry("when it is empty", func(path string) error { return os.Truncate(path, 0) }),
		Entry("when it is of another version", func(path string) error { return edit(path, func(m map[string]any) { m["version"] = 99 }) }),
		Entry("when it is another lab's", func(path string) error { return edit(path, func(m map[string]any) { m["name"] = "other" }) }),
	)

	It("goes down by its marks when the state file is gone", func() {
		t := demo(s.name("gone"), "be1")
		s.up(t)
		Expect(os.Remove(filepath.Join(s.state, t.Name, "state.json"))).To(Succeed())
		Expect(s.labctl("status", "--name", t.Name)).To(ExitsWith(1, "not up"))
		s.down(t.Name)
	})

	It("lets one labctl at a time change a lab, and names the other", func() {
		t := demo(s.name("lock"), "be1", "be3")
		s.takenDown(t.Name)
		file := s.file(t)
		first := s.start("up", file, "-o", "json")
		Expect(first.after(1)).To(BeTrue())
		first.signal(syscall.SIGSTOP)
		for _, command := range [][]string{{"up", file}, {"down", "--name", t.Name}, {"mode", "snat", "--name", t.Name}} {
			Expect(s.labctl(command...)).To(ExitsWith(1, t.Name, "is being changed by process "+pid(first)))
		}
		first.signal(syscall.SIGCONT)
		Expect(first.wait()).To(Equal(0))
		s.expectHealthy(t.Name)
	})
}

// pointAt makes a daemon's record name another process.
func (s *suite) pointAt(record string, pid int) {
	GinkgoHelper()
	Expect(edit(record, func(m map[string]any) { m["pid"] = pid })).To(Succeed())
}

// edit changes a JSON file as somebody with an editor would.
func edit(path string, change func(map[string]any)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m := map[string]any{}
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	change(m)
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
