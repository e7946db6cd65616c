package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"l4lab/agent/api"
)

const (
	checkInterval = 200 * time.Millisecond
	checkFall     = 3
)

func checked(via string) api.HealthCheck {
	return api.HealthCheck{Type: "http", Via: via, Interval: api.Duration(checkInterval), Timeout: api.Duration(150 * time.Millisecond), Rise: 2, Fall: checkFall}
}

// within checks that a quarantine came in time. The first check may come an interval after the
// fault, and the last may take its timeout; the rest is for a busy machine.
func within(t *testing.T, took time.Duration) {
	t.Helper()
	t.Logf("quarantined after %s", took.Round(time.Millisecond))
	if most := (checkFall+1)*checkInterval + 500*time.Millisecond; took > most {
		t.Errorf("it took %s, more than %s", took, most)
	}
}

func (l *lan) wantOnly(t *testing.T, name string) {
	t.Helper()
	if got := l.answers(t, 30); got[name] != 30 {
		t.Errorf("new connections were answered by %v, want %s alone", got, name)
	}
}

func TestBackendWhoseServerDiesIsQuarantinedAndReturns(t *testing.T) {
	l := newLAN(t)
	a := l.start(t, "--metrics", "127.0.0.1:9100")
	l.serve(t, checked("direct"))
	held := l.heldBy(t, "b2")

	l.pages["b1"].kill(t)
	within(t, l.becomes(t, backends[0], "quarantined"))
	l.wantOnly(t, "b2")
	for range 5 {
		if name, err := held.get(pageURL); name != "b2" || err != nil {
			t.Errorf("the established connection: %q, %v", name, err)
		}
	}
	if held.dials != 1 {
		t.Errorf("the established connection was made %d times", held.dials)
	}
	l.wantQuarantineVisible(t, a)

	l.pages["b1"].start(t)
	l.becomes(t, backends[0], "healthy")
	l.wantBoth(t)
	until(t, "the return in the log", func() bool { return strings.Contains(a.stderr.String(), "backend is healthy again") })
	if name, err := held.get(pageURL); name != "b2" || err != nil || held.dials != 1 {
		t.Errorf("the established connection at the end: %q, %v, made %d times", name, err, held.dials)
	}
}

// wantQuarantineVisible looks for it in the log, at the command line, and in the metrics.
func (l *lan) wantQuarantineVisible(t *testing.T, a *agent) {
	t.Helper()
	if log := a.stderr.String(); !strings.Contains(log, "backend quarantined") || !strings.Contains(log, backends[0].String()) {
		t.Errorf("the log says\n%s", log)
	}
	for _, c := range []struct{ command, says string }{
		{"service list", backends[0].String() + "(quarantined)"},
		{"service describe --id 1", backends[0].String() + ", weight 1, active, quarantined"},
		{"health", "connection refused"},
	} {
		out, err := l.ask(c.command)
		if err != nil || !strings.Contains(out, c.says) {
			t.Errorf("%s says %v\n%s", c.command, err, out)
		}
	}
	text, err := connect(t, l.Balancer, false).get("http://127.0.0.1:9100/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf(`lbagent_backend_healthy{backend=%q,service="1"} 0`, backends[0]),
		fmt.Sprintf(`lbagent_backend_healthy{backend=%q,service="1"} 1`, backends[1]),
		`lbagent_health_check_duration_seconds_count{result="failed",via="direct"}`,
		`lbagent_table_capacity_entries{table="flows4"} 131072`,
		`lbagent_build_info{`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics do not have %s", want)
		}
	}
}

// ask runs a client command.
func (r *rig) ask(line string, args ...string) (string, error) {
	out, err := command(append(append(strings.Fields(line), "--socket", r.socket), args...)...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// The server is well and answers at its own address: only who comes by the VIP's
// path sees that it is not reached there.
func TestBrokenDecapsulationIsSeenByTheChecksThroughTheVIP(t *testing.T) {
	l := newLAN(t)
	l.start(t)
	l.serve(t, checked("vip"))

	l.disable(t, "b1")
	within(t, l.becomes(t, backends[0], "quarantined"))
	if name, err := connect(t, l.Balancer, false).get("http://" + backends[0].String() + "/"); name != "b1" || err != nil {
		t.Errorf("directly it says %q, %v", name, err)
	}
	l.wantOnly(t, "b2")

	l.decapsulate(t, "b1")
	l.becomes(t, backends[0], "healthy")
	l.wantBoth(t)
}
