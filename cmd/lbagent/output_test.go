package main

import (
	"encoding/json"
	"strings"
	"testing"

	"l4lab/agent/api"
)

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
