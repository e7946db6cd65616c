package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

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

func TestFlagsSayAllOfAHealthCheck(t *testing.T) {
	s := newSession(t)
	if code, _, errOut := s.run(t, "", strings.Fields("service update --frontend 40.1.1.1:80 --backends 20.1.1.10:80 --id 6 --check http --check-via vip --check-port 8080 "+
		"--check-path /healthz --check-status 204 --check-interval 2s --check-timeout 500ms --check-rise 1 --check-fall 5 --socket %SOCKET")...); code != 0 {
		t.Fatal(errOut)
	}
	want := api.HealthCheck{Type: "http", Via: "vip", Port: 8080, Path: "/healthz", Status: 204, Interval: api.Duration(2 * time.Second),
		Timeout: api.Duration(500 * time.Millisecond), Rise: 1, Fall: 5}
	got := s.agent.services[0].HealthCheck
	if got == nil || *got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	const text = "http via vip, port 8080, path /healthz, status 204, every 2s, timeout 500ms, rise 1, fall 5"
	if said := describeCheck(want); said != text {
		t.Errorf("it is described as %q, want %q", said, text)
	}
}

func TestSocketIsNamedByTheEnvironmentWhereNoFlagNamesIt(t *testing.T) {
	s := newSession(t)
	t.Setenv(socketVariable, s.socket)
	if code, out, errOut := s.run(t, "", "status"); code != 0 || !strings.Contains(out, "pid 42") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	if code, out, errOut := s.run(t, "status\n", "console"); code != 0 || !strings.Contains(out, "pid 42") {
		t.Errorf("in the console: exit code %d: %s%s", code, out, errOut)
	}
	t.Setenv(socketVariable, "/nonexistent/agent.sock")
	if code, _, errOut := s.run(t, "", "status", "--socket", "%SOCKET"); code != 0 {
		t.Errorf("a flag has the last word: exit code %d: %s", code, errOut)
	}
}
