package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"l4lab/topology"
)

// fataler is what Ginkgo's and the testing package's ways to fail have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	TempDir() string
	Cleanup(func())
}

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes network namespaces")
	}
}

// binaries builds labctl and lbagent, static as they ship, and returns their folder.
func binaries(tb fataler) string {
	tb.Helper()
	dir := tb.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/", "l4lab/cmd/labctl", "l4lab/cmd/lbagent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// shortTemp returns a temporary folder with a path short enough for unix
// sockets and ownership marks below it.
func shortTemp(tb fataler) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "l4lab-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func writeTopology(tb fataler, t topology.Topology) string {
	tb.Helper()
	data, err := topology.Marshal(t)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), t.Name+".yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
