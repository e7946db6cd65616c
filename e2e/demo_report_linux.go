package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	walk "l4lab/lab/demo"
)

// reportLimit is what a walk-through with its report may take.
const reportLimit = time.Minute

// demoReport is the walk-through as a page to read.
func (s *suite) demoReport() {
	It("is written within a minute: figures, pictures that differ after a forced refresh, captures", func() {
		s.needs(namespaces, processes)
		dir := filepath.Join(shortTemp(GinkgoT()), "report")
		s.takenDown(s.name("rep")) // a walk that was cut off leaves its lab
		begin := time.Now()
		r := s.proof("demo", "--fast", "--name", s.name("rep"), "--report", dir)
		took := time.Since(begin)
		Expect(r).To(Succeeds())
		Expect(took).To(BeNumerically("<", reportLimit), "where nothing else runs; here ran %s", besides())

		page := readFile(filepath.Join(dir, "index.html"))
		Expect(string(page)).To(And(ContainSubstring("checks held"), ContainSubstring("emulated"), Not(ContainSubstring("<script"))))
		for _, name := range []string{"README.md", "record.json", "topology.svg", "path-snat.svg", "path-dsr.svg"} {
			Expect(readFile(filepath.Join(dir, name))).NotTo(BeEmpty(), name)
		}

		By("showing two backends to a browser in the client")
		for _, picture := range []string{"page-1.png", "page-2.png"} {
			Expect(png.Decode(bytes.NewReader(readFile(filepath.Join(dir, picture))))).Error().NotTo(HaveOccurred(), picture)
		}
		// The pictures differ anyway, by the client's port: what counts is who answered.
		var record walk.Record
		Expect(json.Unmarshal(readFile(filepath.Join(dir, "record.json")), &record)).To(Succeed())
		before, after := pictured(record, "page"), pictured(record, "refresh")
		Expect(record.Topology.Backends()).To(ContainElements(before, after), "who is to be read on the pictures")
		Expect(after).NotTo(Equal(before))

		By("keeping captures that can be read")
		for _, name := range []string{"snat.pcapng", "dsr.pcapng"} {
			seen, err := pcapng.Read(bytes.NewReader(readFile(filepath.Join(dir, name))), capture.Place{Machine: "lb", Port: true}, make([]byte, 6))
			Expect(err).NotTo(HaveOccurred())
			Expect(seen.Frames).NotTo(BeEmpty(), name)
		}
		Expect(browsersOf(s.name("rep"))).To(BeEmpty())
	})

	It("is refused before anything is made where the folder holds something else", func() {
		dir := shortTemp(GinkgoT())
		Expect(os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("mine"), 0o644)).To(Succeed())
		r := s.labctl("demo", "--fast", "--name", s.name("rep"), "--report", dir)
		Expect(r).To(ExitsWith(1, "letter.txt", "name a new or empty folder"))
		Expect(r.Stdout).To(BeEmpty())
	})
}

// besides says what the machine had to do, for judging times: its load of the last
// minute (proc_loadavg(5)) and the programs that run right now, by how many there are.
func besides() string {
	load, _ := os.ReadFile("/proc/loadavg")
	running := map[string]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path) // it may have ended
		_, name, _ := bytes.Cut(stat, []byte("("))
		if i := bytes.LastIndexByte(name, ')'); i > 0 && bytes.HasPrefix(name[i:], []byte(") R")) {
			running[string(name[:i])]++
		}
	}
	minute, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("others on %d processors: load %s, running %v", runtime.NumCPU(), minute, running)
}

// pictured is the first word on a step's picture: the page begins with its backend.
func pictured(r walk.Record, step string) string {
	for _, s := range r.Steps {
		for _, b := range s.Blocks {
			if s.Key == step && b.Image != nil {
				word, _, _ := strings.Cut(b.Image.Alt, " ")
				return word
			}
		}
	}
	return ""
}

func readFile(path string) []byte {
	GinkgoHelper()
	data, err := os.ReadFile(path)
	Expect(err).NotTo(HaveOccurred())
	return data
}

// browsersOf returns the command lines of browsers that a lab's nodes run.
func browsersOf(lab string) (lines []string) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		command, _ := os.ReadFile(filepath.Join(p, "cmdline")) // it may have ended
		environ, _ := os.ReadFile(filepath.Join(p, "environ"))
		if bytes.Contains(command, []byte("remote-debugging-pipe")) && bytes.Contains(environ, []byte("/"+lab+"/")) {
			lines = append(lines, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return lines
}
