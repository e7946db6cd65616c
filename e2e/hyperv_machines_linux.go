package e2e

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/topology"
)

// hypervMachines is a lab on a simulated Hyper-V host whose Linux node is a virtual
// machine: it boots from the disk and the seed that labctl makes for Hyper-V.
func (s *suite) hypervMachines() {
	var t topology.Topology
	BeforeAll(func() {
		s.needs(machines)
		s.imagesApart()
		t = demo(s.name("hq"), "be3")
		began := time.Now()
		s.up(t, "--provider", hypervSim, "--guests", "qemu")
		AddReportEntry("from nothing to a lab", time.Since(began).String())
	})
	up := func(args ...string) result {
		GinkgoHelper()
		return s.labctl(append([]string{"up", s.file(t), "--provider", hypervSim}, args...)...)
	}
	guest := func() int {
		GinkgoHelper()
		return s.machineProcess(t.Name, t.Name+"-be3")
	}

	It("comes up healthy, with a kernel that is not this machine's", func() {
		s.expectHealthy(t.Name)
		Expect(guest()).NotTo(BeZero())
		Expect(node(s.status(t.Name), "be3").Machine).To(MatchRegexp(`Linux \d+\.\d+.*-cloud-amd64`))
		said := s.exec(t.Name, "be3", "sh", "-c", "hostname; cat /sys/class/dmi/id/sys_vendor; ls /sys/firmware/efi/fw_platform_size; cat /proc/mounts")
		Expect(said).To(And(HavePrefix("be3\nQEMU\n/sys/firmware/efi/"), ContainSubstring("/dev/sda2 / ext4 ")))
	})

	It("carries both paths, as captured packets prove", func() {
		r := s.proof("test", "--name", t.Name, "--mode", "all")
		Expect(r).To(Succeeds(), r.String())
	})

	It("has its guest shut down in order, and come up with another seed", func() {
		boot := s.exec(t.Name, "be3", "cat", "/proc/sys/kernel/random/boot_id")
		t.Switch.MTU = 1400
		Expect(up()).To(Succeeds())
		s.expectHealthy(t.Name)
		Expect(s.exec(t.Name, "be3", "cat", "/proc/sys/kernel/random/boot_id")).NotTo(Equal(boot))
		Expect(s.exec(t.Name, "be3", "cat", "/sys/class/net/eth0/mtu")).To(Equal("1400\n"))
		Expect(s.exec(t.Name, "be3", "dmesg")).NotTo(ContainSubstring("(sda2): recovery complete"), "its file system was closed")
	})

	It("has up mend a lab whose host lost its power, and ends the machine that was left", func() {
		was := guest()
		s.killHost(t.Name)
		Expect(guest()).To(Equal(was), "QEMU goes on by itself")
		Expect(up()).To(Succeeds())
		s.expectHealthy(t.Name)
		Expect(guest()).NotTo(BeElementOf(0, was))
		// An emulated guest on a busy computer takes its time to answer the balancer's ARP.
		Eventually(func() int {
			return s.labctl("exec", "--name", t.Name, "client", "--", "curl", "-sf", "-m", "2", "http://40.1.1.1/whoami").Code
		}).WithTimeout(bootPatience).Should(BeZero())
		Expect(s.proof("test", "--name", t.Name)).To(Succeeds())
	})

	It("keeps the guests that it was made with", func() {
		r := up("--guests", "netns")
		Expect(r.Code).NotTo(BeZero())
		Expect(r.String()).To(ContainSubstring("has guests qemu: take the lab down"))
		Expect(strings.TrimSpace(s.exec(t.Name, "be3", "hostname"))).To(Equal("be3"))
	})
}
