package vm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// kernelVariable names a Linux kernel for x86-64 that tests may boot, with
// support for a serial console; there is none that every machine has.
const kernelVariable = "L4LAB_TEST_KERNEL"

// linux is a machine that boots that kernel, with a busybox that counts.
func linux(t *testing.T, script string) Config {
	t.Helper()
	needQEMU(t)
	kernel := os.Getenv(kernelVariable)
	if kernel == "" {
		t.Skip("set " + kernelVariable + " to a Linux kernel")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("install Debian's package busybox-static: ", err)
	}
	program, err := elf.Open(busybox)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Skipf("%s needs libraries (%v %v); install Debian's package busybox-static", busybox, libraries, err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	initrd := filepath.Join(dir, "initrd")
	var archive bytes.Buffer
	entry(&archive, "busybox", 0o100755, data)
	entry(&archive, "init", 0o100755, []byte("#!/busybox sh\n"+script))
	entry(&archive, "TRAILER!!!", 0, nil)
	if err := os.WriteFile(initrd, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return Config{
		Name: "be1", Dir: filepath.Join(dir, "be1"), Accel: TCG, MemoryMB: 256, CPUs: 1,
		Kernel: kernel, Initrd: initrd, Append: "console=ttyS0 nokaslr mitigations=off quiet",
	}
}

// entry writes a file in cpio's format newc (Documentation/driver-api/early-userspace/buffer-format.rst
// in Linux's sources).
func entry(archive *bytes.Buffer, name string, mode int, data []byte) {
	fmt.Fprintf(archive, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	archive.WriteString(name + "\x00")
	pad(archive)
	archive.Write(data)
	pad(archive)
}

func pad(archive *bytes.Buffer) {
	for archive.Len()%4 != 0 {
		archive.WriteByte(0)
	}
}

func TestALinuxThatWasSavedGoesOn(t *testing.T) {
	t.Parallel()
	c := linux(t, `i=0
while /busybox printf '%04X %04X\n' $i $i; do
	i=$((i+1))
	/busybox sleep 0.1
done
`)
	begin := time.Now()
	v := run(t, c)
	t.Logf("QEMU answered after %s", time.Since(begin))
	awaitCount(t, v, 5)
	t.Logf("it counted after %s", time.Since(begin))
	state := stateFile(t, filepath.Dir(c.Dir))
	begin = time.Now()
	if err := v.Save(t.Context(), state, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := state.Stat(); err == nil {
		t.Logf("saved %d MB in %s", st.Size()>>20, time.Since(begin))
	}
	saved := last(v)
	if err := v.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	incoming, err := os.Open(state.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer incoming.Close()
	c.Incoming = incoming
	begin = time.Now()
	v = run(t, c)
	t.Logf("loaded in %s", time.Since(begin))
	if err := v.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitCount(t, v, saved+3)
	t.Logf("it counted on after %s", time.Since(begin))
	if first := counted(v)[0].memory; first < saved || first > saved+1 {
		t.Errorf("it goes on at %d, and was saved at %d", first, saved)
	}
	sameMoment(t, v)
}
