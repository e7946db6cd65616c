package qemuguests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/seed"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests"
	"l4lab/topology"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == victimWord {
		fmt.Fprintln(os.Stderr, victim(os.Args[2]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// rig is a simulated host's guests, gone with the test.
type rig struct {
	*Guests
	t   *testing.T
	dir string
}

func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "qemu-io"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs QEMU: ", err)
		}
	}
}

func folder(t *testing.T) string {
	t.Helper()
	// Unix sockets and marks have short paths; t.TempDir's are long.
	dir, err := os.MkdirTemp("", "qg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func options(dir string, log *slog.Logger) Options {
	// No machine here has a first process in a namespace.
	return Options{netnsguests.Options{Name: "tq", Dir: filepath.Join(dir, "g"), Self: []string{"/bin/false"}, Log: log}}
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	needs(t)
	g, err := New(t.Context(), options(dir, slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{g, t, dir}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if left := processes(dir); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
	})
	lan(t, g)
	return r
}

// lan makes a switch with the host on it.
func lan(t interface {
	Helper()
	Fatal(...any)
}, g *Guests) {
	t.Helper()
	if _, err := g.EnsureSwitch(context.Background(), "lan"); err != nil {
		t.Fatal(err)
	}
	err := g.SetHost(context.Background(), hvsim.HostNetwork{Switch: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("20.1.1.100/24")}, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
}

// processes are those that bear the mark of the instance in a folder.
func processes(dir string) []string {
	var left []string
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), filepath.Join(dir, "g")+"\x00") {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

func (r *rig) await(what string, met func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !met() {
		if time.Now().After(deadline) {
			r.t.Fatalf("after 30 s: not %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// anImage is a VHDX whose boot sector stops the processor: a system that starts, and
// hears nothing more.
func anImage(dir string) (string, error) {
	raw, disk := filepath.Join(dir, "image.raw"), filepath.Join(dir, "image.vhdx")
	sector := make([]byte, 512)
	copy(sector, []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jmp to hlt
	copy(sector[510:], []byte{0x55, 0xaa})
	err := errors.Join(os.WriteFile(raw, sector, 0o600), os.Truncate(raw, 8<<20))
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", "subformat=dynamic", raw, disk).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return disk, nil
}

// machine is one of a real disk that a BIOS boots.
func machine(dir string) (hvsim.Machine, error) {
	disk, err := anImage(dir)
	return hvsim.Machine{
		ID: "be3", Name: "lab-be3", OS: topology.Linux, Switch: "lan", MAC: net.HardwareAddr{0, 0x15, 0x5d, 1, 1, 0x1e},
		Image: disk, Generation: 1, MemoryMB: 32, Processors: 1, Dir: filepath.Join(dir, "disk"), Spoofing: true,
	}, err
}

func (r *rig) machine() hvsim.Machine {
	r.t.Helper()
	m, err := machine(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) start(m hvsim.Machine) {
	r.t.Helper()
	if err := r.Start(r.t.Context(), m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stop(id string) {
	r.t.Helper()
	if err := r.Stop(r.t.Context(), id, false); err != nil {
		r.t.Fatal(err)
	}
}

// write puts a mark at the second MB of the disk of a machine that is off.
func (r *rig) write(m hvsim.Machine, mark string) {
	r.t.Helper()
	r.io(m, "write -P "+mark+" 1M 512")
}

// has says whether the disk has a mark.
func (r *rig) has(m hvsim.Machine, mark string) bool {
	r.t.Helper()
	return !strings.Contains(r.io(m, "read -P "+mark+" 1M 512"), "verification failed")
}

func (r *rig) io(m hvsim.Machine, command string) string {
	r.t.Helper()
	d, err := r.lookup(m.ID).readDisk()
	if err != nil {
		r.t.Fatal(err)
	}
	// Its exit code says, too, that a pattern is another one.
	out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", command, filepath.Join(m.Dir, d.Top)).CombinedOutput()
	if err != nil && !strings.Contains(string(out), "verification failed") {
		r.t.Fatalf("qemu-io %s: %v\n%s", command, err, out)
	}
	return string(out)
}

func TestAMachineOfARealDiskRunsInQEMUOnItsSwitch(t *testing.T) {
	r := newRig(t, folder(t))
	m := r.machine()
	r.start(m)
	if got := r.State(m.ID); !got.Running || got.Heartbeat != heartbeatNoContact {
		t.Errorf("it is %+v", got)
	}
	if found := processes(r.dir); len(found) < 2 || !strings.Contains(strings.Join(found, "\n"), "guest=lab-be3") {
		t.Errorf("its processes are %v", found)
	}
	stop, err := r.Capture(t.Context(), []string{m.ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stop(func(string) string { return filepath.Join(r.dir, "be3.pcapng") }); err != nil {
		t.Error(err)
	}
	if err := r.Start(t.Context(), m); err != nil {
		t.Errorf("turned on again: %v", err)
	}

	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := r.Stop(short, m.ID, true); err == nil || !strings.Contains(err.Error(), "machine lab-be3: wait until it is off") {
		t.Errorf("a system that hears no power button: %v", err)
	}
	if !r.State(m.ID).Running {
		t.Error("it is off all the same")
	}
	if err := r.Remove(t.Context(), m.ID); err == nil || !strings.Contains(err.Error(), "it is on") {
		t.Errorf("removed while it is on: %v", err)
	}
	r.stop(m.ID)
	if r.State(m.ID).Running || len(processes(r.dir)) > 0 {
		t.Errorf("it is %+v with %v", r.State(m.ID), processes(r.dir))
	}
	if err := r.RemoveSwitch(t.Context(), "lan"); err != nil {
		t.Errorf("its place on the switch is left: %v", err)
	}
	if err := r.Remove(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	for _, path := range []string{m.Dir, r.runDir(m.ID), r.knownFile(m.ID)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestAMachineWhoseQEMUEndsIsOff(t *testing.T) {
	r := newRig(t, folder(t))
	m := r.machine()
	r.start(m)
	pid := r.lookup(m.ID).vm.PID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.await("off", func() bool { return !r.State(m.ID).Running })
	r.start(m)
	if !r.State(m.ID).Running {
		t.Error("it does not come back")
	}
}

func TestACheckpointBringsAMachinesDiskBack(t *testing.T) {
	r := newRig(t, folder(t))
	m := r.machine()
	if err := r.Save(t.Context(), m.ID, "before it was ever on"); err != nil {
		t.Fatal(err)
	}
	r.start(m)
	r.stop(m.ID)
	r.write(m, "0x41")
	r.start(m)
	if err := r.Save(t.Context(), m.ID, "while it is on"); err != nil {
		t.Fatal(err)
	}
	if err := r.Restore(t.Context(), m.ID, "while it is on"); err == nil || !strings.Contains(err.Error(), "it is on") {
		t.Errorf("restored while it is on: %v", err)
	}
	r.stop(m.ID)
	r.write(m, "0x42")
	if err := r.Save(t.Context(), m.ID, "while it is off"); err != nil {
		t.Fatal(err)
	}
	r.write(m, "0x43")
	for _, c := range []struct{ checkpoint, mark string }{
		{"while it is on", "0x41"}, {"while it is off", "0x42"}, {"before it was ever on", "0"}, {"while it is off", "0x42"},
	} {
		if err := r.Restore(t.Context(), m.ID, c.checkpoint); err != nil {
			t.Fatal(err)
		}
		if !r.has(m, c.mark) {
			t.Errorf("after %q the disk has not %s", c.checkpoint, c.mark)
		}
		r.write(m, "0x44")
	}
	if err := r.Restore(t.Context(), m.ID, "never made"); err == nil {
		t.Error("a checkpoint that nobody made is restored")
	}
	// Two checkpoints are files of their own, and one lies on them.
	files, err := filepath.Glob(filepath.Join(m.Dir, "*.qcow2"))
	if err != nil || len(files) != 3 {
		t.Errorf("files %v, %v", files, err)
	}
	r.start(m)
	if !r.State(m.ID).Running {
		t.Error("it does not start from a restored disk")
	}
}

func TestTheAddressIsThatOfTheSeedAndIsKept(t *testing.T) {
	r := newRig(t, folder(t))
	m := r.machine()
	m.Seed = filepath.Join(r.dir, "seed.iso")
	login, err := keys.Client(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(m.Seed)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = seed.Write(f, seed.Seed{
		Hostname: "be3", User: seed.Root, Login: login, HostKey: login, MAC: m.MAC, Address: netip.MustParsePrefix("20.1.1.30/24"), MTU: 1500,
	})
	if err != nil {
		t.Fatal(err)
	}
	address := func() string {
		d, err := r.lookup(m.ID).readDisk()
		if err != nil {
			t.Fatal(err)
		}
		return d.Address
	}
	r.start(m)
	if address() != "20.1.1.30" {
		t.Errorf("the address is %q", address())
	}
	r.stop(m.ID)
	m.Seed = ""
	r.start(m)
	if address() != "20.1.1.30" {
		t.Errorf("without the disc the address is %q", address())
	}
}

// victimWord has the test's own program be a simulated host that is to be killed.
const victimWord = "qemuguests-victim"

// fatal ends a victim.
type fatal struct{}

func (fatal) Helper()           {}
func (fatal) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...); os.Exit(1) }

// victim starts a machine in a folder and stays.
func victim(dir string) error {
	g, err := New(context.Background(), options(dir, nil))
	if err != nil {
		return err
	}
	lan(fatal{}, g)
	m, err := machine(dir)
	if err == nil {
		err = g.Start(context.Background(), m)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

func TestWhatAKilledHostLeftIsGoneWithTheNext(t *testing.T) {
	needs(t)
	dir := folder(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, victimWord, dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 5)
	if _, err := out.Read(word); err != nil || string(word) != "ready" {
		t.Fatalf("the host to be killed says %q (%v)", word, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	record, err := os.ReadFile(filepath.Join(dir, "g/vm/be3/vm.json"))
	if err != nil {
		t.Fatal(err)
	}
	var left struct{ QEMU fabric.Process }
	if err := json.Unmarshal(record, &left); err != nil || !left.QEMU.Alive() {
		t.Fatalf("the killed host left no QEMU: %s (%v)", record, err)
	}

	r := newRig(t, dir)
	if left.QEMU.Alive() || len(processes(dir)) > 0 {
		t.Errorf("QEMU is still there: %v", processes(dir))
	}
	m, err := machine(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.State(m.ID).Running || r.lookup(m.ID) == nil {
		t.Errorf("the machine is %+v, and known: %v", r.State(m.ID), r.lookup(m.ID) != nil)
	}
	r.start(m)
	if !r.State(m.ID).Running {
		t.Error("it does not start again from its disk")
	}
}
