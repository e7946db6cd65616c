package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"l4lab/agent/api"
)

// configured is a rig whose agent has a config file.
type configured struct {
	*rig
	file string
}

const oneService = `
services:
- id: 1
  frontend: 40.1.1.1:80
  tableSize: 251
  backends: [20.1.1.10:80, 20.1.1.20:80]
`

func newConfigured(t *testing.T, services string) *configured {
	t.Helper()
	r := newRig(t)
	c := &configured{r, filepath.Join(filepath.Dir(r.socket), "lb.yaml")}
	c.write(t, services)
	return c
}

// write replaces the file whole, as editors do.
func (c *configured) write(t *testing.T, more string) {
	t.Helper()
	text := fmt.Sprintf("interface: eth0\nsocket: {path: %s}\npinDir: %s\n%s", c.socket, c.pins, more)
	if err := os.WriteFile(c.file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.file+".new", c.file); err != nil {
		t.Fatal(err)
	}
}

func (c *configured) start(t *testing.T, more ...string) *agent {
	t.Helper()
	a := c.launchWith(t, append([]string{"--config", c.file}, more...)...)
	if !a.ready() {
		t.Fatalf("the agent ended: %v\n%s\n%s", <-a.ended, strings.Join(a.steps, "\n"), a.stderr)
	}
	return a
}

func (c *configured) ids(t *testing.T) string {
	t.Helper()
	services, err := c.client.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []uint32
	for _, s := range services {
		ids = append(ids, s.ID)
	}
	return fmt.Sprint(ids)
}

// vlan is what the agent says that it does with VLAN tags.
func (c *configured) vlan(t *testing.T) string {
	t.Helper()
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.VLAN
}

func TestConfigFileIsTheDesiredStateAtTheStartAndAtSIGHUP(t *testing.T) {
	c := newConfigured(t, oneService)
	a := c.start(t)
	if ids := c.ids(t); ids != "[1]" {
		t.Fatalf("services %s", ids)
	}
	second := strings.ReplaceAll(strings.ReplaceAll(oneService, "id: 1", "id: 2"), "40.1.1.1", "40.1.1.2")
	c.write(t, oneService+strings.TrimPrefix(second, "\nservices:\n")+"vlan: drop\nnat: {minPort: 40000, maxPort: 50000}\n")
	if vlan := c.vlan(t); vlan != "pass" {
		t.Errorf("VLAN tags at the start: %s", vlan)
	}
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "the second service", func() bool { return c.ids(t) == "[1 2]" })
	c.wantOverlap(t, true)
	until(t, "a word in the log", func() bool { return strings.Contains(a.stderr.String(), `"msg":"the config file is in place"`) })
	for _, line := range strings.Split(strings.TrimSpace(a.stderr.String()), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("no terminal, and a line of the log is no JSON: %s", line)
		}
	}
	until(t, "another word on VLAN tags", func() bool { return c.vlan(t) == "drop" })
	c.write(t, second)
	until(t, "the first service to go without a signal", func() bool { return c.ids(t) == "[2]" })
	c.write(t, second+"nat: {minPort: 61000, maxPort: 65535}\n") // beyond Linux' own, 32768 to 60999
	c.wantOverlap(t, false)
}

// wantOverlap waits until status warns of SNAT's ports, or does not any more.
func (c *configured) wantOverlap(t *testing.T, want bool) {
	t.Helper()
	until(t, fmt.Sprintf("a warning of SNAT's ports to be there: %t", want), func() bool {
		s, err := c.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(strings.Join(s.Warnings, "\n"), "replies may go astray") == want
	})
}

func TestBadConfigFileChangesNothingAndIsLoggedWithAllFaults(t *testing.T) {
	c := newConfigured(t, oneService)
	a := c.start(t)
	before, err := c.client.Service(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct{ name, text, fault string }{
		{"faults of the file", strings.Replace(oneService, "20.1.1.10:80", "20.1.1.10:81", 1) + "nat: {minPort: 1}\ncolour: red\n", `"path":"nat.minPort"`},
		{"a fault that only the balancer knows", strings.Replace(oneService, "20.1.1.10:80", "20.1.1.1:80", 1), "is the balancer itself"},
	} {
		c.write(t, bad.text)
		if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		until(t, bad.name, func() bool { return strings.Contains(a.stderr.String(), bad.fault) })
		after, err := c.client.Service(t.Context(), 1)
		if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: the service is %+v, %v", bad.name, after, err)
		}
	}
	for _, all := range []string{`"path":"services[0].backends[0]"`, `"path":"colour"`, `"line":`} {
		if !strings.Contains(a.stderr.String(), all) {
			t.Errorf("the log lacks %s:\n%s", all, a.stderr)
		}
	}
}

func TestChangesThatNeedARestartAreNamed(t *testing.T) {
	c := newConfigured(t, oneService)
	a := c.start(t)
	c.write(t, strings.Replace(oneService, "251", "509", 1)+"sizes: {services: 8}\nstateFile: /elsewhere\n")
	if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "the names", func() bool { return strings.Contains(a.stderr.String(), `"keys":"stateFile, sizes"`) })
	if s, err := c.client.Service(t.Context(), 1); err != nil || s.TableSize != 509 {
		t.Errorf("what can be changed was not: %+v, %v", s, err)
	}
}

func TestKilledAgentStartsWithItsConfigFile(t *testing.T) {
	c := newConfigured(t, oneService)
	a := c.start(t)
	if _, err := c.client.PutService(t.Context(), api.Service{ID: 7, Frontend: netip.MustParseAddrPort("40.1.1.7:80"), Backends: plain(backends...), TableSize: 251}); err != nil {
		t.Fatal(err)
	}
	until(t, "a word about what becomes of it", func() bool { return strings.Contains(a.stderr.String(), "through the API") })
	if code, out := exitOf(t, "diff", "--socket", c.socket); code != 1 || !strings.Contains(out, "40.1.1.7:80/tcp") {
		t.Errorf("diff: %d\n%s", code, out)
	}
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.wait(t)
	c.start(t)
	if ids := c.ids(t); ids != "[1]" {
		t.Errorf("services %s", ids)
	}
	if code, out := exitOf(t, "diff", "--socket", c.socket); code != 0 || !strings.Contains(out, "no difference") {
		t.Errorf("diff: %d\n%s", code, out)
	}
	other := *c // the agent follows its own, and may be sooner
	other.file += ".other"
	other.write(t, strings.Replace(oneService, "backends", "mode: snat\n  backends", 1))
	code, out := exitOf(t, "diff", "--socket", c.socket, "--config", other.file, "-o", "json")
	var diff api.Diff
	text, _, _ := strings.Cut(out, "lbagent:")
	if err := json.Unmarshal([]byte(text), &diff); err != nil || code != 1 || diff.Same || len(diff.Services) != 1 || diff.Services[0].Fields[0].Field != "mode" {
		t.Errorf("diff of a file that the agent does not have: %d, %v\n%s", code, err, out)
	}
}

func TestBadConfigFileIsRefusedAtTheStartAndLeavesTheDataPath(t *testing.T) {
	c := newConfigured(t, oneService)
	a := c.start(t)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.wait(t)
	before := c.programID(t)
	c.write(t, strings.Replace(oneService, "20.1.1.10:80", "20.1.1.1:80", 1))
	bad := c.launchWith(t, "--config", c.file)
	if code := bad.wait(t); code != exitUsage {
		t.Errorf("exit code %d\n%s", code, bad.stderr)
	}
	if !strings.Contains(bad.stderr.String(), c.file+":9:14: services[0].backends[0]: service 1: 20.1.1.1 is the balancer itself") {
		t.Errorf("it said %s", bad.stderr)
	}
	if now := c.programID(t); now != before || before == 0 {
		t.Errorf("program %d, before %d", now, before)
	}
}

func TestSocketGroupIsLetIn(t *testing.T) {
	r := newRig(t)
	r.start(t, "--socket-group", "54321", "--log-format", "text", "--log-level", "warn")
	info, err := os.Stat(r.socket)
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 54321 {
		t.Errorf("%+v, %v", info, err)
	}
}
