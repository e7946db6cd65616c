package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAQEMUThatEndsAtOnceIsQuoted(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	c.CPUModel = "abacus"
	_, err := Start(t.Context(), c)
	wantError(t, err, "be1: start the virtual machine", "QEMU has ended", "QEMU said:", "abacus")
	if _, err := Open(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a machine that did not start is recorded: %v", err)
	}
	if _, err := os.Lstat(socketFile(c.Dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is still there: %v", err)
	}
}

func TestADiskThatAnotherMachineWritesToIsRefused(t *testing.T) {
	t.Parallel()
	c := config(t, counts)
	run(t, c)
	c.Name, c.Dir = "be2", filepath.Join(filepath.Dir(c.Dir), "be2")
	_, err := Start(t.Context(), c)
	wantError(t, err, "be2: start the virtual machine", `Failed to get "write" lock`)
}

func TestAProgramThatIsNoQEMUIsQuoted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ script, want string }{
		"it ends with words":      {"echo no machine today >&2; exit 3", "no machine today"},
		"it ends without a word":  {"exit 0", "QEMU has ended"},
		"it answers, but not QMP": {`echo '{"hello":1}' | nc 2>/dev/null; exit 1`, "QEMU has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			c := Config{Name: "be1", Dir: filepath.Join(dir, "be1"), Binary: script(t, dir, tt.script), Accel: TCG, MemoryMB: 16, CPUs: 1, Disks: []Disk{disk(t, dir, counts)}}
			_, err := Start(t.Context(), c)
			wantError(t, err, "be1: start the virtual machine", tt.want)
		})
	}
}

func TestAStartThatIsInterruptedLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	// It holds the socket and never answers.
	program := script(t, dir, "echo $$ >"+filepath.Join(dir, "pid")+"; exec sleep 1000")
	c := Config{Name: "be1", Dir: filepath.Join(dir, "be1"), Binary: program, Accel: TCG, MemoryMB: 16, CPUs: 1, Disks: []Disk{disk(t, dir, counts)}}
	ctx, cancel := context.WithCancelCause(t.Context())
	var pid int
	c.Start = func(cmd *exec.Cmd) error {
		defer cancel(errors.New("interrupted"))
		err := cmd.Start()
		pid = cmd.Process.Pid
		return err
	}
	_, err := Start(ctx, c)
	wantError(t, err, "be1: start the virtual machine", "interrupted")
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	if _, err := Open(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is recorded: %v", err)
	}
}

func script(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBadMachinesAreRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"without a name":                   {func(c *Config) { c.Name = "" }, "it has no name"},
		"in a relative folder":             {func(c *Config) { c.Dir = "x" }, `its folder "x" is no absolute path`},
		"whose socket's path is too long":  {func(c *Config) { c.Dir += strings.Repeat("x", 107) }, "choose a shorter state folder"},
		"with an accelerator that is none": {func(c *Config) { c.Accel = "magic" }, `accelerator "magic"`},
		"without memory":                   {func(c *Config) { c.MemoryMB = 0 }, "0 MB of memory and 1 processors"},
		"without a processor":              {func(c *Config) { c.CPUs = 0 }, "16 MB of memory and 0 processors"},
		"with nothing to boot from":        {func(c *Config) { c.Disks = nil }, "neither a kernel nor a disk"},
		"with a firmware that is none":     {func(c *Config) { c.Firmware = "coreboot" }, `firmware "coreboot"`},
		"whose kernel is not there":        {func(c *Config) { c.Kernel = "/none/vmlinuz" }, "/none/vmlinuz: no such file"},
		"whose kernel's path is relative":  {func(c *Config) { c.Kernel = "vmlinuz" }, `"vmlinuz" is no absolute path`},
		"whose initrd is not there":        {func(c *Config) { c.Initrd = "/none/initrd" }, "/none/initrd: no such file"},
		"whose disk is not there":          {func(c *Config) { c.Disks[0].Path = "/none/disk" }, "/none/disk: no such file"},
		"whose disk's path is relative":    {func(c *Config) { c.Disks[0].Path = "disk" }, "no absolute path"},
		"whose disk has no format":         {func(c *Config) { c.Disks[0].Format = "" }, "there is qcow2 and raw"},
		"whose disk's serial is too long":  {func(c *Config) { c.Disks[0].Serial = strings.Repeat("1", 21) }, "more than 20 characters"},
		"whose disk is on no bus":          {func(c *Config) { c.Disks[0].Bus = "isa" }, `the bus "isa"`},
		"whose card is none":               {func(c *Config) { c.NIC = NIC{Tap: "x", MAC: "02:00:00:00:00:01", Model: "ne2000"} }, `network card "ne2000"`},
		"whose card has no address":        {func(c *Config) { c.NIC = NIC{Tap: "x"} }, "network card: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			// A program that would leave a trace.
			c := Config{Name: "be1", Dir: filepath.Join(dir, "be1"), Binary: "/bin/true", Accel: TCG, MemoryMB: 16, CPUs: 1, Disks: []Disk{disk(t, dir, counts)}}
			tt.change(&c)
			_, err := Start(t.Context(), c)
			wantError(t, err, "start the virtual machine", tt.want)
			if _, err := os.Stat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the folder was made: %v", err)
			}
		})
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Config{Name: "be1", Dir: "/x"})
	wantError(t, err, "be1: ", "accelerator", "memory", "neither a kernel nor a disk")
}

func TestASystemWithoutQEMUIsToldWhatToInstall(t *testing.T) {
	if _, err := os.Stat("/usr/bin/qemu-system-x86_64"); err == nil {
		t.Skip("QEMU is installed here, and found wherever PATH points")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := binary("")
	wantError(t, err, "qemu-system-x86")
}

func TestQEMUIsFoundWhereThePathDoesNotLead(t *testing.T) {
	if _, err := os.Stat("/usr/bin/qemu-system-x86_64"); err != nil {
		t.Skip(err)
	}
	t.Setenv("PATH", t.TempDir())
	if path, err := binary(""); err != nil || path != "/usr/bin/qemu-system-x86_64" {
		t.Errorf("got %q, %v", path, err)
	}
}
