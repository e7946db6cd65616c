package bpf

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	t.Parallel() // the compiler takes longer than most tests together
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
	expected := []string{"lb_bpfel.o", "decapxdp_bpfel.o", "decaptc_bpfel.o"}
	for name := range WindowsObjects() {
		expected = append(expected, "windows/"+name)
	}
	for _, path := range expected {
		if _, ok := committed[path]; !ok {
			t.Errorf("%s is not there: run go generate ./bpf", path)
		}
	}
}

// absolutePath is a text of an object that begins like a path from the root, of
// two folders at least: BTF and DWARF hold their strings between zeros.
var absolutePath = regexp.MustCompile(`\x00/[\w.+-]+/[\x20-\x7e]*`)

func TestNoObjectNamesThePathItWasBuiltAt(t *testing.T) {
	if !absolutePath.MatchString("\x00lb.c\x00/home/somebody/l4lab/bpf\x00") || absolutePath.MatchString("\x00./lib/maps.h\x00/* a */\x00") {
		t.Fatal("the search finds no absolute path, or takes something else for one")
	}
	objects := map[string][]byte{"lb": _LBBytes, "decap_xdp": _DecapXDPBytes, "decap_tc": _DecapTCBytes}
	for name, object := range WindowsObjects() {
		objects["windows/"+name] = object
	}
	for name, object := range objects {
		if found := absolutePath.Find(object); found != nil {
			t.Errorf("%s contains %q: other checkouts cannot reproduce it", name, found[1:])
		}
	}
}
