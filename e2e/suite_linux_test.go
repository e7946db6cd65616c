package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/term"
)

func TestLabctl(t *testing.T) {
	needRoot(t)
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(10 * time.Second)
	SetDefaultEventuallyPollingInterval(5 * time.Millisecond)
	s := &suite{}
	SynchronizedBeforeSuite(
		func() []byte { return []byte(binaries(GinkgoT())) },
		func(bin []byte) { s.prepare(string(bin)) },
	)
	Describe("labctl", func() {
		JustAfterEach(s.attachEvidence)
		Describe("commands", s.commands)
		Describe("mistakes", s.mistakes)
		Describe("owning", s.owning)
		Describe("converging", s.converging)
		Describe("repairing", s.repairing)
		Describe("interrupting", s.interrupting)
		Describe("forwarding", s.forwarding)
		Describe("a simulated Hyper-V host", Ordered, ContinueOnFailure, s.hyperv)
		Describe("a Hyper-V host that fails", Ordered, ContinueOnFailure, s.hypervFaults)
		Describe("balancing", Ordered, ContinueOnFailure, s.balancing)
		Describe("a seeded fault", Ordered, ContinueOnFailure, s.faults)
	})
	AfterSuite(func() {
		By("leaving no namespace, process, mount or folder of any lab behind")
		if s.state != "" {
			Expect(s.leftovers("")).To(BeEmpty())
		}
	})
	config, reporter := GinkgoConfiguration()
	reporter.NoColor = reporter.NoColor || !term.IsTerminal(int(os.Stdout.Fd()))
	RunSpecs(t, "labctl on network namespaces", config, reporter)
}

// suite is what all specs of one process share: labctl as a user has it, with
// a state folder and a tag that makes lab names its own.
type suite struct {
	bin, state, tag string
}

func (s *suite) prepare(bin string) {
	s.bin = bin
	s.state = filepath.Join(shortTemp(GinkgoT()), "s")
	s.tag = strings.ToLower(rand.Text()[:4])
}

// name returns a lab's name: at most 8 characters of the caller's choice.
func (s *suite) name(suffix string) string { return "e2e" + s.tag + suffix }

// attachEvidence adds what is known of every lab that is up to a failed spec.
func (s *suite) attachEvidence() {
	if !CurrentSpecReport().Failed() {
		return
	}
	for _, lab := range s.labs() {
		AddReportEntry("status of "+lab, s.labctl("status", "--name", lab).String())
		files, _ := filepath.Glob(filepath.Join(s.state, lab, "nodes", "*", "*.log"))
		files = append(files, filepath.Join(s.state, lab, "state.json"))
		for _, f := range files {
			AddReportEntry(f, lastOf(f, 2000))
		}
	}
}

// labs returns the names of the labs in the state folder.
func (s *suite) labs() []string {
	dirs, _ := filepath.Glob(filepath.Join(s.state, "*"))
	for i, d := range dirs {
		dirs[i] = filepath.Base(d)
	}
	return dirs
}

// takenDown has a lab removed when the spec (or, from BeforeAll, the
// container) ends, and nothing of it left.
func (s *suite) takenDown(lab string) {
	DeferCleanup(func() {
		Expect(s.labctl("down", "--name", lab)).To(Succeeds())
		Expect(s.leftovers(lab)).To(BeEmpty(), fmt.Sprintf("what is left of %s after down", lab))
	})
}
