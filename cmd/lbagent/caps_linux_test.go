package main

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/agent/api"
)

// unprivileged is a user that owns nothing.
const unprivileged = 65534

// unitCapabilities are those of packaging/systemd/lbagent.service, which a test compares.
var unitCapabilities = map[string]uintptr{
	"CAP_BPF":       unix.CAP_BPF,
	"CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
	"CAP_PERFMON":   unix.CAP_PERFMON,
	"CAP_NET_RAW":   unix.CAP_NET_RAW,
}

// newUnprivileged is a rig whose agents are the user's, with the directories that
// the unit gives them.
func newUnprivileged(t *testing.T) (*rig, func(caps ...string) *agent) {
	t.Helper()
	r := newRig(t)
	dir := filepath.Dir(r.socket)
	binary := filepath.Join(dir, "lbagent")
	copyFile(t, os.Args[0], binary)
	// As the unit does: the bpffs is root's alone, and the user has a directory of it elsewhere.
	bpffs := filepath.Dir(r.pins)
	own, elsewhere := filepath.Join(bpffs, "lbagent-service"), filepath.Join(dir, "bpf")
	for _, path := range []string{own, elsewhere} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(own, elsewhere, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(elsewhere, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(bpffs, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, own} {
		if err := os.Chown(path, unprivileged, unprivileged); err != nil {
			t.Fatal(err)
		}
	}
	r.pins = filepath.Join(elsewhere, "pins")
	return r, func(caps ...string) *agent {
		t.Helper()
		return r.launchAs(t, binary, caps, "--device", "eth0", "--socket", r.socket, "--pin-dir", r.pins)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

func ambient(names []string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged}}
	for _, name := range names {
		attr.AmbientCaps = append(attr.AmbientCaps, unitCapabilities[name])
	}
	return attr
}

func TestAgentWorksWithTheUnitsCapabilitiesAndNoOthers(t *testing.T) {
	r, launch := newUnprivileged(t)
	caps := []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
	first := launch(caps...)
	if !first.ready() {
		t.Fatalf("it ended with %d:\n%s\n%s", first.wait(t), strings.Join(first.steps, "\n"), first.stderr)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", first.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(status), "CapEff:\t000000c000001000\n") || !strings.Contains(string(status), "Uid:\t65534\t65534") {
		t.Errorf("it has other capabilities or another user (%v):\n%s", err, status)
	}
	r.put(t)
	source := netip.MustParseAddrPort("20.1.1.100:45678")
	r.wire.send(t, source, vip, 0)
	if got := r.wire.receive(t); got.backend != chosen(t, source).Addr() {
		t.Errorf("the flow went to %s", got.backend)
	}
	if connections, err := r.client.Connections(t.Context(), 1); err != nil || len(connections) != 1 {
		t.Errorf("connections %+v, %v", connections, err)
	}
	if diff, err := r.client.Diff(t.Context()); err != nil || !diff.Same {
		t.Errorf("diff %+v, %v", diff, err)
	}
	traceChooses(t, r)
	before := r.programID(t)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait(t)
	second := launch(caps...)
	if !second.ready() {
		t.Fatalf("the next one ended with %d:\n%s\n%s", second.wait(t), strings.Join(second.steps, "\n"), second.stderr)
	}
	if now := r.programID(t); now == before || now == 0 {
		t.Errorf("it did not take over: program %d, before %d", now, before)
	}
	r.wire.send(t, source, vip, 1)
	if got := r.wire.receive(t); got.backend != chosen(t, source).Addr() {
		t.Errorf("after the takeover the flow went to %s", got.backend)
	}
	if diff, err := r.client.Diff(t.Context()); err != nil || !diff.Same {
		t.Errorf("diff %+v, %v", diff, err)
	}
	traceChooses(t, r)
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends[0]), TableSize: 2039}); err != nil {
		t.Error(err)
	}
	if err := r.client.Unload(t.Context()); err != nil {
		t.Error(err)
	}
	if code := second.wait(t); code != 0 || r.programID(t) != 0 {
		t.Errorf("unload: exit code %d, program %d\n%s", code, r.programID(t), second.stderr)
	}
}

// traceChooses has an agent that may not read Maglev tables say where flows that are not known would go.
func traceChooses(t *testing.T, r *rig) {
	t.Helper()
	for port := range uint16(20) {
		source := netip.AddrPortFrom(netip.MustParseAddr("20.1.1.100"), 50000+port)
		trace, err := r.client.Trace(t.Context(), api.TracePacket{Protocol: "tcp", From: source, To: vip})
		if err != nil {
			t.Fatal(err)
		}
		if want := chosen(t, source); trace.Backend == nil || trace.Backend.Address != want || !trace.TableUnread {
			t.Errorf("%s goes to %+v, want %s, table unread %t", source, trace.Backend, want, trace.TableUnread)
		}
	}
}

// A backend that does not answer is found out only by a check that was sent.
func TestChecksThroughTheVIPWorkWithTheUnitsCapabilities(t *testing.T) {
	r, launch := newUnprivileged(t)
	a := launch(slices.Collect(maps.Keys(unitCapabilities))...)
	if !a.ready() {
		t.Fatalf("it ended with %d:\n%s", a.wait(t), a.stderr)
	}
	if _, err := r.client.PutService(t.Context(), api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 2039,
		HealthCheck: &api.HealthCheck{Type: "tcp", Via: "vip", Interval: api.Duration(200 * time.Millisecond), Timeout: api.Duration(50 * time.Millisecond)}}); err != nil {
		t.Fatal(err)
	}
	until(t, "a backend that does not answer to be found", func() bool {
		s, err := r.client.Service(t.Context(), 1)
		return err == nil && slices.ContainsFunc(s.Backends, func(b api.Backend) bool { return b.Health == "quarantined" })
	})
}

func TestAgentSaysWhichCapabilityItLacks(t *testing.T) {
	for _, lacking := range []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"} {
		t.Run(lacking, func(t *testing.T) {
			r, launch := newUnprivileged(t)
			var caps []string
			for name := range unitCapabilities {
				if name != lacking {
					caps = append(caps, name)
				}
			}
			a := launch(caps...)
			if a.ready() {
				t.Fatal("it runs without")
			}
			if code := a.wait(t); code != exitUnsupported {
				t.Errorf("exit code %d", code)
			}
			if !strings.Contains(a.stderr.String(), lacking) {
				t.Errorf("it said %s", a.stderr)
			}
			if r.programID(t) != 0 {
				t.Error("it has attached a program")
			}
		})
	}
}
