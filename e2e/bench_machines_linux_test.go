package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/qemu"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/topology"
)

// BenchmarkMachines times the demo's lab on virtual machines: up to the first page through
// the VIP from nothing and from the kept set-up, a program pushed to all guests side by
// side, down, and the memory of a machine. The image is built before, unless it is there.
func BenchmarkMachines(b *testing.B) {
	needRoot(b)
	bin := binaries(b)
	b.Setenv("LABCTL_STATE_DIR", shortTemp(b))
	store, err := image.DefaultStore()
	if err != nil {
		b.Fatal(err)
	}
	first := filepath.Join(bin, "l4lab-firstboot")
	built := timed(b, func() error {
		_, err := store.Build(b.Context(), image.Debian(), image.BuildOptions{FirstBoot: first})
		return err
	})
	if built > time.Second {
		b.Logf("the image was built in %.0f s", built.Seconds())
	}
	accel, why, err := vm.Probe(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("guests run with %s %s", accel, why)
	t := topology.Default()
	t.Name = "bench"
	file := writeTopology(b, t)
	page := func(args ...string) error {
		if err := command(bin, append([]string{"up", file, "--provider", qemu.Name}, args...)...); err != nil {
			return err
		}
		return command(bin, "exec", "--name", t.Name, t.Client.Name, "--", "curl", "-sf", "-o", "/dev/null", "http://40.1.1.1/")
	}
	var cold, kept, push, down []time.Duration
	var memory float64
	for b.Loop() {
		cold = append(cold, timed(b, func() error { return page("--fresh") }))
		down = append(down, timed(b, func() error { return command(bin, "down", "--name", t.Name) }))
		kept = append(kept, timed(b, func() error { return page() }))
		memory = max(memory, machineMB(b, os.Getenv("LABCTL_STATE_DIR")))
		push = append(push, timed(b, func() error { return pushToAll(b, bin, t) }))
		down = append(down, timed(b, func() error { return command(bin, "down", "--name", t.Name) }))
	}
	report(b, cold, "up-s")
	report(b, kept, "up-kept-s")
	report(b, push, "push-s")
	report(b, down, "down-s")
	b.ReportMetric(ratio(kept, cold), "kept/cold")
	b.ReportMetric(memory, "MB/machine")
}

// pushToAll pushes lbagent to all nodes at once, into a new file.
func pushToAll(b *testing.B, bin string, t topology.Topology) error {
	p := qemu.New(qemu.Options{})
	defer p.Close(b.Context())
	lab := provider.Lab{Topology: t, Dir: filepath.Join(os.Getenv("LABCTL_STATE_DIR"), t.Name)}
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	for _, node := range t.NodeNames() {
		m, err := p.Machine(lab, node)
		if err != nil {
			return err
		}
		wg.Go(func() {
			err := m.Guest.Push(b.Context(), guest.File{Path: "/root/pushed", Source: filepath.Join(bin, "lbagent"), Executable: true})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				first = err
			}
		})
	}
	wg.Wait()
	return first
}

// machineMB is the proportional memory of the largest QEMU, in MB.
func machineMB(b *testing.B, state string) float64 {
	b.Helper()
	out, err := exec.Command("pgrep", "-f", "qemu-system").Output()
	if err != nil {
		b.Fatal(err)
	}
	most := 0
	for _, field := range strings.Fields(string(out)) {
		var pid, kb int
		if _, err := fmt.Sscan(field, &pid); err != nil || !strings.HasPrefix(fabric.Environment(pid, fabric.NodeVariable), state+"/") {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil {
				most = max(most, kb)
			}
		}
	}
	return float64(most) / 1024
}
