package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"l4lab/lab/provider/fabric"
	"l4lab/topology"
)

// hypervSim is the provider of a simulated Hyper-V host: everything of the
// Hyper-V provider runs for real, over WinRM and SSH, but Windows and Hyper-V.
const hypervSim = "hyperv-sim"

// hyperv is the lab on a simulated Hyper-V host.
func (s *suite) hyperv() {
	var name string
	var demo topology.Topology

	BeforeAll(func() {
		s.needs(root)
		demo = topology.Default()
		demo.Name = s.name("hv")
		name = demo.Name
		s.up(demo, "--provider", hypervSim)
	})

	It("comes up healthy, and says that it is simulated", func() {
		r := s.labctl("status", "--name", name)
		Expect(r).To(Succeeds(), r.String())
		Expect(r.Stdout).To(ContainSubstring("SIMULATED"))
		st := s.status(name)
		Expect(st.Simulated).To(BeTrue())
		Expect(st.Nodes).To(HaveLen(6))
	})

	It("has nothing to do when it is up already", func() {
		r := s.labctl("up", s.file(demo), "--provider", hypervSim)
		Expect(r).To(Succeeds(), r.String())
		Expect(r.Stdout).To(ContainSubstring("nothing to change"))
	})

	It("runs commands in Linux and Windows guests, with their exit codes", func() {
		Expect(s.exec(name, "be3", "hostname")).To(Equal("be3\n"))
		Expect(s.exec(name, "be1", "lbagent", "version")).To(ContainSubstring("lbagent"))
		Expect(s.labctl("exec", "--name", name, "be3", "--", "sh", "-c", "exit 7")).To(ExitsWith(7))
	})

	It("prints what the daemons wrote, on both systems", func() {
		for node, want := range map[string]string{"lb": "20.1.1.1", "be1": "80", "be3": "80"} {
			r := s.labctl("logs", "--name", name, node)
			Expect(r).To(Succeeds(), r.String())
			Expect(r.Stdout).To(ContainSubstring(want))
		}
	})

	It("proves both paths with captured packets", func() {
		r := s.proof("test", "--name", name, "--mode", "all")
		Expect(r).To(Succeeds(), r.String())
	})

	It("switches the mode live and shows the connections", func() {
		Expect(s.labctl("mode", "--name", name, "snat")).To(Succeeds())
		Expect(s.status(name).Services[0].Mode).To(Equal("snat"))
		Expect(s.exec(name, "client", "curl", "-s", "http://40.1.1.1/whoami")).To(ContainSubstring("be"))
		r := s.labctl("connections", "--name", name)
		Expect(r).To(Succeeds(), r.String())
		Expect(r.Stdout).To(ContainSubstring("20.1.1.100"))
		Expect(s.labctl("mode", "--name", name, "dsr")).To(Succeeds())
		Expect(s.status(name).Services[0].Mode).To(Equal("dsr"))
	})

	It("converges to a changed topology, and back", func() {
		less := topology.Default()
		less.Name = name
		delete(less.Nodes, "be4")
		less.Services[0].Backends = []string{"be1", "be2", "be3"}
		for _, t := range []topology.Topology{less, demo} {
			r := s.labctl("up", s.file(t), "--provider", hypervSim)
			Expect(r).To(Succeeds(), r.String())
			s.expectHealthy(name)
			Expect(s.labctl("up", s.file(t)).Stdout).To(ContainSubstring("nothing to change"))
		}
	})

	It("has up mend a machine that lost its power", func() {
		init := s.firstProcess(name, "be3")
		Expect(unix.Kill(init, unix.SIGKILL)).To(Succeed())
		Eventually(func() int { return s.labctl("status", "--name", name).Code }).WithTimeout(patience).Should(Equal(1))
		Expect(node(s.status(name), "be3").Healthy).To(BeFalse())
		s.upAgain(demo)
		Expect(s.firstProcess(name, "be3")).NotTo(Equal(init))
	})

	It("has up mend a lab whose host lost its power", func() {
		s.killHost(name)
		s.upAgain(demo)
		Expect(s.proof("test", "--name", name)).To(Succeeds())
	})

	It("keeps no password but where it belongs", func() {
		keepers := []string{s.hostFile(name, "host", "password"), filepath.Join(s.state, name, "keys", "windows-password")}
		secrets := make([]string, len(keepers))
		for i, keeper := range keepers {
			st, err := os.Stat(keeper)
			Expect(err).NotTo(HaveOccurred())
			Expect(st.Mode().Perm()).To(Equal(os.FileMode(0o600)), keeper)
			text, err := os.ReadFile(keeper)
			Expect(err).NotTo(HaveOccurred())
			secrets[i] = strings.TrimSpace(string(text))
			Expect(len(secrets[i])).To(BeNumerically(">", 20), keeper)
		}
		By("looking at what commands say, those that fail too")
		for _, args := range [][]string{
			{"up", s.file(demo), "-o", "json"}, {"status", "--name", name, "-o", "json"},
			{"exec", "--name", name, "be1", "--", "no-such-program"}, {"exec", "--name", name, "client", "--", "no-such-program"},
			{"logs", "--name", name, "nobody"}, {"doctor", "--provider", hypervSim},
		} {
			Expect(secretsIn(s.labctl(args...).String(), secrets)).To(BeEmpty(), strings.Join(args, " "))
		}
		By("looking at files, and at processes' arguments and environments")
		Expect(s.filesWith(name, secrets)).To(ConsistOf(keepers))
		Expect(processesWith(secrets)).To(BeEmpty())
	})
}

// hypervFaults is what goes wrong with a host or its guests: up gets by or fails
// with the right words, and nothing is left in either case.
func (s *suite) hypervFaults() {
	small := func(lab string) topology.Topology {
		t := topology.Default()
		t.Name = lab
		t.Nodes = map[string]topology.Node{"lb": t.Nodes["lb"], "be3": t.Nodes["be3"]}
		t.Services[0].Backends = []string{"be3"}
		return t
	}
	arguments := func(lab string, faults ...string) []string {
		args := []string{"up", s.file(small(lab)), "--provider", hypervSim}
		for _, f := range faults {
			args = append(args, "--sim-fault", f)
		}
		return args
	}
	BeforeEach(func() { s.needs(root) })

	It("gets by what happens once", func() {
		lab := s.name("hf")
		s.takenDown(lab)
		// All within the host's first steps, which a request may have to wait for.
		once := []string{"reset@8", "reset-after@20", "500@40", "truncate@60", "auth-lost@80", "slow@100=1s", "shell-lost@120"}
		r := s.labctl(arguments(lab, once...)...)
		Expect(r).To(Succeeds(), r.String())
		log, err := os.ReadFile(s.hostFile(lab, "log"))
		Expect(err).NotTo(HaveOccurred())
		for _, fault := range once {
			Expect(string(log)).To(MatchRegexp("fault=\"?%s\"? ", fault), "it came to pass")
		}
		s.expectHealthy(lab)
	})

	It("says which machine did not come up, and undoes all", func() {
		waiting := map[string]*running{}
		words := map[string][]string{
			"never-boots=be3": {"be3 (20.1.1.30)", "heartbeat is \"NoContact\"", "vmconnect localhost"},
			"reboot-hangs=lb": {"lb (20.1.1.1)", "has restarted and answers PowerShell Direct again", "time is over"},
		}
		labs := map[string]string{"never-boots=be3": s.name("hfn"), "reboot-hangs=lb": s.name("hfr")}
		for fault, lab := range labs { // side by side: both wait for half a minute
			s.takenDown(lab)
			waiting[fault] = s.start(append(arguments(lab, fault), "-o", "json")...)
		}
		for fault, up := range waiting {
			Expect(up.wait()).To(Equal(1), fault)
			for _, text := range words[fault] {
				Expect(up.stderr.String()).To(ContainSubstring(text), fault)
			}
			Expect(s.leftovers(labs[fault])).To(BeEmpty(), fault)
		}
	})

	It("says that the host's disk is full, and undoes all", func() {
		lab := s.name("hfd")
		s.takenDown(lab)
		r := s.labctl(arguments(lab, "disk-full=0")...)
		Expect(r).To(ExitsWith(1, "There is not enough space on the disk", "l4lab.mark"), r.String())
		Expect(s.leftovers(lab)).To(BeEmpty())
	})

	for fault, words := range map[string]string{
		"auth-lost@9x100000": "credentials were refused",
	} {
		It("says what the host answers from some moment on, and has down clean once it is well: "+fault, func() {
			lab := s.name("hfw")
			s.takenDown(lab)
			r := s.labctl(arguments(lab, fault)...)
			Expect(r).To(ExitsWith(1, words, "labctl down --name "+lab), r.String())
			secret, err := os.ReadFile(s.hostFile(lab, "host", "password"))
			Expect(err).NotTo(HaveOccurred())
			Expect(secretsIn(r.String(), []string{strings.TrimSpace(string(secret))})).To(BeEmpty())
			Expect(s.labctl("down", "--name", lab)).To(ExitsWith(3, words))
			s.killHost(lab) // the next one has no faults
			s.down(lab)
		})
	}

	It("has down clean after kill -9 of labctl, and of the host, too", func() {
		lab := s.name("hfk")
		s.takenDown(lab)
		for _, n := range []int{3, 9} {
			By(fmt.Sprintf("after %d events", n))
			up := s.start(append(arguments(lab), "-o", "json")...)
			Expect(up.after(n)).To(BeTrue())
			// Machines are made and there is no end yet.
			Eventually(func() []string { return s.simulatedNamespaces(lab) }).WithTimeout(patience).ShouldNot(BeEmpty())
			up.signal(syscall.SIGKILL)
			Expect(up.wait()).To(Equal(-1))
			if n > 3 {
				s.killHost(lab)
			}
			s.down(lab)
		}
	})
}

// patience is for what a busy machine takes its time with.
const patience = 30 * time.Second

// upAgain has up mend a lab.
func (s *suite) upAgain(t topology.Topology) {
	GinkgoHelper()
	r := s.labctl("up", s.file(t))
	Expect(r).To(Succeeds(), r.String())
	s.expectHealthy(t.Name)
}

// hostFile is a path in the folder of a lab's simulated host.
func (s *suite) hostFile(lab string, parts ...string) string {
	return filepath.Join(append([]string{s.state, lab, "hvsim"}, parts...)...)
}

// killHost ends a lab's simulated host as a power failure would.
func (s *suite) killHost(lab string) {
	GinkgoHelper()
	data, err := os.ReadFile(s.hostFile(lab, "daemon.json"))
	Expect(err).NotTo(HaveOccurred())
	var daemon struct{ PID int }
	Expect(json.Unmarshal(data, &daemon)).To(Succeed())
	Expect(fabric.Environment(daemon.PID, "LABCTL_HVSIM")).To(Equal(s.hostFile(lab)), "whose process it is")
	Expect(unix.Kill(daemon.PID, unix.SIGKILL)).To(Succeed())
	Eventually(func() string { return fabric.ProgramOf(daemon.PID) }).Should(BeEmpty())
}

// firstProcess returns the pid of a simulated machine's first process.
func (s *suite) firstProcess(lab, node string) int {
	GinkgoHelper()
	for _, path := range s.simulatedNamespaces(lab) {
		if !strings.Contains(path, "-"+lab+"-"+node+"-") {
			continue
		}
		out, err := s.ip("netns", "pids", filepath.Base(path)).Output()
		Expect(err).NotTo(HaveOccurred())
		for _, text := range strings.Fields(string(out)) {
			line, _ := os.ReadFile(filepath.Join("/proc", text, "cmdline"))
			if pid, err := strconv.Atoi(text); err == nil && strings.HasSuffix(string(line), "\x00hvsim-guest\x00init\x00") {
				return pid
			}
		}
	}
	Fail(fmt.Sprintf("%s of lab %s has no first process", node, lab))
	return 0
}

// secretsIn returns those of some secrets that a text holds, as it is or as
// PowerShell and JSON carry texts: UTF-16, and base64 of both.
func secretsIn(text string, secrets []string) []string {
	return slices.DeleteFunc(slices.Clone(secrets), func(secret string) bool {
		wide := string(bytes.Join(bytes.Split([]byte(secret), nil), []byte{0}))
		for _, form := range []string{secret, wide} {
			for shift := range 3 { // of base64's groups of three bytes
				encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("?", shift) + form))
				if strings.Contains(text, form) || strings.Contains(text, encoded[4:len(encoded)-4]) {
					return false
				}
			}
		}
		return true
	})
}

// filesWith returns a lab's files that hold one of some secrets.
func (s *suite) filesWith(lab string, secrets []string) []string {
	GinkgoHelper()
	var found []string
	Expect(filepath.WalkDir(filepath.Join(s.state, lab), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && len(secretsIn(string(data), secrets)) > 0 {
			found = append(found, path)
		}
		return err
	})).To(Succeed())
	return found
}

// processesWith returns the processes whose arguments or environment hold one of
// some secrets.
func processesWith(secrets []string) []string {
	var found []string
	for _, what := range []string{"cmdline", "environ"} {
		paths, _ := filepath.Glob(filepath.Join("/proc/[0-9]*", what))
		for _, path := range paths {
			if data, err := os.ReadFile(path); err == nil && len(secretsIn(string(data), secrets)) > 0 {
				found = append(found, path)
			}
		}
	}
	return found
}
