package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"l4lab/agent/testnet"
)

func TestFlowsGoWhereTheMaglevTableSays(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	for port := range uint16(64) {
		source := netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 40000+port)
		r.wire.send(t, source, vip, 0)
		got := r.wire.receive(t)
		if want := chosen(t, source).Addr(); got.backend != want {
			t.Errorf("%s went to %s, the table says %s", source, got.backend, want)
		}
	}
	connections, err := r.client.Connections(t.Context(), 1)
	if err != nil || len(connections) != 64 {
		t.Errorf("%d connections, %v", len(connections), err)
	}
	counters, err := r.client.Counters(t.Context())
	if err != nil || counters.Services[0].RxPackets != 64 || counters.Services[0].Connections != 64 {
		t.Errorf("counters %+v, %v", counters, err)
	}
	for _, b := range counters.Services[0].Backends {
		if b.RxPackets == 0 {
			t.Errorf("backend %s got nothing", b.Address)
		}
	}
}

// The promise: an agent that dies leaves traffic flowing, and the next one
// takes over without losing a packet.
func TestAgentIsReplacedUnderTrafficWithoutLosingAPacket(t *testing.T) {
	r := newRig(t)
	first := r.start(t)
	r.put(t)
	before := r.programID(t)
	source := netip.MustParseAddrPort("20.1.1.100:45678")

	stop, sent := make(chan struct{}), make(chan uint32, 1)
	received := make(chan map[uint32]netip.Addr, 1)
	go func() { received <- r.wire.collect() }()
	go func() {
		var n uint32
		for ; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			r.wire.send(t, source, vip, n)
		}
	}()

	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait(t)
	if now := r.programID(t); now != before {
		t.Errorf("after kill -9 the interface has program %d, before %d", now, before)
	}
	second := r.start(t)
	status, err := r.client.Status(t.Context())
	if err != nil || !status.TookOver || status.ProgramID == before || status.ProgramID != r.programID(t) {
		t.Errorf("after the takeover: %+v, %v; program before was %d", status, err, before)
	}
	if services, err := r.client.Services(t.Context()); err != nil || len(services) != 1 {
		t.Errorf("services: %+v, %v", services, err)
	}
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := second.wait(t); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	third := r.start(t)

	close(stop)
	n := <-sent
	got := <-received
	want := chosen(t, source).Addr()
	var lost, astray int
	for i := range n {
		switch b, ok := got[i]; {
		case !ok:
			lost++
		case b != want:
			astray++
		}
	}
	t.Logf("%d packets across kill -9, a takeover, SIGTERM and another takeover", n)
	if lost+astray > 0 {
		t.Errorf("of %d packets %d were lost and %d went to another backend", n, lost, astray)
	}
	connections, err := r.client.Connections(t.Context(), 1)
	if err != nil || len(connections) != 1 || connections[0].RxPackets != uint64(n) {
		t.Errorf("connections %+v, %v; sent were %d packets", connections, err, n)
	}

	if err := r.client.Unload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := third.wait(t); code != 0 {
		t.Errorf("unload: exit code %d: %s", code, third.stderr)
	}
	r.wantNothing(t)
}

// wantNothing checks that nothing is left but the state file.
func (r *rig) wantNothing(t *testing.T) {
	t.Helper()
	if id := r.programID(t); id != 0 {
		t.Errorf("program %d is still attached", id)
	}
	if _, err := os.Stat(r.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
	files, err := os.ReadDir(filepath.Dir(r.socket))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "agent.state.json" {
			t.Errorf("%s is left", f.Name())
		}
	}
}

func TestUnloadWithoutAnAgentRemovesThePins(t *testing.T) {
	r := newRig(t)
	a := r.start(t)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.wait(t)
	out, err := command("unload", "--socket", r.socket, "--pin-dir", r.pins).CombinedOutput()
	if err != nil || r.programID(t) != 0 {
		t.Errorf("%v: %s; program %d", err, out, r.programID(t))
	}
}

func TestSecondAgentIsRefusedAndHarmsNothing(t *testing.T) {
	r := newRig(t)
	first := r.start(t)
	before := r.programID(t)
	for _, c := range []struct {
		name, says string
		args       []string
	}{
		{"on the same socket", fmt.Sprintf("pid %d", first.cmd.Process.Pid), nil},
		{"with the same pins", "another agent uses the pins", []string{"--socket", r.socket + "2"}},
		{"on the same interface", fmt.Sprintf("id %d", before), []string{"--socket", r.socket + "2", "--pin-dir", r.pins + "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			second := r.launch(t, c.args...)
			if code := second.wait(t); code != 1 || !strings.Contains(second.stderr.String(), c.says) {
				t.Errorf("exit code %d: %s", code, second.stderr)
			}
		})
	}
	if status, err := r.client.Status(t.Context()); err != nil || status.ProgramID != before || status.PID != first.cmd.Process.Pid {
		t.Errorf("the first agent: %+v, %v", status, err)
	}
	left, _ := filepath.Glob(r.socket + "2*")
	if pins, _ := filepath.Glob(r.pins + "2*"); len(left)+len(pins) > 0 {
		t.Errorf("left behind: %v %v", left, pins)
	}
}

func TestInterfacesMTUAndMACAreFollowed(t *testing.T) {
	r := newRig(t)
	r.start(t)
	eth0 := r.Balancer.Link(t)
	r.Balancer.Do(t, func() {
		if err := netlink.LinkSetMTU(eth0, 1400); err != nil {
			t.Error(err)
		}
	})
	r.Balancer.SetMAC(t, "02:00:00:00:00:77")
	until(t, "the new MTU and MAC", func() bool {
		s, err := r.client.Status(t.Context())
		return err == nil && s.Interface.MTU == 1400 && s.Interface.MAC == "02:00:00:00:00:77"
	})
	r.put(t)
	r.wire.to = []byte{2, 0, 0, 0, 0, 0x77}
	r.wire.send(t, netip.MustParseAddrPort("20.1.1.100:40000"), vip, 0)
	if got := r.wire.receive(t); got.source != "02:00:00:00:00:77" {
		t.Errorf("the data path sends from %s", got.source)
	}
}

func TestAgentEndsWhenItsInterfaceGoes(t *testing.T) {
	r := newRig(t)
	a := r.start(t)
	eth0 := r.Balancer.Link(t)
	r.Balancer.Do(t, func() {
		if err := netlink.LinkDel(eth0); err != nil {
			t.Error(err)
		}
	})
	if code := a.wait(t); code != 1 || !strings.Contains(a.stderr.String(), "the interface has gone") {
		t.Errorf("exit code %d: %s", code, a.stderr)
	}
}

func TestServeWithoutPrivilegesExitsWithThree(t *testing.T) {
	testnet.NeedRoot(t)
	// The test binary lies where only root can read it.
	dir, err := os.MkdirTemp("", "t-agent-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lbagent"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	cmd := exec.Command(filepath.Join(dir, "lbagent"), "serve", "--device", "eth0", "--socket", filepath.Join(dir, "s"), "--pin-dir", testnet.BPFFS(t)+"/lb")
	cmd.Env = append(os.Environ(), asLBAgent+"=1")
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pair.Balancer.Start(t, cmd)
	_ = cmd.Wait() // the exit code says it
	if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(stderr.String(), "root") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}
