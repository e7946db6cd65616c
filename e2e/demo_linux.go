package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	walk "l4lab/lab/demo"
	"l4lab/topology"
)

// walking is about the walk-through: what it shows when all is well, and what when
// something is not.
func (s *suite) walking() {
	It("walks through every step without a cross and leaves nothing", Label("dsr", "snat", "needs-root"), func() {
		name := s.name("walk")
		s.takenDown(name)
		r := s.follow(nil, "demo", "--fast", "-o", "json", "--name", name)
		Expect(r).To(Succeeds(), r.String())
		Expect(s.leftovers(name)).To(BeEmpty())
		var record walk.Record
		Expect(json.Unmarshal([]byte(r.Stdout), &record)).To(Succeed(), "standard output is the record alone")
		Expect(record.Crosses()).To(BeZero())
		var keys []string
		for _, step := range record.Steps {
			keys = append(keys, step.Key)
		}
		Expect(keys).To(Equal([]string{
			"topology", "agent", "service", "neighbor", "page", "dumpstate-page", "refresh", "dumpstate-refresh", "snat-packets",
			"mode-dsr", "refresh-dsr", "dumpstate-dsr", "dsr-packets", "mode-load", "kill", "drain", "proof", "figures",
		}))
		Expect(record.Passages).To(HaveLen(2))
		Expect(record.Passages[0].Mode).To(Equal(topology.SNAT))
		Expect(record.Passages[1].Mode).To(Equal(topology.DSR))
		Expect(record.MACs).To(HaveLen(len(record.Topology.MachineNames())))
		for _, f := range record.Figures {
			Expect(f.Value).To(BeNumerically(">", 0), f.Name)
		}
		Expect(r.Stderr).To(ContainSubstring("lab " + name + " is down"))
	})

	It("shows a cross for a backend that breaks, exits with 1 and leaves nothing", Label("faults", "needs-root"), func() {
		s.needs(processes)
		name := s.name("cross")
		s.takenDown(name)
		broken := ""
		r := s.follow(func(line string) {
			// By now the lab is up, and no step has counted connections yet.
			if broken == "" && strings.HasPrefix(line, "2. ") {
				broken = "be4"
				kill(node(s.status(name), broken).PIDs["web"], syscall.SIGKILL)
			}
		}, "demo", "--fast", "--name", name)
		Expect(broken).NotTo(BeEmpty(), r.String())
		Expect(r).To(ExitsWith(1, "see the steps with a cross"), r.String())
		Expect(r.Stdout).To(ContainSubstring("   FAIL "))
		Expect(r.Stdout).To(ContainSubstring("refused"))
		Expect(r.Stdout).To(MatchRegexp(`(?m)^\d+\. Figures$`), "the walk goes on to its end")
		Expect(r.Stdout).NotTo(ContainSubstring("\x1b"), "no colours where there is no terminal")
		Expect(r.Stdout).To(HaveSuffix("lab " + name + " is down\n"))
		Expect(s.leftovers(name)).To(BeEmpty())
	})
}

// walkLimit is longer than a walk takes on a busy machine.
const walkLimit = 4 * time.Minute

// follow runs a command to its end, and hands over each line of its standard output
// as it comes.
func (s *suite) follow(each func(line string), args ...string) result {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), walkLimit)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stderr = &errs
	stdout, err := cmd.StdoutPipe()
	Expect(err).NotTo(HaveOccurred())
	Expect(cmd.Start()).To(Succeed())
	lines := bufio.NewScanner(stdout)
	for lines.Buffer(nil, 16<<20); lines.Scan(); {
		fmt.Fprintln(&out, lines.Text())
		if each != nil {
			each(lines.Text())
		}
	}
	_ = cmd.Wait() // the code says it
	r := result{Args: args, Code: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errs.String()}
	fmt.Fprintln(GinkgoWriter, r)
	return r
}
