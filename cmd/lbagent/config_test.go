package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command is lbagent with the arguments: this test binary again.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asLBAgent+"=1")
	return cmd
}

// exitOf runs a command of the client and returns its exit code and what it printed.
func exitOf(t *testing.T, args ...string) (int, string) {
	t.Helper()
	out, err := command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

func TestCheckPrintsAllFaultsOrASummary(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "interface: eth0\nservices:\n- id: 1\n  frontend: 40.1.1.1:80\n  backends: [20.1.1.10:80, 20.1.1.20:80]\n")
	bad := file("bad.yaml", "interface: eth0\nmode: nat\nservices:\n- id: 1\n  frontend: 40.1.1.1:80\n  backends: [20.1.1.10:81]\n")
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"a file without a fault", []string{"check", good}, 0, []string{"is fine: interface eth0, 1 services, 2 backends", "note: the file names no addresses"}},
		{"one without a fault in JSON", []string{"check", good, "-o", "json"}, 0, []string{`"ok": true`, `"backends": 2`}},
		{"one with faults", []string{"check", bad}, exitUsage, []string{"bad.yaml:2:7: mode: unknown value", "bad.yaml:6:14: services[0].backends[0]"}},
		{"one with faults in JSON", []string{"check", bad, "-o", "json"}, exitUsage, []string{`"line": 2`, `"path": "services[0].backends[0]"`}},
		{"one that is not there", []string{"check", filepath.Join(dir, "none")}, exitUsage, []string{"no such file"}},
		{"none", []string{"check"}, exitUsage, []string{"accepts 1 arg"}},
		{"an interface that is not here", []string{"check", "--local", file("other.yaml", "interface: nowhere0\n")}, exitUsage, []string{"nowhere0"}},
		{"serve with a bad file", []string{"serve", "--config", bad}, exitUsage, []string{"bad.yaml:2:7: mode"}},
		{"serve with a file whose fault a flag mends", []string{"serve", "--config", bad, "--mode", "dsr"}, exitUsage, []string{"bad.yaml:6:14"}},
		{"serve with a bad flag", []string{"serve", "--device", "x", "--log-level", "loud"}, exitUsage, []string{"--log-level: unknown value"}},
		{"serve without an interface", []string{"serve"}, exitUsage, []string{`"device"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out := exitOf(t, c.args...)
			if code != c.code {
				t.Errorf("exit code %d", code)
			}
			for _, text := range c.says {
				if !strings.Contains(out, text) {
					t.Errorf("it does not say %s:\n%s", text, out)
				}
			}
		})
	}
}

func TestConfigPrintsAnExampleAndASchema(t *testing.T) {
	code, out := exitOf(t, "config", "example")
	if code != 0 || !strings.Contains(out, "interface: eth0") {
		t.Errorf("%d\n%s", code, out)
	}
	code, out = exitOf(t, "config", "schema")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("%d\n%s", code, out)
	}
}

func TestDiffShowsEachDifferenceAndExitsWithOne(t *testing.T) {
	s := newSession(t)
	code, out, _ := s.run(t, "", "diff", "--socket", "%SOCKET")
	if code != 0 || !strings.Contains(out, "no difference between the data path and what is desired (state)") {
		t.Errorf("%d\n%s", code, out)
	}
	file := filepath.Join(t.TempDir(), "lb.yaml")
	if err := os.WriteFile(file, []byte("services:\n- {id: 1, frontend: 40.1.1.1:80, backends: [20.1.1.10:80]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := s.run(t, "", "diff", "--socket", "%SOCKET", "--config", file)
	for _, want := range []string{"40.1.1.1:80/tcp  mode", "snat", "40.1.1.2:80/udp  -", "missing"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}
	if code != 1 || !strings.Contains(stderr, "2 services differ") {
		t.Errorf("%d, %s", code, stderr)
	}
	if code, _, stderr = s.run(t, "", "diff", "--socket", "%SOCKET", "--config", file+".none"); code != exitUsage {
		t.Errorf("a file that is not there: %d, %s", code, stderr)
	}
}
