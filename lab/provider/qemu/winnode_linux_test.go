package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
	"l4lab/topology"
)

func TestWhatWindowsGuestsNeedIsLookedForBeforeAnythingStarts(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(t *testing.T, p *Provider, q *topology.QEMU)
		requirement string
		found       string
		remedy      string
	}{
		"an image that is there": {func(*testing.T, *Provider, *topology.QEMU) {}, "image server", "disk.qcow2", ""},
		"no such image": {func(_ *testing.T, _ *Provider, q *topology.QEMU) { q.Images.Windows = "other" },
			"image other", `there is no image "other"`, "labctl image import FILE --name other --os windows"},
		"an image of Linux": {func(_ *testing.T, _ *Provider, q *topology.QEMU) { q.Images.Windows = "debian" },
			"image debian", "image debian has linux on it", "--os windows"},
		"a Windows image for Linux": {func(_ *testing.T, _ *Provider, q *topology.QEMU) { q.Images.Linux = "server" },
			"image server", "image server has windows on it", "image import"},
		"no installer": {func(t *testing.T, _ *Provider, q *topology.QEMU) { remove(t, q.Windows.EBPF.MSI) },
			"windows.ebpf.msi", "no such file", "providers.qemu.windows.ebpf.msi"},
		"no data path": {func(t *testing.T, _ *Provider, q *topology.QEMU) { remove(t, q.Windows.EBPF.Programs[0]) },
			"windows.ebpf.programs[0]", "no such file", "providers.qemu.windows.ebpf.programs[0]"},
		"memory that nobody has": {func(_ *testing.T, _ *Provider, q *topology.QEMU) { q.Windows.MemoryMB = 1 << 20 },
			"memory", "3 machines of 1048576 MB and 2 of 240 MB", "give the machines less"},
		"no image named": {func(_ *testing.T, _ *Provider, q *topology.QEMU) { *q = topology.QEMU{} }, "Windows guests", "Linux machines stand in", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, lab := windowsLab(t)
			c.change(t, p, lab.Topology.Providers.QEMU)
			for _, r := range p.Check(t.Context(), lab) {
				if r.Name != c.requirement || !strings.Contains(r.Found, c.found) {
					continue
				}
				if ok := c.remedy == ""; r.OK != ok || !r.Fatal || !r.ForUp || !strings.Contains(r.Remedy, c.remedy) {
					t.Errorf("%+v, want a remedy with %q", r, c.remedy)
				}
				return
			}
			t.Errorf("nothing was said of %s with %q: %+v", c.requirement, c.found, p.Check(t.Context(), lab))
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestALabWithRealWindowsGuestsIsOneThatStatusCallsSo(t *testing.T) {
	p, lab := windowsLab(t)
	d := p.Driver()
	if d.Emulated(lab.Topology, topology.Windows) || d.Runs(lab.Topology, topology.Windows) != topology.Windows || d.Runs(lab.Topology, topology.Linux) != topology.Linux {
		t.Error("its Windows nodes only stand in for Windows")
	}
	if other := topology.Default(); !d.Emulated(other, topology.Windows) || d.Runs(other, topology.Windows) != topology.Linux {
		t.Error("without an image they do not")
	}
	if p.HasSetUp(t.Context(), lab) {
		t.Error("a set-up is said to be kept")
	}
	p.made[lab.Dir] = map[string]bool{}
	for _, name := range lab.Topology.NodeNames() {
		p.made[lab.Dir][name] = true
	}
	if err := p.KeepSetUp(t.Context(), lab); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(p.o.SetUps); len(entries) != 0 {
		t.Errorf("its set-up is kept: %v, %v", entries, err)
	}
}

func TestTheWayIntoAWindowsNode(t *testing.T) {
	p, lab := windowsLab(t)
	s := serve(t, p, lab)
	m, err := p.Machine(lab, "be1")
	if err != nil {
		t.Fatal(err)
	}
	if s.Requests() != 0 {
		t.Error("to name a machine is to speak to it")
	}
	facts, err := m.System.Observe(t.Context())
	if err != nil || facts.Agent.PID != 0 {
		t.Errorf("facts %+v, %v", facts, err)
	}
	if err := p.Close(t.Context()); err != nil || s.Shells() != 0 {
		t.Errorf("%d shells are left: %v", s.Shells(), err)
	}
	var state provider.MachineState
	if err := p.lookWindows(t.Context(), lab, "be1", &state); err != nil || state.MTU != 1500 || len(state.Faults) != 0 {
		t.Errorf("state %+v, %v", state, err)
	}
	lab.Topology.Switch.MTU = 1400
	state = provider.MachineState{}
	if err := p.lookWindows(t.Context(), lab, "be1", &state); err != nil || !slices.Equal(state.Faults, []string{"mtu 1500 -> 1400"}) {
		t.Errorf("state %+v, %v", state, err)
	}
}

func TestWhatAWindowsGuestRecordedIsFetchedFromIt(t *testing.T) {
	p, lab := windowsLab(t)
	s := serve(t, p, lab)
	place := capture.Place{Machine: "be1"}
	frame := append(bytes.Repeat([]byte{2}, 12), 8, 0, 0x45, 0, 0, 20)
	var file bytes.Buffer
	if err := pcapng.Write(&file, []capture.Recording{{Place: place, Frames: []capture.Frame{{Time: time.Unix(1, 0), Data: frame, Length: len(frame)}}}}); err != nil {
		t.Fatal(err)
	}
	s.recorded = file.Bytes()
	session, err := p.Capture(t.Context(), lab, place)
	if err != nil {
		t.Fatal(err)
	}
	result, err := session.Stop()
	if frames := session.Frames(); err != nil || len(frames) != 1 || !bytes.Equal(frames[0].Data, frame) || result.Dropped != 2 {
		t.Errorf("%d frames, %d dropped, %v", len(frames), result.Dropped, err)
	}
}

func TestAWindowsMachineBootsByUEFI(t *testing.T) {
	if _, err := vm.FindUEFI(); err != nil {
		t.Skip(err)
	}
	p, lab := windowsLab(t)
	putWindowsImage(t, p, image.Image{Name: "server", OS: topology.Windows, SHA256: "sum", Firmware: image.UEFI})
	p.images = map[string]image.Image{}
	b := buildOf(t, p, lab)
	v := start(t, b, nil)
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(v.Console(20000), "BdsDxe") {
		if time.Now().After(deadline) {
			t.Fatalf("the firmware says nothing:\n%s", v.Console(2000))
		}
		time.Sleep(50 * time.Millisecond)
	}
	// It looks at the disk and then at the CD, by name: both are where it can see them.
	for _, device := range []string{"DVD-ROM", "HARDDISK"} {
		for !strings.Contains(v.Console(20000), device) {
			if time.Now().After(deadline) {
				t.Fatalf("the firmware does not know of a %s:\n%s", device, v.Console(4000))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// The whole of EnsureNode with a real QEMU on a real switch; what answers in place of
// Windows is the simulated service.
func TestAWindowsNodeFromNothingToItsEnd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces: needs root")
	}
	needQEMU(t)
	p, lab := windowsLab(t)
	lab.Topology.Name = "wintest"
	lab.Topology.Providers.QEMU.Windows.MemoryMB = 512
	img, err := p.o.Images.Get("server")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", img.Disk, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	if err := p.EnsureSwitch(t.Context(), lab); err != nil {
		t.Fatal(err)
	}
	destroy := func() error { return p.Destroy(context.Background(), lab) }
	t.Cleanup(func() {
		if err := destroy(); err != nil {
			t.Error(err)
		}
	})
	if err := p.EnsureNode(t.Context(), lab, lab.Topology.Client.Name); err != nil {
		t.Fatal(err)
	}
	s := serve(t, p, lab)
	if err := p.EnsureNode(t.Context(), lab, "be1"); err != nil {
		t.Fatal(err)
	}
	dir := state.NodeDir(lab.Dir, "be1")
	v, err := vm.Open(dir)
	if err != nil || !v.Alive() {
		t.Fatalf("its machine: %v", err)
	}
	if got := p.state(t.Context(), lab, "be1", ""); len(got.Faults) != 0 || got.MTU != 1500 || got.About != "tcg (emulated)" {
		t.Errorf("state %+v", got)
	}
	err = filepath.WalkDir(lab.Dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Name() == "bpf" {
			return filepath.SkipDir // the kernel's
		}
		if err == nil && e.Type().IsRegular() && filepath.Base(path) != windowsPassword {
			content, err := os.ReadFile(path)
			wantNoSecret(t, lab, path, string(content))
			return err
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	// Up again: nothing is started anew. A machine that ended is started from its disk.
	if err := p.EnsureNode(t.Context(), lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if same, err := vm.Open(dir); err != nil || same.PID() != v.PID() {
		t.Errorf("another process: %v", err)
	}
	boots := s.boots
	if err := v.End(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := p.state(t.Context(), lab, "be1", ""); len(got.Faults) != 1 || !strings.Contains(got.Faults[0], "is off") {
		t.Errorf("state of one that is off %+v", got)
	}
	if err := p.EnsureNode(t.Context(), lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if s.boots != boots {
		t.Error("it was set up from nothing again")
	}
	if err := p.RemoveNode(t.Context(), lab, "be1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is left of it: %v", err)
	}
}
