package main

import (
	"errors"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"l4lab/agent/api"
)

// Checks that could never be made would leave the backends as they are, and
// nobody would know.
func TestChecksThroughTheVIPWithoutRawSocketsAreRefused(t *testing.T) {
	r := newRig(t)
	a := r.launchBy(t, func(cmd *exec.Cmd) { r.startWithoutRawSockets(t, cmd) })
	if !a.ready() {
		t.Fatalf("the agent ended: %v: %s", <-a.ended, a.stderr)
	}
	wanted := api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 251, HealthCheck: &api.HealthCheck{Type: "tcp", Via: "vip"}}
	_, err := r.client.PutService(t.Context(), wanted)
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Field != "healthCheck.via" || !strings.Contains(refusal.Message, "CAP_NET_RAW") {
		t.Errorf("got %v", err)
	}
	if _, err = r.client.PutServices(t.Context(), []api.Service{wanted}); !errors.As(err, &refusal) || refusal.Field != "services[0].healthCheck.via" {
		t.Errorf("of all services: got %v", err)
	}
	if all, err := r.client.Services(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("services %+v, %v", all, err)
	}
	wanted.HealthCheck.Via = "direct"
	if _, err := r.client.PutService(t.Context(), wanted); err != nil {
		t.Errorf("direct checks: %v", err)
	}
	wanted.HealthCheck.Via, wanted.Mode = "vip", "snat"
	if _, err := r.client.PutService(t.Context(), wanted); err != nil {
		t.Errorf("in SNAT, where they are direct: %v", err)
	}
	wanted.Mode = ""
	if _, err := r.client.PutService(t.Context(), wanted); err != nil {
		t.Errorf("the same again, without its mode: %v", err)
	}
	for _, id := range []uint32{0, 1} {
		err := r.client.SetMode(t.Context(), api.ModeUpdate{Mode: "dsr", ServiceID: id})
		if !errors.As(err, &refusal) || refusal.Field != "mode" || !strings.Contains(refusal.Message, "service 1: healthCheck.via") {
			t.Errorf("the mode of service %d becomes dsr, where checks are not direct: %v", id, err)
		}
	}
}

// The services of an agent that could are taken up by one that cannot, which says so.
func TestServicesThatCannotBeCheckedAreServedAndTold(t *testing.T) {
	r := newRig(t)
	first := r.start(t)
	wanted := api.Service{ID: 1, Frontend: vip, Backends: plain(backends...), TableSize: 251, HealthCheck: &api.HealthCheck{Type: "tcp", Via: "vip"}}
	if _, err := r.client.PutService(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait(t)
	a := r.launchBy(t, func(cmd *exec.Cmd) { r.startWithoutRawSockets(t, cmd) })
	if !a.ready() {
		t.Fatalf("the agent ended: %v: %s", <-a.ended, a.stderr)
	}
	s, err := r.client.Status(t.Context())
	if err != nil || !strings.Contains(strings.Join(s.Warnings, "\n"), "service 1 are not checked: healthCheck.via: ") {
		t.Errorf("%v: warnings %q", err, s.Warnings)
	}
	r.wire.send(t, netip.MustParseAddrPort("20.1.1.100:45678"), vip, 0)
	r.wire.receive(t)
}

// startWithoutRawSockets starts a process of root in the balancer's namespace that
// cannot have CAP_NET_RAW. The thread, which cannot have it any more either, ends.
func (r *rig) startWithoutRawSockets(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(r.Balancer.Handle)
		if err == nil {
			err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_RAW, 0, 0, 0)
		}
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
