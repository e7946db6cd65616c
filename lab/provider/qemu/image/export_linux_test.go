package image

import (
	"bytes"
	"crypto/rand"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/topology"
)

// built is an image as Build makes them, of parts that nobody could boot.
func built(t *testing.T, s Store) (i Image, root []byte) {
	t.Helper()
	if missing := MissingForExport(); len(missing) > 0 {
		t.Skip("needs ", strings.Join(missing, ", "))
	}
	work, err := s.workFolder("debian")
	if err != nil {
		t.Fatal(err)
	}
	root = make([]byte, 3<<20)
	if _, err := rand.Read(root[1<<20 : 2<<20]); err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "root.raw")
	for path, content := range map[string]string{
		raw: string(root), filepath.Join(work, kernelFile): strings.Repeat("kernel", 1000),
		filepath.Join(work, initrdFile): "initrd", filepath.Join(work, driversFile): "drivers",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(work, diskFile))
	i, err = s.publish(work, Image{
		Name: "debian", Recipe: strings.Repeat("a", 64), OS: topology.Linux, FirstBoot: L4Lab,
		Kernel: kernelFile, Initrd: initrdFile, Drivers: driversFile, Append: "quiet",
	})
	if err != nil {
		t.Fatal(err)
	}
	return i, root
}

func TestAnExportedDiskHasAKernelForFirmwareAndTheRoot(t *testing.T) {
	i, root := built(t, Store{t.TempDir()})
	file := filepath.Join(t.TempDir(), "x.raw")
	if err := Export(t.Context(), i, file, Raw); err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// The GPT's header is in the second sector and in the last; an entry begins
	// with its type, whose first four bytes are little-endian (UEFI 5.3).
	if !bytes.HasPrefix(disk[512:], []byte("EFI PART")) || !bytes.HasPrefix(disk[len(disk)-512:], []byte("EFI PART")) {
		t.Error("it has no GPT at both ends")
	}
	for n, want := range []struct{ kind, first, sectors uint64 }{{0xc12a7328, 2048, 131072}, {0x4f68bce3, 133120, 3 << 11}} {
		entry := disk[1024+128*n:]
		kind, first, last := binary.LittleEndian.Uint32(entry), binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
		if uint64(kind) != want.kind || first != want.first || last-first+1 != want.sectors {
			t.Errorf("partition %d is %08x from %d to %d, want %+v", n+1, kind, first, last, want)
		}
	}
	if !bytes.Equal(disk[65<<20:68<<20], root) {
		t.Error("the root partition is not the image's disk")
	}
	kernel := filepath.Join(t.TempDir(), "kernel.efi")
	if _, err := run(t.Context(), "mcopy", "-n", "-i", file+"@@1M", "::/EFI/BOOT/BOOTX64.EFI", kernel); err != nil {
		t.Fatal(err)
	}
	program, err := pe.Open(kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for name, want := range map[string]string{
		".linux": strings.Repeat("kernel", 1000), ".initrd": "initrd\x00\x00drivers\x00", ".cmdline": "console=tty0 quiet\x00",
	} {
		s := program.Section(name)
		if s == nil {
			t.Errorf("the kernel has no section %s", name)
			continue
		}
		if content, err := s.Data(); err != nil || string(content[:min(len(content), int(s.VirtualSize))]) != want {
			t.Errorf("%s has %d bytes, %v, want %d", name, len(content), err, len(want))
		}
	}
}

func TestAnExportIsInTheFormatThatIsAskedFor(t *testing.T) {
	i, _ := built(t, Store{t.TempDir()})
	dir := t.TempDir()
	for name, want := range map[string]string{"x.vhdx": formatVHDX, "x.qcow2": formatQCOW2, "x.img": formatRaw, "x": formatVHDX} {
		file := filepath.Join(dir, name)
		if err := Export(t.Context(), i, file, FormatOf(file)); err != nil {
			t.Fatal(err)
		}
		if got, err := diskFormat(file); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", name, got, err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestAnExportRefuses(t *testing.T) {
	i, _ := built(t, Store{t.TempDir()})
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := i
	old.Drivers = ""
	for name, c := range map[string]struct {
		image  Image
		file   string
		format Format
		want   string
	}{
		"a file that is there":                  {i, there, VHDX, "exists"},
		"a format that it does not know":        {i, there + "2", "vmdk", "vmdk"},
		"an image of before there were drivers": {old, there + "3", VHDX, "labctl image build debian"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Export(t.Context(), c.image, c.file, c.format)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	if content, err := os.ReadFile(there); err != nil || string(content) != "somebody's" {
		t.Errorf("the file is %q, %v", content, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(there)); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestAnImportedImageIsExportedAsItIs(t *testing.T) {
	s := Store{t.TempDir()}
	i := stored(t, s, "cloud", "a")
	i.Kernel = ""
	file := filepath.Join(t.TempDir(), "x.vhdx")
	if err := Export(t.Context(), i, file, VHDX); err != nil {
		t.Fatal(err)
	}
	if size, err := virtualSize(t.Context(), file); err != nil || size != 1<<20 {
		t.Errorf("its size is %d, %v", size, err)
	}
}

func TestTheBootableDiskIsMadeOnceAndGoesWithTheImage(t *testing.T) {
	s := Store{t.TempDir()}
	i, _ := built(t, s)
	file, err := s.Bootable(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(file)
	if err != nil || first.Mode().Perm() != 0o444 {
		t.Fatalf("it is %v, %v", first, err)
	}
	again, err := s.Bootable(t.Context(), i)
	if err != nil || again != file {
		t.Fatalf("again: %s, %v", again, err)
	}
	if second, err := os.Stat(file); err != nil || !os.SameFile(first, second) {
		t.Errorf("it was made again: %v", err)
	}
	overlay := filepath.Join(t.TempDir(), "x.qcow2")
	if err := OverlayOf(t.Context(), overlay, file, VHDX); err != nil {
		t.Fatal(err)
	}
	var used *InUseError
	if err := s.Remove(t.Context(), i.Name); !errors.As(err, &used) {
		t.Errorf("an image whose disk is in use: %v", err)
	}
	if err := os.Remove(overlay); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), i.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
