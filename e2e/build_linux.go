package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"l4lab/lab"
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

// install places labctl, lbagent, lbagent.exe and the first-boot program of images in a folder that it makes: those
// named, so that they stay as they are while somebody builds others, or newly
// built ones, static as they ship.
func install(p Programs, dir string) error {
	if p == (Programs{}) {
		return build(dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for the programs: %w", err)
	}
	for name, path := range map[string]string{"labctl": p.Labctl, "lbagent": p.Agent, "lbagent.exe": p.AgentWindows, lab.FirstBootName: p.FirstBoot} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && name != "labctl" && name != "lbagent" {
			continue // a lab that needs it says so: one with Windows, one whose image is to be built
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o755)
		}
		if err != nil {
			return fmt.Errorf("take %s: %w", name, err)
		}
	}
	return nil
}

func build(dir string) error {
	for system, programs := range map[string][]string{"": {"l4lab/cmd/labctl", "l4lab/cmd/lbagent", "l4lab/cmd/" + lab.FirstBootName}, "windows": {"l4lab/cmd/lbagent"}} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir + "/"}, programs...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if system == "windows" {
			cmd.Env = append(cmd.Env, "GOOS=windows", "GOARCH=amd64")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %v: %w\n%s", programs, err, out)
		}
	}
	return nil
}

// binaries builds the programs and returns their folder.
func binaries(tb fataler) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := build(dir); err != nil {
		tb.Fatal(err)
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
