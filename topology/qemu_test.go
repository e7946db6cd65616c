package topology

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func parseQEMU(t *testing.T, block string) Topology {
	t.Helper()
	got, err := Parse("lab.yaml", append(DefaultYAML(), block...))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWindowsMachinesGetTheirDefaultsWithAnImageAlone(t *testing.T) {
	for name, c := range map[string]struct {
		block string
		want  QEMUWindows
	}{
		"without an image nothing changes": {"providers: {qemu: {memoryMB: 300}}\n", QEMUWindows{}},
		"with one, all that is left out": {"providers: {qemu: {images: {windows: server}}}\n",
			QEMUWindows{MemoryMB: 2048, CPUs: 2, NIC: CardE1000, EBPF: EBPF{Profile: ProfileEFW}}},
		"what is said counts": {"providers: {qemu: {images: {windows: server}, windows: {memoryMB: 4096, nic: virtio, ebpf: {profile: xdp, xdp: x}}}}\n",
			QEMUWindows{MemoryMB: 4096, CPUs: 2, NIC: CardVirtio, EBPF: EBPF{Profile: ProfileXDP, XDP: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseQEMU(t, c.block)
			if w := got.Providers.QEMU.Windows; !reflect.DeepEqual(w, c.want) {
				t.Errorf("got %+v, want %+v", w, c.want)
			}
			if filled := FilledQEMU(got.Providers.QEMU); !reflect.DeepEqual(filled, *got.Providers.QEMU) {
				t.Errorf("filled in Go: %+v", filled)
			}
			text, err := Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse("again.yaml", text)
			if err != nil || len(Diff(got, again)) != 0 || !reflect.DeepEqual(got, again) {
				t.Errorf("written:\n%s\nread: %v, %v", text, err, Diff(got, again))
			}
		})
	}
}

func TestAQEMUBlockThatIsRefused(t *testing.T) {
	const image = "images: {windows: server}, "
	for name, c := range map[string]struct{ block, fault string }{
		"Windows machines without an image":  {"windows: {memoryMB: 4096}", "images.windows names no image"},
		"a name that no image has":           {"images: {windows: Server!}", "is no image's name"},
		"too little memory":                  {image + "windows: {memoryMB: 256}", "256 is not between 512 and"},
		"no processor":                       {image + "windows: {cpus: 0}", "0 is not between 1 and"},
		"a card that QEMU has for others":    {image + "windows: {nic: rtl8139}", `unknown value "rtl8139"; allowed are e1000, virtio`},
		"an unknown profile":                 {image + "windows: {ebpf: {profile: efw-9}}", `unknown value "efw-9"`},
		"XDP for Windows, and another hook":  {image + "windows: {ebpf: {xdp: folder}}", "is for profile xdp"},
		"a program that is none":             {image + "windows: {ebpf: {programs: [lb.c]}}", "is neither a native image"},
		"a password":                         {image + "windows: {password: hunter2}", "a password has no place in a file"},
		"an unknown acceleration, as before": {"accel: fast", `unknown value "fast"; allowed are auto, kvm, tcg`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("lab.yaml", append(DefaultYAML(), "providers:\n  qemu: {"+c.block+"}\n"...))
			var faults Faults
			if !errors.As(err, &faults) || !strings.Contains(err.Error(), c.fault) {
				t.Fatalf("error %v, want %q", err, c.fault)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the secret: %v", err)
			}
			for _, f := range faults {
				if f.Line == 0 || f.Column == 0 {
					t.Errorf("fault without a place: %v", f)
				}
			}
		})
	}
}

func TestWhatWindowsMachinesGetIsRelativeToTheTopology(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lab.yaml")
	block := "providers: {qemu: {images: {windows: server}, windows: {ebpf: {msi: e.msi, programs: [lb.sys]}}}}\n"
	if err := os.WriteFile(path, append(DefaultYAML(), block...), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	e := got.Providers.QEMU.Windows.EBPF
	if e.MSI != filepath.Join(dir, "e.msi") || e.Programs[0] != filepath.Join(dir, "lb.sys") {
		t.Errorf("%+v, want both in %s", e, dir)
	}
}
