package main

import (
	"bytes"
	"debug/pe"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"github.com/josephspurrier/goversioninfo"
)

func TestNumbers(t *testing.T) {
	cases := []struct {
		name, version string
		want          goversioninfo.FileVersion
	}{
		{"a tag is three numbers", "v1.2.3", goversioninfo.FileVersion{Major: 1, Minor: 2, Patch: 3}},
		{"commits after a tag are the fourth", "v1.2.3-45-gabcdef0", goversioninfo.FileVersion{Major: 1, Minor: 2, Patch: 3, Build: 45}},
		{"changes that are not committed count nothing", "v1.2.3-45-gabcdef0-dirty", goversioninfo.FileVersion{Major: 1, Minor: 2, Patch: 3, Build: 45}},
		{"a tag may have two numbers", "v0.7", goversioninfo.FileVersion{Minor: 7}},
		{"a commit without a tag has none", "544756d", goversioninfo.FileVersion{}},
		{"what does not fit 16 bits counts nothing", "v1.70000.3", goversioninfo.FileVersion{Major: 1, Patch: 3}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := numbers(c.version); got != c.want {
				t.Errorf("numbers(%q) = %+v, want %+v", c.version, got, c.want)
			}
		})
	}
}

// TestAProgramBearsItsVersion links a small program with the resource, as the
// Makefile does, and reads it back from the executable's .rsrc section.
func TestAProgramBearsItsVersion(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module x\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run("labctl", "A lab for layer-4 load balancing", "v1.2.3-4-gabcdef0", []string{dir}); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", "x.exe", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	file, err := pe.Open(filepath.Join(dir, "x.exe"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	section := file.Section(".rsrc")
	if section == nil {
		t.Fatal("the program has no resources")
	}
	data, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"labctl.exe", "v1.2.3-4-gabcdef0", "l4lab"} {
		var text bytes.Buffer
		for _, u := range utf16.Encode([]rune(want)) {
			text.WriteByte(byte(u))
			text.WriteByte(byte(u >> 8))
		}
		if !bytes.Contains(data, text.Bytes()) {
			t.Errorf("the program's resources do not name %q", want)
		}
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}} {
		if err := run("labctl", "", "", args); err == nil {
			t.Errorf("run with %q: no error", args)
		}
	}
	if err := run("labctl", "", "", []string{filepath.Join(t.TempDir(), "missing")}); err == nil {
		t.Error("a folder that is not there: no error")
	}
}
