package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"l4lab/agent/api"
	"l4lab/bpf"
)

// eventRate is the rate in the pinned map config, whoever wrote it.
func (r *rig) eventRate(t *testing.T) uint32 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, bpf.LBMapConfig), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var config bpf.LBLbConfig
	if err := m.Lookup(uint32(0), &config); err != nil {
		t.Fatal(err)
	}
	return config.EventRate
}

func (r *rig) waitForRate(t *testing.T, want uint32) {
	t.Helper()
	until(t, "the rate of the events", func() bool { return r.eventRate(t) == want })
}

// listener is a running `lbagent monitor`.
type listener struct {
	cmd         *exec.Cmd
	out, errOut *syncBuffer
}

func (r *rig) monitor(t *testing.T, args ...string) *listener {
	t.Helper()
	l := &listener{cmd: command(append([]string{"monitor", "--socket", r.socket}, args...)...), out: &syncBuffer{}, errOut: &syncBuffer{}}
	l.cmd.Stdout, l.cmd.Stderr = l.out, l.errOut
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	return l
}

// interrupt is Ctrl-C.
func (l *listener) interrupt(t *testing.T) {
	t.Helper()
	if err := l.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil {
		t.Errorf("monitor ended with %v: %s", err, l.errOut)
	}
}

// events are what it printed in JSON.
func (l *listener) events(t *testing.T) (all []api.FlowEvent) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(l.out.String()), "\n") {
		var e api.FlowEvent
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// listening waits until a listener has shown a flow of its own, for which the
// service of put must be there: that the rate is set says only that the agent heard it.
func (r *rig) listening(t *testing.T, l *listener) {
	t.Helper()
	port := uint16(50000)
	until(t, "the listener", func() bool {
		port++
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), port), vip, 0)
		return l.out.String() != ""
	})
}

var other = netip.MustParseAddrPort("40.1.1.2:80")

// closed makes a service that lets nobody in whom the tests use.
func (r *rig) putClosed(t *testing.T) {
	t.Helper()
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 2, Frontend: other, Backends: plain(backends...), TableSize: 251,
		Sources: []netip.Prefix{netip.MustParsePrefix("9.9.9.0/24")}}); err != nil {
		t.Fatal(err)
	}
}

func TestMonitorShowsWhatHappensToFlowsUntilItIsInterrupted(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	r.putClosed(t)
	source := netip.MustParseAddrPort("20.1.1.100:45678")
	r.wire.send(t, netip.MustParseAddrPort("20.1.1.100:45677"), vip, 0) // before anybody listens
	r.wire.receive(t)
	if rate := r.eventRate(t); rate != 0 {
		t.Errorf("without a listener the rate is %d", rate)
	}
	// The highest rate holds, so each shows by its own that it is there.
	machine := r.monitor(t, "-o", "json")
	r.waitForRate(t, api.DefaultEventRate)
	human := r.monitor(t, "--rate", "1500")
	r.waitForRate(t, 1500)
	drops := r.monitor(t, "-o", "json", "--service", "2", "--kind", "dropped", "--rate", "2000")
	r.waitForRate(t, 2000)

	begin := time.Now()
	r.wire.send(t, source, vip, 0)
	r.wire.receive(t)
	r.wire.sendTCP(t, source, vip, layers.TCP{RST: true})
	r.wire.send(t, source, other, 0)
	until(t, "the events", func() bool { return len(machine.events(t)) == 3 && len(drops.events(t)) == 1 })
	flow := api.FlowEvent{Protocol: "tcp", Source: source, Dest: vip, Backend: chosen(t, source), ServiceID: 1, Mode: "dsr"}
	for i, e := range machine.events(t) {
		if d := e.Time.Sub(begin); d < -time.Second || d > 5*time.Second {
			t.Errorf("event %d is %s from when it was sent", i, d)
		}
		want := flow
		want.Time, want.Kind = e.Time, []api.EventKind{api.FlowNew, api.FlowClosed, api.FlowDropped}[i]
		if i == 2 {
			want = api.FlowEvent{Time: e.Time, Kind: api.FlowDropped, Protocol: "tcp", Source: source, Dest: other, ServiceID: 2, Reason: "source_denied"}
		}
		if e != want {
			t.Errorf("event %d is %+v, want %+v", i, e, want)
		}
	}
	until(t, "what people read", func() bool { return strings.Count(human.out.String(), "\n") == 3 })
	drops.interrupt(t)
	r.waitForRate(t, 1500)
	human.interrupt(t)
	r.waitForRate(t, api.DefaultEventRate)
	machine.interrupt(t)
	r.waitForRate(t, 0)
	text := human.out.String()
	t.Logf("\n%s%s", text, human.errOut)
	for _, want := range []string{
		" new     tcp 20.1.1.100:45678 > 40.1.1.1:80 backend " + flow.Backend.String() + " service 1 mode dsr",
		" closed  tcp 20.1.1.100:45678 > 40.1.1.1:80 ", " dropped tcp 20.1.1.100:45678 > 40.1.1.2:80 service 2 reason source_denied",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if !strings.HasPrefix(human.errOut.String(), "3 events; not shown: 0 beyond the rate") {
		t.Errorf("at the end it says %q", human.errOut)
	}
}

func TestMonitorSaysHowManyEventsWereBeyondTheRate(t *testing.T) {
	r := newRig(t)
	r.start(t)
	r.put(t)
	m := r.monitor(t, "--rate", "5", "-o", "json")
	r.waitForRate(t, 5)
	for port := range uint16(200) {
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 40000+port), vip, 0)
		r.wire.receive(t)
	}
	// What was lost is told four times a second, so before an event that came half a second later.
	begin, port := time.Now(), uint16(50000)
	until(t, "an event after the loss was told", func() bool {
		port++
		r.wire.send(t, netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), port), vip, 0)
		r.wire.receive(t)
		all := m.events(t)
		return len(all) > 0 && all[len(all)-1].Time.After(begin.Add(500*time.Millisecond))
	})
	m.interrupt(t)
	t.Log(m.errOut)
	if said := m.errOut.String(); strings.Contains(said, " 0 beyond the rate") || len(m.events(t)) > 150 {
		t.Errorf("%d events; it says %q", len(m.events(t)), said)
	}
}

// Whoever follows the interface writes the same entry of the map as whoever sets the rate.
func TestListenersEventsGoOnWhenTheInterfaceChanges(t *testing.T) {
	r := newRig(t)
	r.start(t)
	m := r.monitor(t)
	r.waitForRate(t, api.DefaultEventRate)
	eth0 := r.Balancer.Link(t)
	r.Balancer.Do(t, func() {
		if err := netlink.LinkSetMTU(eth0, 1400); err != nil {
			t.Error(err)
		}
	})
	until(t, "the new MTU", func() bool {
		s, err := r.client.Status(t.Context())
		return err == nil && s.Interface.MTU == 1400
	})
	if rate := r.eventRate(t); rate != api.DefaultEventRate {
		t.Errorf("the rate is %d", rate)
	}
	m.interrupt(t)
}

func TestAgentThatIsKilledUnderAListenerLeavesEventsOnAndTheNextSwitchesThemOff(t *testing.T) {
	r := newRig(t)
	first := r.start(t)
	r.put(t)
	m := r.monitor(t)
	r.waitForRate(t, api.DefaultEventRate)
	r.listening(t, m)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait(t)
	if err := m.cmd.Wait(); err != nil || !strings.HasPrefix(m.errOut.String(), "the agent ended\n") {
		t.Errorf("monitor: %v, %s", err, m.errOut)
	}
	if rate := r.eventRate(t); rate == 0 {
		t.Error("the test proves nothing: the rate is 0")
	}
	r.start(t)
	if rate := r.eventRate(t); rate != 0 {
		t.Errorf("the next agent starts with the rate %d", rate)
	}
}

func TestListenersDoNotHoldTheAgentsEndUp(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(t *testing.T, r *rig, a *agent)
	}{
		{"SIGTERM", func(t *testing.T, _ *rig, a *agent) {
			if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}},
		{"unload", func(t *testing.T, r *rig, _ *agent) {
			if err := r.client.Unload(t.Context()); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			a := r.start(t)
			m := r.monitor(t)
			r.waitForRate(t, api.DefaultEventRate)
			begin := time.Now()
			c.end(t, r, a)
			if code := a.wait(t); code != 0 || time.Since(begin) > 2*time.Second {
				t.Errorf("exit code %d after %s: %s", code, time.Since(begin), a.stderr)
			}
			if err := m.cmd.Wait(); err != nil {
				t.Errorf("monitor ended with %v: %s", err, m.errOut)
			}
			if c.name == "SIGTERM" && r.eventRate(t) != 0 {
				t.Error("events are left on")
			}
		})
	}
}
