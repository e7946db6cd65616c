package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

// asLBAgent makes the test binary be lbagent, for tests that need a process.
const asLBAgent = "L4LAB_TEST_AS_LBAGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asLBAgent) != "" {
		os.Exit(run(context.Background(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeAgent answers with what it has and remembers what it was asked to change.
type fakeAgent struct {
	services []api.Service
	asked    []string
	// revision is that of the service that was asked for last, conflicts how often somebody else
	// is ahead of a change.
	revision  uint64
	conflicts int
}

var errFake = errors.New("the map is full")

func (f *fakeAgent) Status(context.Context) (api.Status, error) {
	return api.Status{PID: 42, Version: "v1", Platform: "linux", AttachMode: "native", ProgramID: 7, VLAN: "pass",
		Interface: api.Interface{Name: "eth0", Index: 2, MTU: 1500, Address: netip.MustParseAddr("20.1.1.1"), MAC: "02:00:00:00:00:01"},
		Warnings:  []string{"mind the gap"}}, nil
}

func (f *fakeAgent) Services(context.Context) ([]api.Service, error) { return f.services, nil }

func (f *fakeAgent) Service(_ context.Context, id uint32) (api.Service, error) {
	f.revision++
	heavy := uint16(5)
	return api.Service{ID: id, Frontend: netip.MustParseAddrPort("40.1.1.1:80"), Protocol: "tcp", Mode: "dsr", Encap: "ipip",
		Selection: "maglev", TableSize: 251, Affinity: api.Duration(time.Minute), Revision: f.revision,
		Sources:     []netip.Prefix{netip.MustParsePrefix("20.1.1.0/24")},
		HealthCheck: &api.HealthCheck{Type: "tcp", Via: "vip", Port: 8080, Interval: api.Duration(2 * time.Second)},
		Backends: []api.Backend{{Address: netip.MustParseAddrPort("20.1.1.10:80"), Weight: &heavy, Health: "quarantined"},
			{Address: netip.MustParseAddrPort("20.1.1.20:80"), State: "maintenance", Health: "healthy"}}}, nil
}

func (f *fakeAgent) PutServices(_ context.Context, all []api.Service) ([]api.Service, error) {
	return all, errFake
}

func (f *fakeAgent) PutService(_ context.Context, s api.Service) (api.Service, error) {
	if s.ID == 13 {
		return s, &api.Error{Field: "frontend", Message: "is service 1's", Code: http.StatusConflict}
	}
	if f.conflicts > 0 {
		f.conflicts--
		return s, &api.Error{Field: "revision", Message: "somebody else has changed it", Code: http.StatusConflict}
	}
	asked := fmt.Sprintf("put %d %s %s %s %d %v", s.ID, s.Frontend, s.Protocol, s.Mode, s.TableSize, s.Backends)
	if s.Revision != 0 {
		asked += fmt.Sprint(" revision ", s.Revision)
	}
	f.asked = append(f.asked, strings.Join(append([]string{asked}, options(s)...), " "))
	f.services = append(f.services, s)
	return s, nil
}

func (f *fakeAgent) DeleteService(_ context.Context, id uint32) error {
	if id == 9 {
		return &api.Error{Field: "id", Message: "there is no service 9", Code: http.StatusNotFound}
	}
	f.asked = append(f.asked, fmt.Sprint("delete ", id))
	return nil
}

func (f *fakeAgent) Connections(_ context.Context, id uint32) ([]api.Connection, error) {
	if id == 9 {
		return nil, errFake
	}
	tx := uint64(5000)
	return []api.Connection{
		{ServiceID: 1, Protocol: "tcp", Mode: "dsr", State: api.Active, RxBytes: 100,
			Source: netip.MustParseAddrPort("20.1.1.100:40000"), Dest: netip.MustParseAddrPort("40.1.1.1:80"), Backend: netip.MustParseAddrPort("20.1.1.10:80")},
		{ServiceID: 1, Protocol: "tcp", Mode: "snat", State: api.Closing, RxBytes: 200, TxBytes: &tx,
			Source: netip.MustParseAddrPort("20.1.1.100:40001"), Dest: netip.MustParseAddrPort("40.1.1.1:80"), Backend: netip.MustParseAddrPort("20.1.1.20:80")},
	}, nil
}

func (f *fakeAgent) Counters(context.Context) (api.Counters, error) {
	return api.Counters{
		Services: []api.ServiceCounters{{ID: 1, Traffic: api.Traffic{RxPackets: 3}}},
		Drops:    map[string]uint64{"no_backend": 4, "fragment": 0},
	}, nil
}

func (f *fakeAgent) Neighbours(context.Context) ([]api.Neighbour, error) {
	return []api.Neighbour{{Address: netip.MustParseAddr("20.1.1.10"), NextHop: netip.MustParseAddr("20.1.1.254"), MAC: "02:00:00:00:00:0a"},
		{Address: netip.MustParseAddr("20.1.1.20")}}, nil
}

func (f *fakeAgent) RefreshNeighbour(_ context.Context, a netip.Addr) (api.Neighbour, error) {
	f.asked = append(f.asked, "refresh "+a.String())
	return api.Neighbour{Address: a, NextHop: a, MAC: "02:00:00:00:00:0a"}, nil
}

func (f *fakeAgent) SetMode(_ context.Context, u api.ModeUpdate) error {
	f.asked = append(f.asked, fmt.Sprintf("mode %s %d", u.Mode, u.ServiceID))
	return nil
}

func (f *fakeAgent) Diff(context.Context) (api.Diff, error) {
	f.asked = append(f.asked, "diff")
	return api.Diff{Desired: "state", Same: true, Services: []api.ServiceDiff{}}, nil
}

func (f *fakeAgent) DiffWith(_ context.Context, all []api.Service) (api.Diff, error) {
	f.asked = append(f.asked, fmt.Sprintf("diff with %d", len(all)))
	return api.Diff{Desired: "request", Services: []api.ServiceDiff{
		{ID: 1, Frontend: netip.MustParseAddrPort("40.1.1.1:80"), Protocol: "tcp", Change: "changed",
			Fields: []api.FieldDiff{{Field: "mode", Desired: "snat", Actual: "dsr"}}},
		{ID: 2, Frontend: netip.MustParseAddrPort("40.1.1.2:80"), Protocol: "udp", Change: "missing"},
	}}, nil
}

func (f *fakeAgent) Unload(context.Context) error {
	f.asked = append(f.asked, "unload")
	return nil
}

// session is a fake agent on a socket, and commands that speak to it.
type session struct {
	agent  *fakeAgent
	socket string
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{agent: &fakeAgent{}, socket: filepath.Join(shortDir(t), "agent.sock")}
	listener, err := api.Listen(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: api.Handler(s.agent)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// shortDir is a directory whose name leaves room for a socket's in 107 bytes, which
// that of t.TempDir may not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "t-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run runs a command line; %SOCKET stands for the socket.
func (s *session) run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "%SOCKET", s.socket)
	}
	var out, errOut bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errOut)
	err := execute(t.Context(), root)
	if err != nil {
		fmt.Fprintln(&errOut, err)
	}
	return exitCode(err), out.String(), errOut.String()
}
