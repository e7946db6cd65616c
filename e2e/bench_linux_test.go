package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/provider"
	"l4lab/lab/provider/netns"
	"l4lab/topology"
)

// The benchmarks compare in one run, pair by pair, since the machines that run
// them are shared: a ratio holds where an absolute time does not. `make bench`
// runs them; docs/benchmarks.md keeps the figures.

// BenchmarkNetwork compares the namespaces, links and addresses of a lab with
// plain `ip -batch` doing the same.
func BenchmarkNetwork(b *testing.B) {
	needRoot(b)
	for _, backends := range []int{4, 200} {
		b.Run(fmt.Sprintf("backends=%d", backends), func(b *testing.B) {
			t := labOf("bench", backends)
			d := netns.New()
			var ours, plain []time.Duration
			for b.Loop() {
				pl := provider.Lab{Topology: t, Dir: filepath.Join(b.TempDir(), t.Name)}
				ours = append(ours, timed(b, func() error { return makeNetwork(b.Context(), d, pl) }))
				if err := d.Destroy(context.Background(), pl); err != nil {
					b.Fatal(err)
				}
				commands := ipCommands(b, "plain", t)
				plain = append(plain, timed(b, func() error { return runAll(commands) }))
				removeNamespaces(b, "plain")
			}
			report(b, ours, "labctl-s")
			report(b, plain, "ip-batch-s")
			b.ReportMetric(ratio(ours, plain), "ratio")
		})
	}
}

// BenchmarkUp times whole commands: up to the first page through the VIP, and
// down.
func BenchmarkUp(b *testing.B) {
	needRoot(b)
	bin := binaries(b)
	b.Setenv("LABCTL_STATE_DIR", shortTemp(b))
	for _, backends := range []int{4, 200} {
		b.Run(fmt.Sprintf("backends=%d", backends), func(b *testing.B) {
			t := labOf("bench", backends)
			file := writeTopology(b, t)
			var up, down, plain []time.Duration
			var pss float64
			for b.Loop() {
				settle(backends)
				up = append(up, timed(b, func() error {
					if err := command(bin, "up", file); err != nil {
						return err
					}
					return command(bin, "exec", "--name", t.Name, t.Client.Name, "--", "curl", "-sf", "-o", "/dev/null", "http://40.1.1.1/")
				}))
				if err := load(bin, t, 2000); err != nil {
					b.Fatal(err)
				}
				pss = max(pss, sumPSS(b, os.Getenv("LABCTL_STATE_DIR")))
				down = append(down, timed(b, func() error { return command(bin, "down", "--name", t.Name) }))
				settle(backends)
				commands := ipCommands(b, "plain", t)
				plain = append(plain, timed(b, func() error { return runAll(commands) }))
				removeNamespaces(b, "plain")
			}
			report(b, up, "up-s")
			report(b, down, "down-s")
			report(b, plain, "ip-batch-s")
			b.ReportMetric(ratio(up, plain), "up/ip-batch")
			b.ReportMetric(slack(up, plain), "spare-s")
			b.ReportMetric(pss, "pss-MB")
		})
	}
}

// labOf returns a lab with n backends behind the demo's VIP.
func labOf(name string, n int) topology.Topology {
	t := topology.Default()
	t.Name = name
	t.Switch.Subnet = netip.MustParsePrefix("20.1.0.0/16")
	t.Nodes = map[string]topology.Node{"lb": t.Nodes["lb"]}
	t.Services[0].Backends = nil
	for i := range n {
		name := fmt.Sprintf("be%d", i+1)
		os := topology.Linux
		if i%2 == 0 {
			os = topology.Windows
		}
		t.Nodes[name] = topology.Node{Role: topology.RoleBackend, OS: os, Address: netip.AddrFrom4([4]byte{20, 1, byte(2 + i/200), byte(1 + i%200)})}
		t.Services[0].Backends = append(t.Services[0].Backends, name)
	}
	return t
}

func makeNetwork(ctx context.Context, d provider.Driver, pl provider.Lab) error {
	if err := d.EnsureSwitch(ctx, pl); err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	slots := make(chan struct{}, 8)
	for _, name := range pl.Topology.MachineNames() {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := d.EnsureNode(ctx, pl, name); err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}

// ipCommands returns the iproute2 calls that make the same network.
func ipCommands(tb testing.TB, prefix string, t topology.Topology) [][]string {
	tb.Helper()
	dir := tb.TempDir()
	batch := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	var host, sw strings.Builder
	fmt.Fprintf(&host, "netns add %s-switch\n", prefix)
	fmt.Fprintf(&sw, "link set lo up\nlink add br0 mtu %d up type bridge\n", t.Switch.MTU)
	commands := [][]string{nil, nil}
	for _, name := range t.MachineNames() {
		fmt.Fprintf(&host, "netns add %s-%s\nlink add %s netns %s-switch mtu %d type veth peer name eth0 netns %s-%s\n",
			prefix, name, name, prefix, t.Switch.MTU, prefix, name)
		fmt.Fprintf(&sw, "link set %s master br0 up\n", name)
		address, _ := t.Address(name)
		node := fmt.Sprintf("link set lo up\naddr add %s/%d dev eth0\nlink set eth0 mtu %d up\n", address, t.Switch.Subnet.Bits(), t.Switch.MTU)
		commands = append(commands, []string{"-n", prefix + "-" + name, "-batch", batch(name, node)})
	}
	commands[0] = []string{"-batch", batch("host", host.String())}
	commands[1] = []string{"-n", prefix + "-switch", "-batch", batch("switch", sw.String())}
	return commands
}

func runAll(commands [][]string) error {
	for _, args := range commands {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func removeNamespaces(tb testing.TB, prefix string) {
	tb.Helper()
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		tb.Fatal(err)
	}
	var batch strings.Builder
	for line := range strings.Lines(string(out)) {
		if name := strings.Fields(line)[0]; strings.HasPrefix(name, prefix+"-") {
			fmt.Fprintf(&batch, "netns delete %s\n", name)
		}
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("remove namespaces: %v: %s", err, out)
	}
}

func command(bin string, args ...string) error {
	out, err := exec.Command(filepath.Join(bin, "labctl"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("labctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// load sends n requests through the VIP, each over a connection of its own.
func load(bin string, t topology.Topology, n int) error {
	urls := bytes.Repeat([]byte("url = http://40.1.1.1/\noutput = /dev/null\nheader = \"Connection: close\"\nnext\n"), n)
	cmd := exec.Command(filepath.Join(bin, "labctl"), "exec", "--name", t.Name, t.Client.Name, "--", "curl", "-sf", "-K", "-")
	cmd.Stdin = bytes.NewReader(bytes.TrimSuffix(urls, []byte("next\n")))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load: %w: %s", err, out)
	}
	return nil
}

// sumPSS adds up the proportional memory of all node daemons, in MB.
func sumPSS(tb testing.TB, state string) float64 {
	tb.Helper()
	var kb int
	procs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range procs {
		target, err := os.Readlink(exe)
		if err != nil || !strings.HasPrefix(target, state+"/") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "smaps_rollup"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			var n int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
				kb += n
			}
		}
	}
	if kb == 0 {
		tb.Fatal("no daemon of the lab found")
	}
	return float64(kb) / 1024
}

func timed(tb testing.TB, fn func() error) time.Duration {
	tb.Helper()
	begin := time.Now()
	if err := fn(); err != nil {
		tb.Fatal(err)
	}
	return time.Since(begin)
}

func report(b *testing.B, times []time.Duration, unit string) {
	slices.Sort(times)
	b.ReportMetric(times[len(times)/2].Seconds(), unit)
}

// settle lets the kernel finish dismantling namespaces, which it does in the
// background and shows nowhere; what is timed next would pay for it.
func settle(backends int) { time.Sleep(time.Duration(backends) * 30 * time.Millisecond) }

// slack is the median of what is left of two ip -batch and a second.
func slack(up, plain []time.Duration) float64 {
	left := make([]float64, len(up))
	for i := range up {
		left[i] = 2*plain[i].Seconds() + 1 - up[i].Seconds()
	}
	slices.Sort(left)
	return left[len(left)/2]
}

// ratio is the median of the pairs' ratios.
func ratio(a, b []time.Duration) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i].Seconds() / b[i].Seconds()
	}
	slices.Sort(r)
	return r[len(r)/2]
}
