package hvsim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/topology"
)

// aVHDX is a file that only its first bytes make a VHDX.
func aVHDX(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	if err := os.WriteFile(path, append([]byte(vhdxMagic), make([]byte, maxDiskFile)...), 0o444); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAMachineIsMadeOfARealDiskWhereGuestsBootThem(t *testing.T) {
	r := &recorder{Guests: newNoNetwork(0, func(id string) string { return filepath.Join(t.TempDir(), id) })}
	disk := aVHDX(t)
	b := newBench(t, Options{Guests: r, LinuxDisk: disk})
	b.lay()
	if got := must(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: linuxImage}); !got.Exists || got.Format != "VHDX" || got.Type != "Dynamic" || got.Bytes != maxDiskFile+8 {
		t.Errorf("the image is %+v", got)
	}
	vm := b.machine("be3", linuxImage)
	b.start(vm.ID)
	m := r.started[len(r.started)-1]
	if at, err := filepath.EvalSymlinks(m.Image); err != nil || at != disk || m.OS != topology.Linux || m.MemoryMB != 2048 || m.Processors != 1 {
		t.Errorf("the guests were told %+v, %v", m, err)
	}

	uploaded := folder + `\images\mine.vhdx`
	content, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b.upload(uploaded, content)
	other := b.machine("be4", uploaded, mac("00155D010102"))
	b.start(other.ID)
	if m := r.started[len(r.started)-1]; !strings.HasSuffix(m.Image, "mine.vhdx") || m.OS != topology.Linux {
		t.Errorf("of a disk that was uploaded the guests were told %+v", m)
	}

	windows := b.machine("lb", windowsImage, mac("00155D010103"))
	b.start(windows.ID)
	if m := r.started[len(r.started)-1]; m.Image != "" || m.OS != topology.Windows {
		t.Errorf("of an image of the simulation's the guests were told %+v", m)
	}
}

func TestARealDiskIsNoImageWhereNobodyBootsIt(t *testing.T) {
	b := newBench(t, Options{LinuxDisk: aVHDX(t)})
	b = b.again(Options{})
	b.lay()
	if got := must(b, b.v.ImageProbe, scripts.ImageProbeParams{Path: linuxImage}); !got.Exists || got.Bytes > 100 {
		t.Errorf("the image is %+v, not one of the simulation's", got)
	}
	uploaded := folder + `\images\mine.vhdx`
	b.upload(uploaded, append([]byte(vhdxMagic), make([]byte, maxDiskFile)...))
	_, err := b.v.ImageProbe.Run(t.Context(), b.r, scripts.ImageProbeParams{Path: uploaded})
	if err == nil || !strings.Contains(err.Error(), "corrupted") {
		t.Errorf("got %v", err)
	}
}

func TestALinuxDiskThatIsNoneIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	if err := os.WriteFile(path, make([]byte, maxDiskFile+1), 0o444); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Dir: t.TempDir(), LinuxDisk: path})
	if err == nil || !strings.Contains(err.Error(), "is no VHDX") {
		t.Errorf("got %v", err)
	}
}
