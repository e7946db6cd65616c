package vm

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAMachineBootsByUEFIWithVariablesOfItsOwn(t *testing.T) {
	t.Parallel()
	c := onOverlay(t, config(t, counts))
	c.Firmware, c.MemoryMB = UEFI, 64
	if _, err := uefiCode(t.TempDir()); err != nil {
		t.Skip(err)
	}
	v := run(t, c)
	// It finds no boot loader: the tests' guest is for a BIOS.
	eventually(t, "the firmware looks for something to boot", func() bool { return strings.Contains(v.Console(10000), "BdsDxe") })
	variables := efivarsFile(c.Dir)
	if st, err := os.Stat(variables); err != nil || st.Mode() != fs.FileMode(0o600) {
		t.Fatalf("its variables: %v, %v", st.Mode(), err)
	}
	state := stateFile(t, filepath.Dir(c.Dir))
	if err := v.Save(t.Context(), state, []Overlay{{0, filepath.Join(filepath.Dir(c.Dir), "second.qcow2")}}); err != nil {
		t.Fatal(err)
	}
	r := run(t, resume(t, c, c.Disks[0], state.Name(), "again"))
	if err := r.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitState(t, r, Running)
	if _, err := os.Stat(efivarsFile(r.dir)); err != nil {
		t.Error(err)
	}
}

func TestVariablesThatAreThereAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := uefiCode(dir); err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(efivarsFile(dir), []byte("what the guest set"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := uefiCode(dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(efivarsFile(dir)); err != nil || string(data) != "what the guest set" {
		t.Errorf("they are %q now (%v)", data, err)
	}
}
