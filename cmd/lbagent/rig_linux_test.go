package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/agent/maglev"
	"l4lab/agent/testnet"
	"l4lab/bpf"
)

// rig is a balancer in one namespace; client and backends are the other one.
type rig struct {
	testnet.Pair
	socket, pins string
	client       *api.Client
	wire         *wire
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := shortDir(t)
	r := &rig{
		Pair:   testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24", "20.1.1.20/24", "20.1.1.100/24", "fd00::10/64", "fd00::20/64"),
		socket: filepath.Join(dir, "agent.sock"),
		pins:   filepath.Join(testnet.BPFFS(t), "lbagent"),
	}
	r.client = api.NewUnixClient(r.socket)
	// Without a program of its own a veth discards what its peer sends with XDP_TX.
	attachPass(t, r.Peer, "eth0")
	r.wire = newWire(t, r.Peer, r.Balancer.Link(t).Attrs().HardwareAddr)
	return r
}

// attachPass gives a link of a namespace a program that passes everything.
func attachPass(t *testing.T, n testnet.Namespace, name string) {
	t.Helper()
	pass, err := ebpf.NewProgram(bpf.PassProgram())
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Close()
	n.Do(t, func() {
		port, err := netlink.LinkByName(name)
		if err != nil {
			t.Error(err)
			return
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: port.Attrs().Index, Flags: link.XDPDriverMode})
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = l.Close() })
	})
}

// agent is a running `lbagent serve`.
type agent struct {
	cmd    *exec.Cmd
	steps  []string
	stderr *syncBuffer
	ended  chan error
}

// syncBuffer is a buffer that may be read while the process writes.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start starts an agent and waits until it is ready.
func (r *rig) start(t *testing.T, args ...string) *agent {
	t.Helper()
	a := r.launch(t, args...)
	if !a.ready() {
		t.Fatalf("the agent ended: %v\n%s\n%s", <-a.ended, strings.Join(a.steps, "\n"), a.stderr)
	}
	return a
}

func (r *rig) launch(t *testing.T, args ...string) *agent {
	t.Helper()
	return r.launchWith(t, append([]string{"--device", "eth0", "--socket", r.socket, "--pin-dir", r.pins}, args...)...)
}

// launchWith starts an agent with these arguments alone.
func (r *rig) launchWith(t *testing.T, args ...string) *agent {
	t.Helper()
	return r.run(t, r.begin(t), command(append([]string{"serve"}, args...)...))
}

// launchAs starts an agent as a user that has these capabilities alone.
func (r *rig) launchAs(t *testing.T, binary string, caps []string, args ...string) *agent {
	t.Helper()
	cmd := command(append([]string{"serve"}, args...)...)
	cmd.Path, cmd.Args[0] = binary, binary
	cmd.SysProcAttr = ambient(caps)
	return r.run(t, r.begin(t), cmd)
}

// launchBy launches an agent, whose process begin starts, and waits until it is ready or has ended.
func (r *rig) launchBy(t *testing.T, begin func(*exec.Cmd), args ...string) *agent {
	t.Helper()
	return r.run(t, begin, command(append([]string{"serve", "--device", "eth0", "--socket", r.socket, "--pin-dir", r.pins}, args...)...))
}

// begin starts a process in the balancer's namespace.
func (r *rig) begin(t *testing.T) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { r.Balancer.Start(t, cmd) }
}

func (r *rig) run(t *testing.T, begin func(*exec.Cmd), cmd *exec.Cmd) *agent {
	t.Helper()
	a := &agent{cmd: cmd, stderr: &syncBuffer{}, ended: make(chan error, 1)}
	a.cmd.Stderr = a.stderr
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin(a.cmd)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		a.steps = append(a.steps, lines.Text())
		if a.ready() {
			break
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, out)
		a.ended <- a.cmd.Wait()
	}()
	t.Cleanup(func() { _ = a.cmd.Process.Kill() })
	return a
}

func (a *agent) ready() bool {
	return len(a.steps) > 0 && strings.HasPrefix(a.steps[len(a.steps)-1], "ready")
}

// wait returns the exit code.
func (a *agent) wait(t *testing.T) int {
	t.Helper()
	select {
	case err := <-a.ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(10 * time.Second):
		t.Fatal("the agent does not end")
		return -1
	}
}

func (r *rig) programID(t *testing.T) uint32 {
	t.Helper()
	xdp := r.Balancer.Link(t).Attrs().Xdp
	if xdp == nil || !xdp.Attached {
		return 0
	}
	return xdp.ProgId
}

var (
	vip      = netip.MustParseAddrPort("40.1.1.1:80")
	backends = []netip.AddrPort{netip.MustParseAddrPort("20.1.1.10:80"), netip.MustParseAddrPort("20.1.1.20:80")}
)

func (r *rig) put(t *testing.T) {
	t.Helper()
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 2039}); err != nil {
		t.Fatal(err)
	}
}

// plain are backends of which nothing but the address is said.
func plain(addresses ...netip.AddrPort) []api.Backend {
	list := make([]api.Backend, len(addresses))
	for i, a := range addresses {
		list[i].Address = a
	}
	return list
}

// chosen is the backend that the Maglev table gives a flow.
func chosen(t *testing.T, source netip.AddrPort) netip.AddrPort {
	t.Helper()
	var list []maglev.Backend
	for i, b := range backends {
		list = append(list, maglev.Backend{ID: uint32(i), Address: b, Protocol: 6, Weight: 1})
	}
	table, err := maglev.Table(list, 2039)
	if err != nil {
		t.Fatal(err)
	}
	return backends[table[maglev.Slot(source, vip, 6, 2039, false)]]
}

// until waits for something that a process does by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	untilWithin(t, 15*time.Second, what, is)
}

func untilWithin(t *testing.T, patience time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
