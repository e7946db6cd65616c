package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/hvsim"
)

// runHvsim runs the command with these flags until what it printed has been
// looked at, and returns how it ended.
func runHvsim(t *testing.T, look func(first string), args ...string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, out := io.Pipe()
	a := &app{stdout: out, stderr: io.Discard}
	cmd := a.hvsimCommand()
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		out.Close()
		ended <- err
	}()
	text := make([]byte, 64<<10)
	n, err := in.Read(text)
	if err == nil {
		// What follows is read, too, so that nothing waits for a reader.
		go func() { _, _ = io.Copy(io.Discard, in) }()
		look(string(text[:n]))
	}
	cancel()
	return <-ended
}

func TestHvsimPrintsHowItIsReachedAndLeavesNothingWhenEphemeral(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	err := runHvsim(t, func(first string) {
		var e hvsim.Endpoint
		if err := json.Unmarshal([]byte(first), &e); err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		password, err := os.ReadFile(e.PasswordFile)
		if err != nil || !e.Simulated || e.Host != "127.0.0.1" || e.Port == 0 || len(e.Fingerprint) != 64 || e.SSH.Port == 0 {
			t.Errorf("got %+v, %v", e, err)
		}
		if secret := strings.TrimSpace(string(password)); secret == "" || strings.Contains(first, secret) {
			t.Error("the password is empty, or shows")
		}
	}, "--ephemeral", "-o", "json")
	if err != nil {
		t.Errorf("an interrupted host ended with %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestHvsimKeepsItsStateAndSaysThatItIsSimulated(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		err := runHvsim(t, func(first string) {
			if !strings.HasPrefix(first, "SIMULATED Hyper-V host") {
				t.Errorf("it says %q", first)
			}
		}, "--dir", dir, "--foreign-switch", "l4lab", "--foreign-machine", "l4lab-be1")
		if err != nil {
			t.Error(err)
		}
	}
	memory, err := os.ReadFile(filepath.Join(dir, "host.json"))
	if err != nil || bytes.Count(memory, []byte("made by hand")) != 4 {
		t.Errorf("the host remembers %s, %v", memory, err)
	}
}

func TestHvsimRefusesFlagsThatCannotBe(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown fault":           {"--fault", "flood@3"},
		"a folder that is ephemeral": {"--ephemeral", "--dir", "x"},
		"a disk and nobody to boot":  {"--ephemeral", "--linux-image", "x.vhdx"},
		"no memory":                  {"--ephemeral", "--memory", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			err := runHvsim(t, func(first string) { t.Errorf("it started: %s", first) }, args...)
			var usage usageError
			if !errors.As(err, &usage) {
				t.Errorf("got %v", err)
			}
		})
	}
}
