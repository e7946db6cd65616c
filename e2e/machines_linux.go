package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/provider/qemu/image"
	"l4lab/topology"
)

const (
	// buildLimit bounds building the image, where it is not there.
	buildLimit = 15 * time.Minute
	// bootPatience is how long an emulated machine may take to boot, or to be set up, beside
	// others.
	bootPatience = 3 * time.Minute
	// clockSlack is how far a guest's clock may be off: a command in an emulated guest takes
	// a moment.
	clockSlack = 2 * time.Second
)

// virtualMachines is about one lab of five machines that boot, and small ones beside it.
func (s *suite) virtualMachines() {
	t := topology.Default()
	BeforeAll(func() {
		s.needs(machines)
		s.imagesApart()
		t.Name = s.name("vm")
	})

	It("are refused before anything starts where this machine's memory is too small for them", func() {
		greedy := demo(s.name("vmg"))
		block := topology.FilledQEMU(nil)
		block.MemoryMB = 65536
		greedy.Providers.QEMU = &block
		s.takenDown(greedy.Name)
		r := s.labctl("up", s.file(greedy))
		Expect(r).To(ExitsWith(3, "memory", "5 machines of 65536 MB", "providers.qemu.memoryMB"), r.String())
		Expect(s.leftovers(greedy.Name)).To(BeEmpty())
	})

	Describe("of one lab", func() { s.machinesOfOneLab(&t) })
	Describe("of small labs", Label("faults"), s.machinesOfSmallLabs)
}

// machinesOfOneLab is what a lab does while its machines are well; they are made from nothing.
func (s *suite) machinesOfOneLab(t *topology.Topology) {
	BeforeAll(func() {
		began := time.Now()
		s.up(*t, "--fresh")
		AddReportEntry("from nothing to a lab", time.Since(began).String())
	})

	It("come up from nothing, healthy, each with a kernel of its own", func() {
		s.expectHealthy(t.Name)
		st := s.status(t.Name)
		for _, name := range t.NodeNames() {
			Expect(node(st, name).Machine).To(MatchRegexp(`^(kvm|tcg \(emulated\)), Linux \d+\.\d+`), name)
			Expect(s.machineProcess(t.Name, name)).NotTo(BeZero(), name)
		}
		Expect(node(st, "be1").Emulated).To(BeTrue(), "Linux stands in for Windows")
	})

	It("carry both paths, as captured packets prove", func() {
		r := s.proof("test", "--name", t.Name, "--mode", "all")
		Expect(r).To(Succeeds(), r.String())
	})

	It("run commands, show logs and consoles, switch modes and list connections", func() {
		Expect(s.exec(t.Name, "be3", "hostname")).To(Equal("be3\n"))
		Expect(s.labctl("exec", "--name", t.Name, "be1", "--", "sh", "-c", "exit 7")).To(ExitsWith(7))
		logs := s.labctl("logs", "--name", t.Name, "be3")
		Expect(logs).To(Succeeds(), logs.String())
		Expect(logs.Stdout).To(ContainSubstring("==> console <=="))
		Expect(logs.Stdout).To(ContainSubstring("listening"), "the page's words")
		for _, mode := range []string{"snat", "dsr"} {
			Expect(s.labctl("mode", "--name", t.Name, mode)).To(Succeeds())
			Expect(s.exec(t.Name, "client", "curl", "-s", "http://40.1.1.1/whoami")).To(ContainSubstring("be"))
			Expect(connections(s, "--name", t.Name)).To(ContainElement(HaveField("Mode", mode)))
		}
	})

	It("go on together from a snapshot, with their clocks right", func() { s.snapshots(*t) })
	It("have connections to the others go on while one reboots, which comes back by itself", Label("churn"), func() { s.reboots(*t) })
	s.brokenMachines(t)

	It("leave nothing when their lab goes down", func() {
		began := time.Now()
		s.down(t.Name)
		AddReportEntry("down", time.Since(began).String())
	})
}

// snapshots has all nodes of a lab change and go back to what they were.
func (s *suite) snapshots(t topology.Topology) {
	GinkgoHelper()
	snapshot := func(args ...string) string {
		r := s.labctl(append([]string{"snapshot", "--name", t.Name}, args...)...)
		ExpectWithOffset(1, r).To(Succeeds(), r.String())
		return r.Stdout
	}
	boots := map[string]string{}
	for _, name := range t.NodeNames() {
		boots[name] = s.exec(t.Name, name, "cat", "/proc/sys/kernel/random/boot_id")
	}
	snapshot("save", "before")
	Expect(s.labctl("snapshot", "--name", t.Name, "save", "before")).To(ExitsWith(1, "before"), "the name is taken")
	Expect(snapshot("list")).To(ContainSubstring("before"))
	for _, name := range t.NodeNames() {
		s.exec(t.Name, name, "sh", "-c", "echo changed >/root/changed && hostname changed")
	}
	Expect(s.labctl("mode", "--name", t.Name, "snat")).To(Succeeds())

	snapshot("restore", "before")
	for _, name := range t.NodeNames() {
		asked := time.Now()
		said := strings.Fields(s.exec(t.Name, name, "sh", "-c", "date +%s; hostname; ls /root/changed 2>/dev/null; cat /proc/sys/kernel/random/boot_id"))
		Expect(said).To(HaveLen(3), "%s: a clock, a name, no file, a boot", name)
		seconds, err := strconv.ParseInt(said[0], 10, 64)
		Expect(err).NotTo(HaveOccurred())
		Expect(time.Unix(seconds, 0)).To(And(
			BeTemporally(">=", asked.Add(-clockSlack)), BeTemporally("<=", time.Now().Add(clockSlack))), "the clock of %s", name)
		Expect(said[1]).To(Equal(name))
		Expect(said[2]).To(Equal(strings.TrimSpace(boots[name])), "%s went on and did not boot", name)
	}
	s.expectHealthy(t.Name)
	talk(s.open(t.Name), vip()).close()
	snapshot("rm", "before")
	Expect(snapshot("list")).NotTo(ContainSubstring("before"))
}

// imagesApart gives the suite's labs a store of their own, until the chapter ends: its
// image is made of links to the user's, which is built when it is not there. What is
// imported, and the set-ups that are kept, go with it.
func (s *suite) imagesApart() {
	GinkgoHelper()
	r := s.labctlFor(buildLimit, "", nil, "image", "build", image.Debian().Name, "-o", "json")
	Expect(r).To(Succeeds(), r.String())
	var users image.Image
	Expect(json.Unmarshal([]byte(r.Stdout), &users)).To(Succeed(), r.Stdout)
	from := filepath.Dir(users.Disk)
	to := filepath.Join(s.storeRoot(), "images", users.ID)
	Expect(os.MkdirAll(to, 0o755)).To(Succeed())
	DeferCleanup(func() { Expect(os.RemoveAll(s.storeRoot())).To(Succeed()) })
	entries, err := os.ReadDir(from)
	Expect(err).NotTo(HaveOccurred())
	for _, e := range entries {
		if !e.IsDir() {
			Expect(os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))).To(Succeed())
		}
	}
	was, set := os.LookupEnv(image.EnvDir)
	Expect(os.Setenv(image.EnvDir, filepath.Dir(to))).To(Succeed())
	DeferCleanup(func() {
		if !set {
			Expect(os.Unsetenv(image.EnvDir)).To(Succeed())
			return
		}
		Expect(os.Setenv(image.EnvDir, was)).To(Succeed())
	})
}

// storeRoot is the folder of the suite's images and kept set-ups.
func (s *suite) storeRoot() string { return s.state + "-qemu" }

// setUps are the kept set-ups, those too that are being written.
func (s *suite) setUps() (kept, unfinished []string) {
	entries, _ := os.ReadDir(filepath.Join(s.storeRoot(), "images", ".setups"))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			unfinished = append(unfinished, e.Name())
		} else {
			kept = append(kept, e.Name())
		}
	}
	return kept, unfinished
}

// machineProcess is the pid of the QEMU that runs a machine, 0 where none does.
func (s *suite) machineProcess(lab, node string) int {
	for _, pid := range s.pids(lab) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if program, arguments, _ := strings.Cut(string(line), "\x00"); strings.Contains(program, "qemu-system") &&
			strings.Contains(arguments, "guest="+node+"\x00") {
			return pid
		}
	}
	return 0
}

// emptyDisk imports an image from a disk of zeros, but for a boot sector that halts the
// processor, and returns its name.
func (s *suite) emptyDisk() string {
	GinkgoHelper()
	file := filepath.Join(GinkgoT().TempDir(), "empty.raw")
	sector := make([]byte, 512)
	copy(sector, []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp to hlt
	copy(sector[510:], []byte{0x55, 0xaa})
	Expect(os.WriteFile(file, sector, 0o600)).To(Succeed())
	Expect(os.Truncate(file, 64<<20)).To(Succeed())
	name := s.name("empty")
	r := s.labctl("image", "import", file, "--name", name)
	Expect(r).To(Succeeds(), r.String())
	return name
}
