package e2e

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/plan"
	"l4lab/lab/probe"
	"l4lab/topology"
)

// commands are labctl's, given as a user gives them.
func (s *suite) commands() {
	It("bring up a lab that serves a page through the VIP in DSR, then in SNAT, and take it down", func() {
		s.needs(root)
		name := s.name("way")
		s.takenDown(name)
		up := s.labctl("up", "--name", name)
		Expect(up).To(Succeeds())
		Expect(up.Stdout).To(ContainSubstring("lab " + name + " is up"))

		By("showing the page, in the words of the README, since there is one lab only")
		page := s.labctl("exec", "client", "--", "curl", "-s", "http://40.1.1.1/")
		Expect(page).To(Succeeds())
		Expect(page.Stdout).To(MatchRegexp(`be[1-4]`))
		Expect(page.Stdout).To(MatchRegexp(`20\.1\.1\.[1-4]0`))
		Expect(page.Stdout).To(ContainSubstring("20.1.1.100"), "in DSR the backend sees the client")

		By("listing the connection, whose replies the balancer never saw")
		Expect(connections(s, "--name", name)).To(ContainElement(SatisfyAll(
			HaveField("Mode", "dsr"), HaveField("TxBytes", BeNil()), HaveField("RxBytes", BeNumerically(">", 0)))))
		text := s.labctl("connections")
		Expect(text).To(Succeeds())
		lines := strings.Split(strings.TrimSpace(text.Stdout), "\n")
		Expect(lines[0]).To(MatchRegexp(`SOURCE IP +DEST IP +SOURCE PORT +DEST PORT +BACKEND IP +STATE +RX BYTES +TX BYTES`))
		Expect(lines[1]).To(MatchRegexp(`20\.1\.1\.100 +40\.1\.1\.1 +\d+ +80 +20\.1\.1\.[1-4]0 +(ACTIVE|CLOSING|IDLE) +\d+ +-`))

		By("switching the mode and doing the same again")
		Expect(s.labctl("mode", "snat")).To(Succeeds())
		page = s.labctl("exec", "client", "--", "curl", "-s", "http://40.1.1.1/")
		Expect(page).To(Succeeds())
		Expect(page.Stdout).NotTo(ContainSubstring("20.1.1.100"), "in SNAT the backend sees the balancer")
		Expect(connections(s, "--name", name)).To(ContainElement(SatisfyAll(
			HaveField("Mode", "snat"), HaveField("TxBytes", HaveValue(BeNumerically(">", 0))))))

		By("going down, twice")
		Expect(s.labctl("down").Stdout).To(ContainSubstring("is down"))
		Expect(s.leftovers(name)).To(BeEmpty())
		again := s.labctl("down", "--name", name)
		Expect(again).To(Succeeds())
		Expect(again.Stdout).To(ContainSubstring("nothing to remove"))
	})

	Describe("on the demo's lab", Ordered, ContinueOnFailure, s.commandsOnDemo)

	It("plan with --dry-run exactly what up then does, one event a line", func() {
		s.needs(manyLabs)
		t := demo(s.name("plan"), "be1", "be3")
		file := s.file(t)
		s.takenDown(t.Name)
		planned := s.planned(file)
		Expect(s.leftovers(t.Name)).To(BeEmpty(), "a dry run makes nothing")
		up := s.labctl("up", file, "-o", "json")
		Expect(up).To(Succeeds())
		Expect(doneIn(up.Stdout)).To(ConsistOf(planned))
		Expect(s.planned(file)).To(BeEmpty(), "what was done is not planned again")
	})

	It("take a lab back that cannot be made, or keep it for inspection when told to", func() {
		s.needs(namespaces)
		name := s.name("keep")
		s.takenDown(name)
		// A program that ends at once instead of serving.
		fails := []string{"up", "--name", name, "--agent", "/bin/true"}
		Expect(s.labctl(fails...)).To(ExitsWith(1, "ended at once"))
		Expect(s.leftovers(name)).To(BeEmpty())
		Expect(s.labctl(append(fails, "--keep-on-failure")...)).To(ExitsWith(1, "what was made is kept", "labctl down --name "+name))
		Expect(s.namespaces(name)).NotTo(BeEmpty())
		Expect(s.labctl("status", "--name", name).Stdout).To(ContainSubstring("creating"))
		Expect(s.labctl("up", "--name", name)).To(Succeeds(), "with the right program it comes up after all")
		s.expectHealthy(name)
	})

	It("take every lab down with --all", func() {
		s.needs(manyLabs)
		a, b := demo(s.name("a"), "be1"), demo(s.name("b"), "be3")
		s.up(a)
		s.up(b)
		ambiguous := s.labctl("status")
		Expect(ambiguous).To(ExitsWith(2, "several labs", a.Name, b.Name))
		Expect(s.labctl("down", "--all")).To(Succeeds())
		Expect(s.leftovers("")).To(BeEmpty())
		Expect(s.labctl("down", "--all").Stdout).To(ContainSubstring("no lab is up"))
	})

	It("print a topology that up takes, edited or not", func() {
		s.needs(manyLabs)
		printed := s.labctl("topology")
		Expect(printed).To(Succeeds())
		file := filepath.Join(GinkgoT().TempDir(), "lab.yaml")
		name := s.name("round")
		s.takenDown(name)
		edited := strings.Replace(printed.Stdout, "name: l4lb", "name: "+name, 1)
		edited = strings.Replace(edited, "20.1.1.40}", "20.1.1.41}", 1)
		Expect(os.WriteFile(file, []byte(edited), 0o600)).To(Succeed())
		Expect(s.labctl("up", file)).To(Succeeds())
		Expect(node(s.status(name), "be4").Address.String()).To(Equal("20.1.1.41"))

		By("reading it from standard input as well")
		same := s.labctlWith(edited, nil, "up", "-")
		Expect(same).To(Succeeds())
		Expect(same.Stdout).To(ContainSubstring("nothing to change"))
	})

	It("say what the machine has, which version this is, and how a shell completes", func() {
		s.needs(namespaces)
		doctor := s.labctl("doctor")
		Expect(doctor).To(Succeeds())
		Expect(doctor.Stdout).To(And(ContainSubstring("provider netns"), ContainSubstring("XDP"), Not(ContainSubstring("✗"))))
		var all map[string][]struct{ OK bool }
		Expect(json.Unmarshal([]byte(s.labctl("doctor", "-o", "json").Stdout), &all)).To(Succeed())
		Expect(all).To(HaveKeyWithValue("netns", Not(BeEmpty())))
		Expect(s.labctl("version").Stdout).To(MatchRegexp(`^labctl \S+`))
		Expect(s.labctl("completion", "bash").Stdout).To(ContainSubstring("complete"))
	})
}

// commandsOnDemo are those that look at a lab and leave it as it is.
func (s *suite) commandsOnDemo() {
	var t topology.Topology
	BeforeAll(func() {
		t = demo(s.name("demo"))
		s.up(t)
	})

	It("show its status as text and as JSON", func() {
		s.needs(emulation, processes)
		text := s.labctl("status")
		Expect(text).To(Succeeds())
		for _, line := range []string{
			`lb +loadbalancer +windows \(emulated\) +20\.1\.1\.1 +up +✓`, `be1 +backend +windows \(emulated\) +20\.1\.1\.10 +up +✓`,
			`be4 +backend +linux +20\.1\.1\.40 +up +✓`, `client +client +linux +20\.1\.1\.100 +up +✓`,
			`1 +40\.1\.1\.1:80/tcp +dsr +✓`, `1 +be3 +20\.1\.1\.30:80`,
		} {
			Expect(text.Stdout).To(MatchRegexp(line))
		}
		st := s.status(t.Name)
		Expect(st.Healthy).To(BeTrue())
		Expect(st.Nodes).To(HaveLen(6))
		Expect(st.Services).To(ConsistOf(HaveField("Backends", HaveLen(4))))
		Expect(node(st, "be1")).To(SatisfyAll(HaveField("Emulated", true), HaveField("PIDs", HaveKey("web"))))
		Expect(node(st, "be3").Emulated).To(BeFalse())
		Expect(node(st, "lb").PIDs).To(HaveKey("agent"))
	})

	It("pass streams and exit codes of what they execute through", func() {
		s.needs(emulation) // a shell on every node
		r := s.labctlWith("in", nil, "exec", "be1", "--", "sh", "-c", "cat; echo out; echo err >&2; exit 7")
		Expect(r).To(SatisfyAll(HaveField("Code", 7), HaveField("Stdout", "inout\n"), HaveField("Stderr", "err\n")))
		Expect(s.labctl("exec", "be1", "--", "sh", "-c", "kill -TERM $$").Code).To(Equal(128 + 15))
		Expect(s.exec(t.Name, "be3", "ip", "-o", "-4", "addr", "show", "eth0")).To(ContainSubstring("20.1.1.30/24"))
		Expect(s.labctl("exec", "be1", "--", "/no/such/program")).To(ExitsWith(127, "be1", "/no/such/program"), "as a shell does")
		Expect(s.labctl("exec", "be9", "--", "true")).To(ExitsWith(1, `no machine "be9"`, "be1"))
	})

	It("leave namespaces that `ip netns exec` enters", func() {
		s.needs(namespaces)
		Expect(run(s.ip("netns", "exec", t.Name+"-client", "curl", "-sf", "http://40.1.1.1/whoami"))).To(Succeeds())
		ports := run(s.ip("-n", t.Name+"-switch", "-o", "link", "show", "master", "br0"))
		for _, name := range t.MachineNames() {
			Expect(ports.Stdout).To(ContainSubstring(" " + name + "@"))
		}
	})

	It("print what the agent and a web server wrote", func() {
		s.exec(t.Name, "client", "curl", "-sf", "http://40.1.1.1/whoami")
		Expect(s.labctl("logs", "lb")).To(SatisfyAll(Succeeds(), HaveField("Stdout", ContainSubstring("eth0"))))
		var all strings.Builder
		for _, b := range t.Backends() {
			r := s.labctl("logs", b)
			Expect(r).To(Succeeds())
			all.WriteString(r.Stdout)
		}
		Expect(all.String()).To(ContainSubstring("/whoami"))
		Expect(s.labctl("logs", "client")).To(SatisfyAll(Succeeds(), HaveField("Stderr", ContainSubstring("no daemon"))))
	})

	It("speak to the agent in the demo's words from inside the balancer", func() {
		s.needs(folders)
		socket := filepath.Join(s.state, t.Name, "nodes", "lb", "agent.sock")
		r := s.exec(t.Name, "lb", "lbagent", "service", "dumpstate", "--id", "1", "--socket", socket)
		Expect(r).To(ContainSubstring("20.1.1.100"))
		info, err := os.Stat(socket)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
	})

	It("prove one mode with a table and exit 0", func() {
		r := s.proof("test", "--mode", "dsr")
		Expect(r).To(Succeeds(), r.String())
		Expect(r.Stdout).To(And(MatchRegexp(`RESULT +MODE +SERVICE +CHECK`), MatchRegexp(`(?m)^pass +dsr +1 `), ContainSubstring(" 0 failed")))
	})

	It("prove both modes as JSON and as JUnit, and put the mode back", func() {
		junit := filepath.Join(GinkgoT().TempDir(), "junit.xml")
		r := s.proof("test", "-o", "json", "--junit", junit)
		Expect(r).To(Succeeds(), r.String())
		var report probe.Report
		Expect(json.Unmarshal([]byte(r.Stdout), &report)).To(Succeed())
		Expect(failuresOf(report)).To(BeEmpty())
		Expect(report.Count(probe.Unverifiable)).To(BeZero(), r.Stdout)
		for _, mode := range []topology.Mode{topology.DSR, topology.SNAT} {
			Expect(report.Checks).To(ContainElement(HaveField("Mode", mode)))
		}
		var suites struct {
			Tests  int `xml:"tests,attr"`
			Suites []struct {
				Cases []struct{} `xml:"testcase"`
			} `xml:"testsuite"`
		}
		data, err := os.ReadFile(junit)
		Expect(err).NotTo(HaveOccurred())
		Expect(xml.Unmarshal(data, &suites)).To(Succeed())
		cases := 0
		for _, suite := range suites.Suites {
			cases += len(suite.Cases)
		}
		Expect([]int{suites.Tests, cases}).To(HaveEach(len(report.Checks)))
		Expect(s.status(t.Name).Services).To(HaveEach(HaveField("Mode", "dsr")))
	})
}

// connections lists the balancer's connections as JSON says them.
func connections(s *suite, args ...string) []api.Connection {
	GinkgoHelper()
	r := s.labctl(append([]string{"connections", "-o", "json"}, args...)...)
	Expect(r).To(Succeeds())
	var list []api.Connection
	Expect(json.Unmarshal([]byte(r.Stdout), &list)).To(Succeed(), r.Stdout)
	return list
}

// step is what a plan and an event have in common.
type step struct {
	ID     string
	Action plan.Action
	Reason string
}

// planned returns what a dry run would change.
func (s *suite) planned(file string, args ...string) []step {
	GinkgoHelper()
	r := s.labctl(append([]string{"up", file, "--dry-run", "-o", "json"}, args...)...)
	Expect(r).To(Succeeds(), r.String())
	var steps []plan.Step
	Expect(json.Unmarshal([]byte(r.Stdout), &steps)).To(Succeed(), r.Stdout)
	var changes []step
	for _, p := range plan.Changes(steps) {
		changes = append(changes, step{p.ID, p.Action, p.Reason})
	}
	return changes
}

// doneIn returns the steps that an up's events say were done; each began
// before, and the last event says that the lab is up.
func doneIn(events string) []step {
	GinkgoHelper()
	var done []step
	var began []string
	last := ""
	for line := range strings.Lines(events) {
		var e lab.Event
		Expect(json.Unmarshal([]byte(line), &e)).To(Succeed(), "one event a line: %q", line)
		last = e.Phase
		switch e.Phase {
		case "started":
			began = append(began, e.Step)
		case "done":
			Expect(slices.Contains(began, e.Step)).To(BeTrue(), "%s is done and never began", e.Step)
			done = append(done, step{e.Step, e.Action, e.Reason})
		}
	}
	Expect(last).To(Equal("up"))
	return done
}

// failuresOf returns the checks that failed, with what they saw.
func failuresOf(r probe.Report) []string {
	var failed []string
	for _, c := range r.Checks {
		if c.Status == probe.Fail {
			failed = append(failed, string(c.Mode)+": "+c.Name+": "+c.Seen)
		}
	}
	return failed
}
