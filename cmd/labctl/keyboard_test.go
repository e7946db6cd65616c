package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"l4lab/lab/demo"
)

// scripted is a terminal whose keys are pressed by the test. It counts how often
// it was made raw and restored.
type scripted struct {
	keys          io.Reader
	out           bytes.Buffer
	raw, restored int
}

func (s *scripted) keyboard() keyboard {
	return keyboard{in: s.keys, out: &s.out, raw: func() (func() error, error) {
		s.raw++
		return func() error { s.restored++; return nil }, nil
	}}
}

func TestEachStepWaitsForOneKey(t *testing.T) {
	s := &scripted{keys: strings.NewReader(" x\r")}
	for number := 2; number <= 4; number++ {
		if err := s.keyboard().wait(t.Context(), demo.Step{Number: number, Title: "The page"}); err != nil {
			t.Fatalf("step %d: %v", number, err)
		}
		if s.raw != number-1 || s.restored != number-1 {
			t.Errorf("step %d: raw %d times, restored %d times", number, s.raw, s.restored)
		}
	}
	if !strings.Contains(s.out.String(), "press a key for step 3: The page") {
		t.Errorf("prompt %q", s.out.String())
	}
	if err := s.keyboard().wait(t.Context(), demo.Step{Number: 5}); !errors.Is(err, io.EOF) {
		t.Errorf("with no key left: %v, want %v", err, io.EOF)
	}
}

func TestCtrlCAtARawTerminalInterrupts(t *testing.T) {
	s := &scripted{keys: strings.NewReader("\x03")}
	err := s.keyboard().wait(t.Context(), demo.Step{Number: 2})
	var broken *interrupted
	if !errors.As(err, &broken) || broken.signal != os.Interrupt || s.restored != 1 {
		t.Errorf("got %v, restored %d times", err, s.restored)
	}
	if code := (&app{started: true}).codeOf(err); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
}

func TestASignalEndsTheWaitForAKey(t *testing.T) {
	keys, typist := io.Pipe()
	defer typist.Close()
	s := &scripted{keys: keys}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := &interrupted{os.Interrupt}
	cancel(cause)
	if err := s.keyboard().wait(ctx, demo.Step{Number: 2}); !errors.Is(err, cause) || s.restored != 1 {
		t.Errorf("got %v, restored %d times", err, s.restored)
	}
}

func TestDemoRefusesWhatItCannotDoBeforeAnythingIsMade(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"waiting for a key without a terminal":   {[]string{"demo", "--step"}, "no terminal"},
		"waiting for a key in JSON":              {[]string{"demo", "--step", "-o", "json"}, "-o json"},
		"waiting for a key and not":              {[]string{"demo", "--step", "--fast"}, "step"},
		"an output that there is not":            {[]string{"demo", "-o", "yaml"}, "text, json"},
		"a topology that is not there":           {[]string{"demo", "no-such-file.yaml"}, "no-such-file.yaml"},
		"a topology without a page to walk past": {[]string{"demo", udpAlone(t)}, "needs a TCP service"},
		"a provider that there is not":           {[]string{"demo", "--provider", "nowhere"}, "nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("LABCTL_STATE_DIR", t.TempDir())
			var out, errs bytes.Buffer
			if code := run(c.args, strings.NewReader(""), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), c.text) {
				t.Errorf("exit code %d, %s", code, errs.String())
			}
			if out.Len() > 0 {
				t.Errorf("it began: %s", out.String())
			}
		})
	}
}

// udpAlone is the file of a topology whose one service is UDP.
func udpAlone(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/udp.yaml"
	text := `name: udp
switch: {type: internal, subnet: 20.1.1.0/24}
client: {name: client, address: 20.1.1.100}
nodes:
  lb: {role: loadbalancer, os: linux, address: 20.1.1.1}
  be1: {role: backend, os: linux, address: 20.1.1.10}
services:
  - {id: 1, vip: 40.1.1.1, port: 80, protocol: udp, mode: dsr, backends: [be1]}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
