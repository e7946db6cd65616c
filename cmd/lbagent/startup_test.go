package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestStartIsNotBurdened keeps packages out of lbagent that do a lot at each start
// of a program that holds them, used or not. A lab of 200 backends starts lbagent
// 400 times, for a page or to attach a program; with these a start took twice
// the processor time, and each running one more memory.
func TestStartIsNotBurdened(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs the go command")
	}
	for _, system := range []string{"linux", "windows"} {
		list := exec.Command("go", "list", "-deps", ".")
		list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system)
		out, err := list.Output()
		if err != nil {
			t.Fatalf("go list for %s: %v", system, err)
		}
		for _, c := range []struct{ prefix, reason string }{
			{"github.com/gopacket/", "it makes tables of all protocols; lab/capture/pcapng, which needs it, is for labctl"},
			{"github.com/prometheus/", "it brings Protocol Buffers, procfs and expvar; agent/metrics/exposition writes the format"},
			{"google.golang.org/protobuf/", "it registers messages by reflection"},
			{"encoding/gob", "it makes codecs for Go's basic types; lab/capture has an encoding of its own"},
			{"expvar", "it starts publishing, and is for debugging"},
			{"github.com/invopop/jsonschema", "it brings a second YAML library; agent/config has the schema as a file"},
			{"go.yaml.in/", "it compiles expressions and fills tables; strictyaml rests on another library"},
		} {
			for path := range strings.Lines(string(out)) {
				if path = strings.TrimSpace(path); strings.HasPrefix(path, c.prefix) {
					t.Errorf("on %s lbagent holds %s: %s", system, path, c.reason)
				}
			}
		}
	}
}
