package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab"
	"l4lab/lab/provider"
	"l4lab/lab/provider/netns"
	"l4lab/lab/state"
	"l4lab/topology"
)

// correct is a topology that up takes; each mistake is one replacement in it.
const correct = `name: LAB
switch: {type: internal, subnet: 20.1.1.0/24, mtu: 1500}
client: {name: client, address: 20.1.1.100}
nodes:
  lb:  {role: loadbalancer, os: windows, address: 20.1.1.1}
  be1: {role: backend, os: windows, address: 20.1.1.10}
  be3: {role: backend, os: linux, address: 20.1.1.30}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, protocol: tcp, mode: dsr, backends: [be1, be3]}
`

// mistakes are what a user can get wrong. Each has its exit code and a text
// that names what is wrong, and leaves everything as it was.
func (s *suite) mistakes() {
	var before []string
	BeforeEach(func() { before = s.leftovers("") })
	AfterEach(func() { Expect(s.leftovers("")).To(Equal(before), "nothing is left behind") })

	DescribeTable("in a topology file get exit code 2 and the place",
		func(replace, by string, texts ...string) {
			text := strings.Replace(strings.Replace(correct, replace, by, 1), "LAB", s.name("bad"), 1)
			file := filepath.Join(GinkgoT().TempDir(), "lab.yaml")
			Expect(os.WriteFile(file, []byte(text), 0o600)).To(Succeed())
			for i, t := range texts {
				texts[i] = strings.Replace(t, "FILE", file, 1)
			}
			for _, command := range [][]string{{"up", file}, {"up", "--dry-run", file}, {"topology", file}, {"demo", file}} {
				Expect(s.labctl(command...)).To(ExitsWith(2, texts...))
			}
		},
		Entry("an unknown key", "mtu: 1500", "mtuu: 1500", "FILE:2:", "switch.mtuu", `did you mean "mtu"`),
		Entry("a key that stands twice", "  be3: {", "  be1: {", "FILE:7:", "duplicate key", "line 6"),
		Entry("an address that two nodes have", "20.1.1.30", "20.1.1.10", "FILE:7:", "nodes.be3.address", "is the address of", "be1"),
		Entry("the client's address on a node", "20.1.1.30", "20.1.1.100", "FILE:7:", "nodes.be3.address", "client"),
		Entry("a backend outside the subnet", "20.1.1.30", "20.1.2.30", "FILE:7:", "nodes.be3.address", "not in the subnet 20.1.1.0/24"),
		Entry("the subnet's broadcast address", "20.1.1.30", "20.1.1.255", "FILE:7:", "broadcast"),
		Entry("a VIP that is a node's address", "vip: 40.1.1.1", "vip: 20.1.1.10", "FILE:9:", "services[0].vip", "be1"),
		Entry("a VIP inside the subnet", "vip: 40.1.1.1", "vip: 20.1.1.77", "FILE:9:", "services[0].vip", "subnet"),
		Entry("an unknown node behind a service", "[be1, be3]", "[be1, be4]", "FILE:9:", "services[0].backends[1]", `unknown node "be4"`),
		Entry("the balancer behind a service", "[be1, be3]", "[be1, lb]", "FILE:9:", "services[0].backends[1]", "load balancer"),
		Entry("a service without backends", "[be1, be3]", "[]", "FILE:9:", "services[0].backends", "at least one"),
		Entry("port 0", "port: 80", "port: 0", "FILE:9:", "services[0].port", "1 and 65535"),
		Entry("a port that is too large", "port: 80", "port: 65536", "FILE:9:", "services[0].port"),
		Entry("a port that is a word", "port: 80", "port: http", "FILE:9:", "services[0].port"),
		Entry("a lab name with capitals", "name: LAB", "name: Lab", "FILE:1:", "name", "DNS label"),
		Entry("a lab name with a hyphen", "name: LAB", "name: my-lab", "FILE:1:", "hyphen"),
		Entry("a lab name that is a path", "name: LAB", "name: ../lab", "FILE:1:", "name", "DNS label"),
		Entry("a node name that is no DNS label", "  be3: {", "  be_3: {", "FILE:7:", "nodes.be_3", "DNS label"),
		Entry("a node name of 16 characters", "  be3: {", "  backend000000003: {", "FILE:7:", "15"),
		Entry("a node named like the bridge", "  be3: {", "  br0: {", "FILE:7:", "reserved"),
		Entry("a second balancer", "role: backend, os: linux", "role: loadbalancer, os: linux", "FILE:7:", "second load balancer"),
		Entry("an unknown operating system", "os: linux", "os: beos", "FILE:7:", "nodes.be3.os", "linux, windows"),
		Entry("an unknown mode", "mode: dsr", "mode: nat", "FILE:9:", "services[0].mode", "dsr, snat"),
		Entry("an MTU below IPv4's least", "mtu: 1500", "mtu: 100", "FILE:2:", "switch.mtu", "576"),
		Entry("text that is no YAML", "nodes:\n", "nodes: [\n", "FILE:"),
	)

	It("are reported all at once", func() {
		text := strings.NewReplacer("20.1.1.30", "20.1.2.30", "port: 80", "port: 0", "[be1, be3]", "[be1, be4]").Replace(correct)
		r := s.labctlWith(strings.Replace(text, "LAB", s.name("bad"), 1), nil, "up", "-")
		Expect(r).To(ExitsWith(2, "stdin:7:", "stdin:9:", "services[0].port", "services[0].backends[1]"))
	})

	DescribeTable("in the choice of a file get exit code 2 and the file's name",
		func(content func(path string) error, text string) {
			file := filepath.Join(GinkgoT().TempDir(), "lab.yaml")
			Expect(content(file)).To(Succeed())
			Expect(s.labctl("up", file)).To(ExitsWith(2, file, text))
		},
		Entry("a missing one", func(string) error { return nil }, "no such file"),
		Entry("an empty one", contentOf(nil), "is empty (0 bytes)"),
		Entry("a binary one", contentOf([]byte("\x7fELF\x02\x01\x01\x00\x00")), "is no text"),
		Entry("a huge one", contentOf([]byte(strings.Repeat("# nothing\n", 1<<20))), "is larger than 1024 KiB"),
		Entry("a folder", func(path string) error { return os.Mkdir(path, 0o700) }, "is a directory"),
	)

	DescribeTable("on the command line get exit code 2",
		func(text string, args ...string) { Expect(s.labctl(args...)).To(ExitsWith(2, text)) },
		Entry("an unknown command", `unknown command "upp"`, "upp"),
		Entry("an unknown flag", "unknown flag: --fast", "up", "--fast"),
		Entry("an unknown mode of up", `"nat" for "--mode" flag: expected one of dsr, snat`, "up", "--mode", "nat"),
		Entry("an unknown mode to switch to", `"nat"`, "mode", "nat"),
		Entry("an unknown mode to test", `"both" for "--mode" flag: expected one of all, dsr, snat`, "test", "--mode", "both"),
		Entry("an unknown output", `"xml" for "-o, --output" flag: expected one of text, json`, "status", "-o", "xml"),
		Entry("a name that is a path", "DNS label", "down", "--name", "../../etc"),
		Entry("a machine to be made anew that the lab does not have", `--fresh-node be9: lab`, "up", "--fresh-node", "be9", "--dry-run"),
		Entry("a missing argument", "arg", "logs"),
		Entry("two files", "arg", "up", "a.yaml", "b.yaml"),
	)

	It("such as an unknown provider are named with what there is", func() {
		Expect(s.labctl("up", "--name", s.name("bad"), "--provider", "hyperx")).To(ExitsWith(2, "unknown provider", `"hyperx"`, "netns"))
	})

	It("such as an MTU beyond native XDP's limit get the limit and exit code 2", func() {
		text := strings.NewReplacer("LAB", s.name("bad"), "mtu: 1500", "mtu: 9000").Replace(correct)
		Expect(s.labctlWith(text, nil, "up", "-")).To(ExitsWith(2, "switch.mtu", "9000", "3506"))
	})

	DescribeTable("about a lab that is not there get exit code 1 and the way to bring it up",
		func(args ...string) {
			name := s.name("none")
			Expect(s.labctl(append([]string{args[0], "--name", name}, args[1:]...)...)).To(ExitsWith(1, name, "labctl up"))
		},
		Entry("status", "status"), Entry("exec", "exec", "client", "--", "true"), Entry("logs", "logs", "lb"),
		Entry("mode", "mode", "snat"), Entry("connections", "connections"), Entry("test", "test"),
	)

	It("such as not being root get exit code 3 and the remedy", func() {
		s.needs(namespaces)
		// What a user's labctl could write must not be what stops it.
		bin, home := GinkgoT().TempDir(), GinkgoT().TempDir()
		Expect(os.Chmod(bin, 0o755)).To(Succeed())
		Expect(os.Chown(home, nobody, nobody)).To(Succeed())
		for _, name := range []string{"labctl", "lbagent"} {
			data, err := os.ReadFile(filepath.Join(s.bin, name))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(filepath.Join(bin, name), data, 0o755)).To(Succeed())
		}
		user := &suite{bin: bin, state: filepath.Join(home, "s"), tag: s.tag}
		asNobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		Expect(user.labctlWith("", asNobody, "up", "--name", s.name("user"))).To(ExitsWith(3, "root", "sudo"))
		Expect(user.labctlWith("", asNobody, "doctor")).To(SatisfyAll(ExitsWith(3), HaveField("Stdout", ContainSubstring("sudo"))))
		Expect(user.leftovers("")).To(BeEmpty())
	})

	It("such as a kernel without BPF get exit code 3 and what is missing", func() {
		s.needs(namespaces)
		cmd := s.command(context.Background(), "up", "--name", s.name("old"))
		Expect(run(s.withoutBPF(cmd))).To(ExitsWith(3, "XDP", "CONFIG_BPF_SYSCALL"))
	})

	It("such as a kernel without XDP are told apart by the probe that failed", func() {
		driver := netns.New()
		driver.Provider = withoutXDP{driver.Provider}
		l := lab.Open(s.name("old"), lab.Options{
			Store: state.NewStore(s.state), Drivers: []provider.Driver{driver}, Programs: lab.Programs{topology.Linux: filepath.Join(s.bin, "lbagent")},
		})
		_, err := l.Up(context.Background(), demo(s.name("old")), lab.UpOptions{})
		var missing *provider.MissingError
		Expect(err).To(BeAssignableToTypeOf(missing))
		Expect(err).To(MatchError(And(ContainSubstring("XDP"), ContainSubstring("a newer kernel"), Not(ContainSubstring("veth")))))
	})

	It("such as a state folder whose path is too long for marks are explained", func() {
		s.needs(namespaces)
		deep := &suite{bin: s.bin, tag: s.tag, state: filepath.Join(GinkgoT().TempDir(), strings.Repeat("d", 250))}
		Expect(deep.labctl("up", "--name", s.name("deep"))).To(ExitsWith(1, "too long", "LABCTL_STATE_DIR"))
		Expect(deep.leftovers("")).To(BeEmpty())
	})

	It("such as a missing lbagent are explained", func() {
		s.needs(namespaces)
		r := s.labctl("up", "--name", s.name("noagent"), "--agent", "/no/such/lbagent")
		Expect(r).To(ExitsWith(1, "/no/such/lbagent", "make build"))
	})
}

// nobody is an unprivileged user by convention (Linux Standard Base).
const nobody = 65534

func contentOf(data []byte) func(path string) error {
	return func(path string) error { return os.WriteFile(path, data, 0o600) }
}

// withoutXDP is a provider on a kernel that has all but XDP.
type withoutXDP struct{ provider.Provider }

func (w withoutXDP) Check(ctx context.Context, pl provider.Lab) []provider.Requirement {
	requirements := w.Provider.Check(ctx, pl)
	for i, r := range requirements {
		if r.Name == "XDP" {
			requirements[i].OK, requirements[i].Found, requirements[i].Remedy = false, "not supported", "use a newer kernel"
		}
	}
	return requirements
}

func (w withoutXDP) String() string { return fmt.Sprintf("%v without XDP", w.Provider) }
