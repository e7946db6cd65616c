package bpf

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// generated says which files of this folder come from go generate.
func generated(name string) bool {
	return name == "CLANG_VERSION" || strings.HasSuffix(name, ".o") || strings.HasSuffix(name, "_bpfel.go")
}

// TestTheCommittedObjectsAreWhatTheSourceGives generates in a copy of this
// folder, at another path, and compares byte for byte.
func TestTheCommittedObjectsAreWhatTheSourceGives(t *testing.T) {
	for _, tool := range []string{"clang-19", "llvm-strip-19"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: apt-get install clang-19 llvm-19", tool)
		}
	}
	root := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join("..", name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(root, name), data, 0o600))
	}
	committed := map[string][]byte{}
	copied := filepath.Join(root, "bpf")
	must(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(copied, path), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if generated(entry.Name()) {
			committed[path] = data
			return nil
		}
		return os.WriteFile(filepath.Join(copied, path), data, 0o600)
	}))

	generate := exec.Command("go", "generate", "./bpf")
	generate.Dir = root
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("go generate ./bpf: %v\n%s", err, out)
	}
	for path, want := range committed {
		got, err := os.ReadFile(filepath.Join(copied, path))
		switch {
		case err != nil:
			t.Errorf("%s is committed, but go generate does not make it: %v", path, err)
		case path == "CLANG_VERSION" && !bytes.Equal(got, want):
			t.Errorf("the objects were made by %q, this machine has %q: differences below may come from that",
				strings.TrimSpace(string(want)), strings.TrimSpace(string(got)))
		case !bytes.Equal(got, want):
			t.Errorf("%s differs from what the source gives: run go generate ./bpf and commit it", path)
		}
	}
	for _, path := range []string{"lb_bpfel.o", "decapxdp_bpfel.o", "decaptc_bpfel.o", "windows/lb.o", "windows/decap_xdp.o"} {
		if _, ok := committed[path]; !ok {
			t.Errorf("%s is not there: run go generate ./bpf", path)
		}
	}
}

func TestNoObjectNamesThePathItWasBuiltAt(t *testing.T) {
	here, err := os.Getwd()
	must(t, err)
	objects := [][]byte{_LBBytes, _DecapXDPBytes, _DecapTCBytes}
	for _, object := range WindowsObjects() {
		objects = append(objects, object)
	}
	if slices.ContainsFunc(objects, func(o []byte) bool { return bytes.Contains(o, []byte(here)) }) {
		t.Errorf("an object contains %s: other checkouts cannot reproduce it", here)
	}
}
