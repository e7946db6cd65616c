package qemu

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
	"l4lab/topology"
)

// fixture is a provider whose image is a file with nothing in it, and a lab.
func fixture(t *testing.T) (*Provider, provider.Lab) {
	t.Helper()
	dir := t.TempDir()
	p := New(Options{Images: image.Store{Dir: filepath.Join(dir, "images")}, SetUps: filepath.Join(dir, "setups"), Program: filepath.Join(dir, "lbagent")})
	p.accel = func() (acceleration, error) { return acceleration{vm.TCG, "there is no KVM"}, nil }
	putImage(t, p, "sum of the disk")
	if err := os.WriteFile(p.o.Program, []byte("the agent"), 0o700); err != nil {
		t.Fatal(err)
	}
	lab := provider.Lab{Topology: topology.Default(), Dir: filepath.Join(dir, "labs", "l4lb")}
	if err := os.MkdirAll(lab.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return p, lab
}

func putImage(t *testing.T, p *Provider, sum string) {
	t.Helper()
	const id = "debian-0123456789ab"
	dir := filepath.Join(p.o.Images.Dir, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk.qcow2")
	data, err := json.Marshal(image.Image{Name: "debian", ID: id, OS: topology.Linux, Disk: disk, SHA256: sum})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{disk: []byte("disk"), filepath.Join(dir, "image.json"): data} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.images = map[string]image.Image{}
}

func TestASetUpIsForLabsThatDifferInNothingButTheirNames(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *Provider, lab *provider.Lab)
		same   bool
	}{
		"another name":           {func(_ *Provider, l *provider.Lab) { l.Topology.Name = "other" }, true},
		"the block's defaults":   {func(_ *Provider, l *provider.Lab) { q := topology.FilledQEMU(nil); l.Topology.Providers.QEMU = &q }, true},
		"another provider's too": {func(_ *Provider, l *provider.Lab) { l.Topology.Providers.HyperV = &topology.HyperV{} }, true},
		"another MTU":            {func(_ *Provider, l *provider.Lab) { l.Topology.Switch.MTU = 1400 }, false},
		"more memory":            {func(_ *Provider, l *provider.Lab) { l.Topology.Providers.QEMU = &topology.QEMU{MemoryMB: 999} }, false},
		"another mode":           {func(_ *Provider, l *provider.Lab) { l.Topology.Services[0].Mode = topology.SNAT }, false},
		"an image made anew":     {func(p *Provider, _ *provider.Lab) { putImage(t, p, "another sum") }, false},
		"another agent":          {func(p *Provider, _ *provider.Lab) { os.WriteFile(p.o.Program, []byte("a newer agent"), 0o700) }, false},
		"another acceleration": {func(p *Provider, _ *provider.Lab) {
			p.accel = func() (acceleration, error) { return acceleration{vm.KVM, ""}, nil }
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			needQEMU(t)
			p, lab := fixture(t)
			before, err := p.setUpDir(t.Context(), lab)
			if err != nil {
				t.Fatal(err)
			}
			c.change(p, &lab)
			after, err := p.setUpDir(t.Context(), lab)
			if err != nil || (after == before) != c.same {
				t.Errorf("the same set-up: %t (%v), want %t", after == before, err, c.same)
			}
		})
	}
}

func TestTheSetUpsUsedLastStayAndThoseInUse(t *testing.T) {
	p, lab := fixture(t)
	now := time.Now()
	for i, name := range []string{"oldest", "inuse", ".new-killed", "old", "new", "newest"} {
		dir := filepath.Join(p.o.SetUps, name)
		at := now.Add(time.Duration(i-10) * time.Hour)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(p.o.SetUps, ".new-writing"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Labs have their folders where their users want them.
	elsewhere := provider.Lab{Topology: lab.Topology, Dir: t.TempDir()}
	if err := use(elsewhere, filepath.Join(p.o.SetUps, "inuse")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"oldest", "old"} { // in use once, and then another
		if err := use(lab, filepath.Join(p.o.SetUps, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(originFile(lab)); err != nil { // the lab went down
		t.Fatal(err)
	}
	for i, dir := range []string{"oldest", "inuse", ".new-killed", "old"} {
		at := now.Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(p.o.SetUps, dir), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.prune(); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"oldest": false, "inuse": true, "old": false, "new": true, "newest": true, ".new-killed": false, ".new-writing": true} {
		if _, err := os.Stat(filepath.Join(p.o.SetUps, name)); (err == nil) != stays {
			t.Errorf("%s is there: %t, want %t", name, err == nil, stays)
		}
	}
}

func TestWhatAMachineIsMadeFrom(t *testing.T) {
	p, lab := fixture(t)
	img, err := p.o.Images.Get("debian")
	if err != nil {
		t.Fatal(err)
	}
	hash := func(lab provider.Lab, img image.Image) string {
		d, err := designOf(lab, "be1", img)
		if err != nil {
			t.Fatal(err)
		}
		return d.hash()
	}
	before := hash(lab, img)
	if hash(lab, img) != before {
		t.Error("the same machine has two designs")
	}
	other := lab
	other.Topology = topology.Default()
	other.Topology.Services[0].Mode = topology.SNAT
	if hash(other, img) != before {
		t.Error("a service's mode is no matter of the machine's")
	}
	node := other.Topology.Nodes["be1"]
	node.Address = node.Address.Next()
	other.Topology.Nodes["be1"] = node
	newer := img
	newer.SHA256 = "another"
	if hash(other, img) == before || hash(lab, newer) == before {
		t.Error("another address, or another image, does not show")
	}
}

func TestWhatCannotBeIsRefusedBeforeAnythingStarts(t *testing.T) {
	p, lab := fixture(t)
	for name, c := range map[string]struct {
		block       topology.QEMU
		requirement string
		found       string
	}{
		"machines larger than the host":  {topology.QEMU{MemoryMB: 1 << 20}, "memory", "5 machines of 1048576 MB"},
		"an image that nobody can build": {topology.QEMU{Images: topology.QEMUImages{Linux: "mine"}}, "image mine", "it is not in " + p.o.Images.Dir},
		"KVM where there is none":        {topology.QEMU{Accel: topology.AccelKVM}, "acceleration", "KVM does not work here: there is no KVM"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.requirement == "acceleration" {
				needQEMU(t)
			}
			lab.Topology.Providers.QEMU = &c.block
			for _, r := range p.Check(t.Context(), lab) {
				if r.Name != c.requirement {
					continue
				}
				if r.OK || !r.Fatal || !r.ForUp || r.Remedy == "" || !strings.Contains(r.Found, c.found) {
					t.Errorf("%+v, want a fault of up with %q and a remedy", r, c.found)
				}
				return
			}
			t.Errorf("nothing was said of %s", c.requirement)
		})
	}
}

func TestALabThatNobodyMadeHasNothing(t *testing.T) {
	p, lab := fixture(t)
	if os.Geteuid() != 0 {
		t.Skip("looking for network namespaces needs root")
	}
	lab.Topology = topology.Topology{Name: "nosuchlab"}
	actual, err := p.Observe(context.Background(), lab)
	if err != nil || actual.Switch != nil || len(actual.Machines) > 0 {
		t.Errorf("found %+v, %v", actual, err)
	}
}

func TestAMachineThatEndedIsShownWithItsConsole(t *testing.T) {
	p, lab := fixture(t)
	dir := state.NodeDir(lab.Dir, "be1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	img, err := p.o.Images.Get("debian")
	if err != nil {
		t.Fatal(err)
	}
	d, err := designOf(lab, "be1", img)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		record record
		fault  string
	}{
		{record{Image: "debian", Design: d.hash()}, "its set-up did not end"},
		{record{Image: "debian", Design: "older", Ready: true}, "it was made from another image, memory, address, key or eBPF files"},
		{record{Image: "alpine", Design: d.hash(), Ready: true}, "image alpine -> debian"},
		{record{Image: "debian", Design: d.hash(), Ready: true}, "is off"},
	} {
		if err := c.record.write(dir); err != nil {
			t.Fatal(err)
		}
		if got := p.fault(t.Context(), lab, "be1", ""); !strings.Contains(got, c.fault) {
			t.Errorf("%+v: %q, want %q", c.record, got, c.fault)
		}
	}
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := program("qemu-system-x86_64"); err != nil {
		t.Skip(err)
	}
}

func TestAPanicIsShownByTheLineThatSaysWhy(t *testing.T) {
	for name, c := range map[string]struct{ console, want string }{
		"with a trace after it":            {"a\n[ 31.1] Kernel panic - not syncing: sysrq triggered crash\n[ 31.2] Call Trace:\n[ 31.8]  </TASK>\n", "Kernel panic - not syncing: sysrq triggered crash"},
		"the last of several":              {"Kernel panic - not syncing: one\nLinux version 6\nKernel panic - not syncing: two", "Kernel panic - not syncing: two"},
		"by the end where nothing says so": {"login:\n\n", "login:"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := panicLine(c.console); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestMachinesAreMadeAnewOnRequestOnce(t *testing.T) {
	p, lab := fixture(t)
	p.o.Fresh = provider.Fresh{Nodes: []string{"be3"}}
	if fault := p.fault(t.Context(), lab, "be3", ""); fault != "is to be made anew" {
		t.Errorf("be3: %q", fault)
	}
	if p.anew(lab, "be4") {
		t.Error("be4 was not asked for")
	}
	b := build{Provider: p, lab: lab, name: "be3"}
	b.booted()
	if p.anew(lab, "be3") {
		t.Error("be3 would be made a second time by what takes a failure back")
	}
}
