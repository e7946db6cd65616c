package qemu

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/guest/answer"
	"l4lab/lab/guest/disc"
	"l4lab/lab/guest/keys"
	"l4lab/lab/powershell"
	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/role/windows"
	"l4lab/topology"
)

// buildOf is be1's making.
func buildOf(t *testing.T, p *Provider, lab provider.Lab) *build {
	t.Helper()
	b, err := p.prepare(t.Context(), lab, "be1")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start runs be1's machine, of whose system nothing is on its disk.
func start(t *testing.T, b *build, change func(*vm.Config)) *vm.VM {
	t.Helper()
	needQEMU(t)
	if err := b.clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(b.dir, firstDisk)
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	c := b.machine(vm.TCG, firstDisk)
	c.NIC, c.MemoryMB = vm.NIC{}, 128 // its place on the switch needs root
	if change != nil {
		change(&c)
	}
	v, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.End(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	return v
}

// secrets are what must show nowhere: the password, in clear and as an answer file has it.
func secrets(t *testing.T, lab provider.Lab) []string {
	t.Helper()
	password, err := keys.Password(lab.Dir, windowsPassword)
	if err != nil {
		t.Fatal(err)
	}
	return []string{password, answer.Hidden(powershell.Password(password), "AdministratorPassword")}
}

func wantNoSecret(t *testing.T, lab provider.Lab, where, text string) {
	t.Helper()
	for _, secret := range secrets(t, lab) {
		if strings.Contains(text, secret) {
			t.Errorf("the password shows in %s", where)
		}
	}
}

func TestAWindowsGuestIsSetUpOverWinRM(t *testing.T) {
	p, lab := windowsLab(t)
	b := buildOf(t, p, lab)
	s := serve(t, p, lab)
	var said []string
	p.o.Say = func(text string) { said = append(said, text) }
	v := start(t, b, nil)
	if st, err := os.Stat(b.seed()); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the disc with its secrets: %v, %v", st.Mode(), err)
	}
	line, err := os.ReadFile("/proc/" + strconv.Itoa(v.PID()) + "/cmdline")
	if err != nil || !bytes.Contains(line, []byte("seed.iso")) {
		t.Fatalf("the disc is not in the machine: %q, %v", line, err)
	}
	wantNoSecret(t, lab, "QEMU's command line", string(line))
	if err := b.await(t.Context(), v, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.outfit(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	want := []string{"facts", "adapter-ensure", "testsigning-ensure", "restart", "file-probe", "file-receive", "msi-ensure", "setup-clean"}
	if got := s.called(); !slices.Equal(got, want) {
		t.Errorf("verbs %q\nwant %q", got, want)
	}
	for path, content := range map[string]string{
		windows.Folder + `\lb.sys`: "content of lb.sys", windows.Program: "content of lbagent.exe", windows.Folder + `\setup\ebpf.msi`: "content of ebpf.msi",
	} {
		if got := s.file(path); got != content {
			t.Errorf("%s is %q, want %q", path, got, content)
		}
	}
	if !slices.Equal(said, []string{"be1 restarts"}) {
		t.Errorf("said %q", said)
	}
	// The disc is out of the machine and gone.
	if _, err := os.Stat(b.seed()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disc with the password is still there: %v", err)
	}
	if fds, err := exec.Command("ls", "-l", "/proc/"+strconv.Itoa(v.PID())+"/fd").Output(); err != nil || strings.Contains(string(fds), "seed.iso") {
		t.Errorf("QEMU still has it open (%v):\n%s", err, fds)
	}
	// Doing it again changes nothing and restarts nothing.
	before := s.boots
	if err := b.outfit(t.Context(), v); err != nil || s.boots != before {
		t.Errorf("a second set-up: %d restarts, %v", s.boots-before, err)
	}
	// The machine that is started again has the drive, empty.
	if again := b.machine(vm.TCG, firstDisk); again.Disks[seedDisk] != (vm.Disk{Bus: vm.CD}) {
		t.Errorf("its drive: %+v", again.Disks[seedDisk])
	}
}

func TestWhyAWindowsGuestDoesNotCome(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, p *Provider, lab provider.Lab, s *server)
		want  []string
		is    error
	}{
		"it never answers": {func(t *testing.T, p *Provider, lab provider.Lab, s *server) {
			s.stop()
			p.o.Limits.Windows = 400 * time.Millisecond
		}, []string{"has its set-up done and WinRM listen at 20.1.1.10:5986", "console.log", "screen.png"}, guest.ErrLimit},
		"its password is another one": {func(t *testing.T, p *Provider, lab provider.Lab, s *server) {
			s.Users["Administrator"] = "another"
		}, []string{"lets labctl in over WinRM", "credentials were refused"}, powershell.ErrAuth},
		"its certificate is another's": {func(t *testing.T, p *Provider, lab provider.Lab, s *server) {
			other, err := keys.Server(lab.Dir, "be2")
			if err != nil {
				t.Fatal(err)
			}
			p.base = led{p.base, behind(t, other.Pair())}
		}, []string{"lets labctl in over WinRM", "certificate is not the pinned one"}, powershell.ErrCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			p, lab := windowsLab(t)
			b := buildOf(t, p, lab)
			s := serve(t, p, lab)
			v := start(t, b, nil)
			c.spoil(t, p, lab, s)
			began := time.Now()
			err := b.await(t.Context(), v, p.o.Limits.Windows)
			if err == nil || !errors.Is(err, c.is) {
				t.Fatalf("error %v, want %v", err, c.is)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q:\n%v", part, err)
				}
			}
			wantNoSecret(t, lab, "the error", err.Error())
			if c.is != guest.ErrLimit && time.Since(began) > p.o.Limits.Windows-time.Second {
				t.Errorf("it was waited for to the end, %s, though that helps nobody", time.Since(began))
			}
			if picture, err := os.ReadFile(b.picture()); err != nil || !bytes.HasPrefix(picture, []byte("\x89PNG")) {
				t.Errorf("there is no picture of its screen: %v", err)
			}
			if called := s.called(); len(called) != 0 {
				t.Errorf("verbs ran: %q", called)
			}
		})
	}
}

// behind is a server with a certificate that is not be1's.
func behind(t *testing.T, pair tls.Certificate) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() }(c)
		}
	}()
	return l.Addr().String()
}

func TestAMachineThatEndsIsWaitedForNoLonger(t *testing.T) {
	p, lab := windowsLab(t)
	b := buildOf(t, p, lab)
	s := serve(t, p, lab)
	s.stop()
	v := start(t, b, nil)
	p.o.Limits.Windows = time.Minute
	time.AfterFunc(200*time.Millisecond, func() { _ = v.End(context.Background(), 0) })
	began := time.Now()
	err := b.await(t.Context(), v, p.o.Limits.Windows)
	if !errors.Is(err, guest.ErrNever) || time.Since(began) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

func TestAGuestThatSomebodyChangedIsNotStartedAgain(t *testing.T) {
	p, lab := windowsLab(t)
	b := buildOf(t, p, lab)
	s := serve(t, p, lab)
	v := start(t, b, nil)
	s.Users["Administrator"] = "another"
	err := b.reviveWindows(t.Context(), v)
	if !errors.Is(err, powershell.ErrAuth) || !strings.Contains(err.Error(), "labctl up --fresh-node be1 --name l4lb") {
		t.Errorf("error %v", err)
	}
	wantNoSecret(t, lab, "the error", err.Error())
}

func TestAGuestThatGoesOnFromAKeptStateGetsTheTime(t *testing.T) {
	p, lab := windowsLab(t)
	b := buildOf(t, p, lab)
	s := serve(t, p, lab)
	v := start(t, b, nil)
	if err := b.settleWindows(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if off := time.Since(time.Unix(s.clock, 0)); off < 0 || off > time.Minute {
		t.Errorf("its clock was set %s off", off)
	}
	if r, err := readRecord(b.dir); err != nil || !r.Ready {
		t.Errorf("record %+v, %v", r, err)
	}
}

func TestTheMachineOfAWindowsGuest(t *testing.T) {
	p, lab := windowsLab(t)
	b := buildOf(t, p, lab)
	c := b.machine(vm.TCG, "disk-2.qcow2")
	if c.MemoryMB != 2048 || c.CPUs != 2 || !c.VGA || c.NIC.Model != "e1000" || c.CPUModel != "" || c.Firmware != vm.BIOS {
		t.Errorf("machine %+v", c)
	}
	if d := c.Disks[systemDisk]; d.Bus != vm.SATA || d.Path != filepath.Join(b.dir, "disk-2.qcow2") {
		t.Errorf("system disk %+v", d)
	}
	if got := b.machine(vm.KVM, firstDisk).CPUModel; got != "host,hv_relaxed,hv_vapic,hv_spinlocks=0x1fff,hv_time" {
		t.Errorf("KVM's processor is %q", got)
	}
	lab.Topology.Providers.QEMU.Windows.NIC, lab.Topology.Providers.QEMU.Windows.MemoryMB = topology.CardVirtio, 4096
	if c := buildOf(t, p, lab).machine(vm.TCG, firstDisk); c.NIC.Model != "virtio" || c.MemoryMB != 4096 {
		t.Errorf("what the topology says does not count: %+v", c)
	}
	linux, err := p.prepare(t.Context(), lab, "be3")
	if err != nil {
		t.Fatal(err)
	}
	if c := linux.machine(vm.KVM, firstDisk); c.MemoryMB != 240 || c.VGA || c.CPUModel != "" || c.NIC.Model != "" || c.Disks[seedDisk].Bus != "" {
		t.Errorf("a Linux guest's machine has changed: %+v", c)
	}
}

func TestTheDiscOfAWindowsGuestIsItsOwn(t *testing.T) {
	p, lab := windowsLab(t)
	content, err := buildOf(t, p, lab).windowsDisc()
	if err != nil {
		t.Fatal(err)
	}
	label, files, err := disc.Read(bytes.NewReader(content))
	if err != nil || label != answer.Label {
		t.Fatalf("label %q, %v", label, err)
	}
	if text := string(files["lab.json"]); !strings.Contains(text, `"mac": "`+mac(lab)+`"`) || !strings.Contains(text, `"address": "20.1.1.10"`) || !strings.Contains(text, `"subnet": "20.1.1.0/24"`) {
		t.Errorf("lab.json %s", text)
	}
	if !bytes.Contains(files["unattend.xml"], []byte(secrets(t, lab)[1])) {
		t.Error("the answer file has not the lab's password")
	}
}

func TestWhatOfAWindowsMachineMakesItAnother(t *testing.T) {
	p, lab := windowsLab(t)
	before := buildOf(t, p, lab).design.hash()
	if again := buildOf(t, p, lab).design.hash(); again != before {
		t.Error("the same machine has two designs")
	}
	for name, change := range map[string]func(l *provider.Lab, q *topology.QEMU){
		"memory":   func(_ *provider.Lab, q *topology.QEMU) { q.Windows.MemoryMB = 4096 },
		"card":     func(_ *provider.Lab, q *topology.QEMU) { q.Windows.NIC = topology.CardVirtio },
		"programs": func(_ *provider.Lab, q *topology.QEMU) { q.Windows.EBPF.Programs = nil },
		"MTU":      func(l *provider.Lab, _ *topology.QEMU) { l.Topology.Switch.MTU = 1400 },
	} {
		t.Run(name, func(t *testing.T) {
			other, block := lab, *lab.Topology.Providers.QEMU
			other.Topology.Providers.QEMU = &block
			change(&other, &block)
			if buildOf(t, p, other).design.hash() == before {
				t.Error("it does not show")
			}
		})
	}
	linux := lab
	linux.Topology.Providers.QEMU = &topology.QEMU{}
	if b := buildOf(t, p, linux); b.design.windows != nil || b.design.image.Name != "debian" {
		t.Errorf("without an image be1 is %+v", b.design)
	}
}
