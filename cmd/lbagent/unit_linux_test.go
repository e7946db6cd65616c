package main

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const unitFile = "../../packaging/systemd/lbagent.service"

// readUnit returns a unit's values by section and key.
func readUnit(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	values, section := map[string][]string{}, ""
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch key, value, is := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case is && section != "":
			values[section+"."+key] = append(values[section+"."+key], value)
		default:
			t.Errorf("line %d is neither section nor key: %q", n, line)
		}
	}
	return values
}

// unitKeys are the keys of systemd.unit(5), systemd.exec(5) and so on that the unit uses: a
// key that is misspelt is ignored by systemd, and with it a restriction.
var unitKeys = []string{
	"Unit.Description", "Unit.After", "Unit.Wants", "Unit.RequiresMountsFor", "Install.WantedBy",
	"Service.Type", "Service.User", "Service.Group", "Service.ExecStartPre", "Service.BindPaths", "Service.ExecStart",
	"Service.ExecReload", "Service.Restart", "Service.RestartSec", "Service.RestartPreventExitStatus",
	"Service.RuntimeDirectory", "Service.RuntimeDirectoryMode", "Service.StateDirectory", "Service.StateDirectoryMode",
	"Service.UMask", "Service.LimitNOFILE", "Service.AmbientCapabilities", "Service.CapabilityBoundingSet", "Service.NoNewPrivileges",
	"Service.ProtectSystem", "Service.ReadWritePaths", "Service.ProtectHome", "Service.PrivateTmp", "Service.PrivateDevices",
	"Service.ProtectClock", "Service.ProtectControlGroups", "Service.ProtectHostname", "Service.ProtectKernelLogs",
	"Service.ProtectKernelModules", "Service.ProtectKernelTunables", "Service.RestrictAddressFamilies", "Service.RestrictNamespaces",
	"Service.RestrictRealtime", "Service.RestrictSUIDSGID", "Service.LockPersonality", "Service.MemoryDenyWriteExecute",
	"Service.SystemCallArchitectures", "Service.SystemCallFilter",
}

func TestUnitHasKnownKeysAndTheLeastCapabilities(t *testing.T) {
	unit := readUnit(t)
	for key := range unit {
		if !slices.Contains(unitKeys, key) {
			t.Errorf("unknown key %s", key)
		}
	}
	for key, want := range map[string]string{
		"Service.NoNewPrivileges": "yes", "Service.ProtectSystem": "strict", "Service.Restart": "always",
		"Service.ExecReload": "/bin/kill -HUP $MAINPID", "Unit.RequiresMountsFor": "/sys/fs/bpf",
	} {
		if got := unit[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	want := slices.Sorted(maps.Keys(unitCapabilities))
	for _, key := range []string{"Service.AmbientCapabilities", "Service.CapabilityBoundingSet"} {
		got := strings.Fields(strings.Join(unit[key], " "))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s is %v, tested are %v", key, got, want)
		}
	}
}

func TestUnitStartsTheAgentWithFlagsThatItHas(t *testing.T) {
	start := strings.Fields(strings.Join(readUnit(t)["Service.ExecStart"], " "))
	if len(start) < 2 || filepath.Base(start[0]) != "lbagent" {
		t.Fatalf("it starts %q", start)
	}
	cmd, rest, err := newRootCommand().Find(start[1:])
	if err != nil || cmd.Name() != "serve" {
		t.Fatalf("%v: %v", cmd, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Error(err)
	}
	if left := cmd.Flags().Args(); len(left) > 0 {
		t.Errorf("arguments that serve does not take: %q", left)
	}
}

func TestSystemdFindsNothingWrongWithTheUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	// It wants the program to be there.
	unit := filepath.Join(t.TempDir(), "lbagent.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/lbagent", os.Args[0])), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "lbagent.service") {
		t.Errorf("%v\n%s", err, out)
	}
}
