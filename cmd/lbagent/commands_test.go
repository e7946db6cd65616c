package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
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

func TestCommandsAskTheAgentInTheDemosWords(t *testing.T) {
	for _, c := range []struct{ name, line, asked, prints string }{
		{"set a service", "service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80,20.1.1.20:80 --id=1",
			"put 1 40.1.1.1:80   0 [20.1.1.10:80 20.1.1.20:80]", "service 1: 40.1.1.1:80"},
		{"set a service with all options", "service update --frontend 40.1.1.1:53 --backends 20.1.1.10:53 --id 2 --protocol udp --mode snat --table-size 251",
			"put 2 40.1.1.1:53 udp snat 251 [20.1.1.10:53]", "251 slots"},
		{"set an IPv6 service with weights", "service update --frontend=[fd00:40::1]:443 --backends=[fd00::10]:443@3,[fd00::20]:443@0 --id=3",
			"put 3 [fd00:40::1]:443   0 [[fd00::10]:443@3 [fd00::20]:443@0]", "2 backends"},
		{"set a service with what DSR can do", "service update --frontend 40.1.1.1:0 --backends 20.1.1.10:0 --id 4 --encap ipip --outer-source 172.16.0.0/16 --mss 1400",
			"put 4 40.1.1.1:0   0 [20.1.1.10:0] outer-source=172.16.0.0/16 mss=1400", "service 4"},
		{"set a service by layer 2 for some clients", "service update --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --id 5 --encap l2 --selection random --affinity 90s --sources 20.1.1.0/24,30.0.0.0/8",
			"put 5 40.1.1.1:80   0 [20.1.1.10:80] encap=l2 selection=random affinity=1m30s source=20.1.1.0/24 source=30.0.0.0/8", "service 5"},
		{"set a service whose backends are checked", "service update --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --id 6 --check http --check-path /healthz --check-interval 2s",
			"put 6 40.1.1.1:80   0 [20.1.1.10:80] check=http", "service 6"},
		{"drain a backend", "service drain --id 1 --backend 20.1.1.20:80",
			"put 1 40.1.1.1:80 tcp dsr 251 [20.1.1.10:80@5(quarantined) 20.1.1.20:80(draining)] revision 1 affinity=1m0s source=20.1.1.0/24 check=tcp", "20.1.1.20:80 is draining"},
		{"set a weight", "service weight --id 1 --backend 20.1.1.10:80 --weight 0",
			"put 1 40.1.1.1:80 tcp dsr 251 [20.1.1.10:80@0(quarantined) 20.1.1.20:80(maintenance)] revision 1 affinity=1m0s source=20.1.1.0/24 check=tcp", "weight 0"},
		{"set a state", "service state active --id 1 --backend 20.1.1.20:80",
			"put 1 40.1.1.1:80 tcp dsr 251 [20.1.1.10:80@5(quarantined) 20.1.1.20:80] revision 1 affinity=1m0s source=20.1.1.0/24 check=tcp", "20.1.1.20:80 is active"},
		{"delete a service", "service delete --id 1", "delete 1", "service 1 deleted"},
		{"switch all", "mode update snat", "mode snat 0", "mode is snat"},
		{"switch one", "mode update dsr --id 3", "mode dsr 3", "mode is dsr"},
		{"refresh a neighbour", "neighbor update 20.1.1.10", "refresh 20.1.1.10", "02:00:00:00:00:0a"},
		{"the same in British English", "neighbour update 20.1.1.10", "refresh 20.1.1.10", "02:00:00:00:00:0a"},
		{"unload", "unload", "unload", "unloaded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t)
			code, out, errOut := s.run(t, "", append(strings.Fields(c.line), "--socket", "%SOCKET")...)
			if code != 0 || !strings.Contains(out, c.prints) {
				t.Errorf("exit code %d, printed %q %q", code, out, errOut)
			}
			if !reflect.DeepEqual(s.agent.asked, []string{c.asked}) {
				t.Errorf("asked %q, want %q", s.agent.asked, c.asked)
			}
		})
	}
}

// Two administrators change two backends at once.
func TestChangeOfOneBackendIsTriedAgainWhenOthersAreAhead(t *testing.T) {
	for _, c := range []struct {
		name      string
		conflicts int
		code      int
		revision  uint64
	}{
		{"one other", 1, 0, 2},
		{"others again and again", changeTries, 2, changeTries},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t)
			s.agent.conflicts = c.conflicts
			code, _, errOut := s.run(t, "", "service", "drain", "--id", "1", "--backend", "20.1.1.20:80", "--socket", "%SOCKET")
			if code != c.code || s.agent.revision != c.revision {
				t.Errorf("exit code %d, want %d: %s; asked for the service %d times, want %d", code, c.code, errOut, s.agent.revision, c.revision)
			}
		})
	}
}

func TestDeadlineOfADrainIsATime(t *testing.T) {
	s := newSession(t)
	before := time.Now()
	if code, _, errOut := s.run(t, "", "service", "drain", "--id", "1", "--backend", "20.1.1.20:80", "--deadline", "30s", "--socket", "%SOCKET"); code != 0 {
		t.Fatal(errOut)
	}
	until := s.agent.services[0].Backends[1].DrainUntil
	if until == nil || until.Before(before.Add(30*time.Second)) || until.After(time.Now().Add(30*time.Second)) {
		t.Errorf("got %v", until)
	}
}

func TestDescribeShowsAllOfAService(t *testing.T) {
	_, out, _ := newSession(t).run(t, "", "service", "describe", "--id", "1", "--socket", "%SOCKET")
	text := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{
		"frontend 40.1.1.1:80/tcp", "encap ipip", "selection maglev, 251 slots", "affinity 1m0s", "source 20.1.1.0/24", "health check tcp via vip, port 8080, every 2s",
		"backend 20.1.1.10:80, weight 5, active, quarantined", "backend 20.1.1.20:80, weight 1, maintenance, healthy",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

func TestDumpstateHasTheDemosColumns(t *testing.T) {
	s := newSession(t)
	_, out, _ := s.run(t, "", "service", "dumpstate", "--id", "1", "--socket", "%SOCKET")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 3 {
		t.Fatalf("printed %q", out)
	}
	for i, want := range []string{
		"SOURCE IP DEST IP SOURCE PORT DEST PORT BACKEND IP STATE RX BYTES TX BYTES",
		"20.1.1.100 40.1.1.1 40000 80 20.1.1.10 ACTIVE 100 -",
		"20.1.1.100 40.1.1.1 40001 80 20.1.1.20 CLOSING 200 5000",
	} {
		if got := strings.Join(strings.Fields(lines[i]), " "); got != want {
			t.Errorf("line %d: %q, want %q", i, got, want)
		}
	}
}

func TestJSONIsWhatTheAPISays(t *testing.T) {
	s := newSession(t)
	_, out, _ := s.run(t, "", "service", "dumpstate", "-o", "json", "--socket", "%SOCKET")
	var connections []api.Connection
	if err := json.Unmarshal([]byte(out), &connections); err != nil || len(connections) != 2 || connections[0].TxBytes != nil {
		t.Errorf("got %v, %v", connections, err)
	}
	if !strings.Contains(out, `"txBytes": null`) {
		t.Errorf("in DSR Tx is not null: %s", out)
	}
	for _, line := range []string{"status", "counters", "neighbor list", "service list", "version"} {
		_, out, errOut := s.run(t, "", append(strings.Fields(line), "-o", "json")...)
		if line != "version" {
			_, out, errOut = s.run(t, "", append(strings.Fields(line), "-o", "json", "--socket", "%SOCKET")...)
		}
		if !json.Valid([]byte(out)) {
			t.Errorf("%s: no JSON: %q %q", line, out, errOut)
		}
	}
}

func TestTextShowsWhatIsMissing(t *testing.T) {
	s := newSession(t)
	for _, c := range []struct{ line, want string }{
		{"neighbor list", "20.1.1.20 - -"},
		{"counters", "dropped no_backend 4"},
		{"status", "warning mind the gap"},
		{"service list", "ID FRONTEND PROTOCOL MODE SLOTS BACKENDS"},
	} {
		_, out, _ := s.run(t, "", append(strings.Fields(c.line), "--socket", "%SOCKET")...)
		if got := strings.Join(strings.Fields(out), " "); !strings.Contains(got, c.want) {
			t.Errorf("%s: printed %q, want %q", c.line, got, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name, line string
		code       int
		says       string
	}{
		{"an unknown command", "bogus", 2, `unknown command "bogus"`},
		{"an unknown subcommand", "service bogus", 2, `unknown command "bogus"`},
		{"a group without a subcommand", "service", 2, "needs a subcommand"},
		{"an unknown flag", "status --bogus", 2, "--bogus"},
		{"a missing flag", "service update --id 1", 2, `"backends", "frontend"`},
		{"an argument too many", "status now", 2, "now"},
		{"a mode that is none", "mode update nat", 2, "nat"},
		{"an output format that is none", "status -o yaml", 2, "text or json"},
		{"an endpoint without a port", "service update --id 1 --frontend 40.1.1.1 --backends 20.1.1.10:80", 2, "--frontend"},
		{"a backend that is no endpoint", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80,x", 2, "--backends"},
		{"a weight that is too large", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80@1001", 2, "0 to 1000"},
		{"a weight that is none", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80@", 2, "--backends"},
		{"sources that are no prefix", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --sources 20.1.1.0", 2, "--sources"},
		{"a check of no kind", "service update --id 1 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --check-port 80", 2, "--check"},
		{"a backend that the service does not have", "service drain --id 1 --backend 20.1.1.99:80 --socket %SOCKET", 2, "no backend 20.1.1.99:80"},
		{"a state that is none", "service state asleep --id 1 --backend 20.1.1.10:80", 2, "asleep"},
		{"a deadline that is past", "service drain --id 1 --backend 20.1.1.10:80 --deadline -1s --socket %SOCKET", 2, "--deadline"},
		{"an id that is too large", "service update --id 4294967296 --frontend 40.1.1.1:80 --backends 20.1.1.10:80", 2, "--id"},
		{"id zero", "service update --id 0 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --socket %SOCKET", 2, "--id"},
		{"a service that is not there", "service delete --id 9 --socket %SOCKET", 2, "there is no service 9"},
		{"a conflict", "service update --id 13 --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --socket %SOCKET", 2, "frontend: is service 1's"},
		{"a failure of the agent", "service dumpstate --id 9 --socket %SOCKET", 1, "the map is full"},
		{"nobody there", "status --socket /nonexistent/agent.sock", 1, "lbagent serve"},
		{"serve without an interface", "serve", 2, "device"},
		{"serve with a mode that is none", "serve --device eth0 --bpf-lb-mode=nat", 2, "--mode"},
		{"serve with an address that is none", "serve --interface eth0 --address x", 2, "--address"},
		{"serve on an interface that is not there", "serve --device nosuch0 --socket %SOCKET.own", 2, "nosuch0"},
		{"serve on an interface that is no Ethernet", "serve --device lo --socket %SOCKET.own", 2, "Ethernet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, errOut := newSession(t).run(t, "", strings.Fields(c.line)...)
			if code != c.code || !strings.Contains(errOut, c.says) {
				t.Errorf("exit code %d, want %d; it says %q, want %q", code, c.code, errOut, c.says)
			}
		})
	}
}

func TestExitCodeOfMissingPrivilegesAndFeatures(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("attach: %w", datapath.ErrUnsupported),
		fmt.Errorf("load: %w", datapath.ErrPermission),
		fmt.Errorf("listen: %w", os.ErrPermission),
	} {
		if code := exitCode(err); code != 3 {
			t.Errorf("%v: exit code %d", err, code)
		}
	}
}

func TestConsoleRunsAScript(t *testing.T) {
	s := newSession(t)
	code, out, errOut := s.run(t, `# set up
service update --frontend=40.1.1.1:80 --backends=20.1.1.10:80 --id=1

mode update snat # live
exit
mode update dsr
`, "console", "--socket", "%SOCKET")
	if code != 0 {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	want := []string{"put 1 40.1.1.1:80   0 [20.1.1.10:80]", "mode snat 0"}
	if !reflect.DeepEqual(s.agent.asked, want) {
		t.Errorf("asked %q, want %q", s.agent.asked, want)
	}
	if !strings.Contains(out, "mode is snat") {
		t.Errorf("printed %q", out)
	}
}

func TestConsoleStopsAScriptAtTheFirstFault(t *testing.T) {
	s := newSession(t)
	code, _, errOut := s.run(t, "mode update snat\nmode update nat\nmode update dsr\n", "console", "--socket", "%SOCKET")
	if code != 2 || !strings.Contains(errOut, "line 2") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if !reflect.DeepEqual(s.agent.asked, []string{"mode snat 0"}) {
		t.Errorf("asked %q", s.agent.asked)
	}
}

func TestConsoleHelpListsTheCommands(t *testing.T) {
	_, out, _ := newSession(t).run(t, "help\n", "console", "--socket", "%SOCKET")
	for _, want := range []string{"service", "mode", "neighbor", "unload", "exit"} {
		if !strings.Contains(out, want) {
			t.Errorf("help does not name %s: %s", want, out)
		}
	}
}

func TestConsoleCompletes(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"serv", []string{"service "}},
		{"service du", []string{"service dumpstate "}},
		{"service update --fro", []string{"service update --frontend="}},
		{"mode update s", []string{"mode update snat"}},
		{"ex", []string{"exit "}},
		{"nothing", nil},
	} {
		if got := (console{}).complete(c.text); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}
