package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l4lab/topology"
)

// qemuImg makes disks as other people's tools do.
func qemuImg(t *testing.T, argv ...string) {
	t.Helper()
	if _, err := run(t.Context(), append([]string{"qemu-img"}, argv...)...); err != nil {
		t.Fatal(err)
	}
}

// rawDisk is a disk with a boot sector and a mark at its second MB.
func rawDisk(t *testing.T) string {
	t.Helper()
	content := make([]byte, 4<<20)
	copy(content[510:], bootSignature)
	copy(content[1<<20:], "the mark")
	path := filepath.Join(t.TempDir(), "Cloud-12.img.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImportOfEachFormat(t *testing.T) {
	raw := rawDisk(t)
	for _, format := range []string{formatRaw, formatQCOW2, formatVHDX} {
		t.Run(format, func(t *testing.T) {
			// The name says nothing: the content does.
			file := filepath.Join(t.TempDir(), "cloud.img")
			qemuImg(t, "convert", "-f", "raw", "-O", format, raw, file)
			s := Store{t.TempDir()}
			sum, err := hashFile(file)
			if err != nil {
				t.Fatal(err)
			}
			i, err := s.Import(t.Context(), file, ImportOptions{SHA256: strings.ToUpper(sum), Firmware: UEFI})
			if err != nil {
				t.Fatal(err)
			}
			if i.Name != "cloud" || i.OS != topology.Linux || i.Firmware != UEFI || i.FirstBoot != CloudInit || i.Source != sum || i.Kernel != "" {
				t.Errorf("got %+v", i)
			}
			back := filepath.Join(t.TempDir(), "back")
			qemuImg(t, "convert", "-f", "qcow2", "-O", "raw", i.Disk, back)
			content, err := os.ReadFile(back)
			if err != nil || !strings.HasPrefix(string(content[1<<20:]), "the mark") {
				t.Errorf("the content is lost, %v", err)
			}
			again, err := s.Import(t.Context(), file, ImportOptions{Firmware: UEFI})
			if err != nil || again.ID != i.ID || !again.Created.Equal(i.Created) {
				t.Errorf("the same file again: %v, %v", again.ID, err)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	secret := rawDisk(t)
	file := func(name string, make func(path string)) string {
		path := filepath.Join(t.TempDir(), name)
		make(path)
		return path
	}
	backed := file("backed.qcow2", func(p string) { qemuImg(t, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, p) })
	external := file("external.qcow2", func(p string) {
		qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+p+".data", p, "1M")
	})
	vmdk := file("disk.vmdk", func(p string) { qemuImg(t, "create", "-q", "-f", "vmdk", p, "1M") })
	write := func(content string) func(string) {
		return func(p string) {
			if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var foreign *ForeignFileError
	var sum *ChecksumError
	cases := []struct {
		name, file string
		o          ImportOptions
		as         any
		says       string
	}{
		{"a disk that reads from a file of the host", backed, ImportOptions{}, &foreign, secret},
		{"a disk whose data is in a file of the host", external, ImportOptions{}, &foreign, "external data file"},
		{"a checksum that does not match", secret, ImportOptions{Name: "x", SHA256: strings.Repeat("0", 64)}, &sum, "damaged or another"},
		{"a checksum that is none", secret, ImportOptions{Name: "x", SHA256: "abc"}, nil, "64 hexadecimal"},
		{"another format", vmdk, ImportOptions{}, nil, "qcow2, VHDX, or raw"},
		{"a text", file("page", write(strings.Repeat("<html>", 200))), ImportOptions{}, nil, "expected a disk"},
		{"an empty file", file("empty", write("")), ImportOptions{}, nil, "too short"},
		{"a folder", t.TempDir(), ImportOptions{Name: "x"}, nil, "expected a file"},
		{"a file that is missing", "/nowhere/disk.qcow2", ImportOptions{}, nil, "no such file"},
		{"the name of the recipe", secret, ImportOptions{Name: "debian"}, nil, "labctl builds"},
		{"a name that leaves the store", secret, ImportOptions{Name: "../x"}, nil, "no name of an image"},
		{"a firmware that is none", secret, ImportOptions{Name: "x", Firmware: "coreboot"}, nil, "bios or uefi"},
		{"a system that is none", secret, ImportOptions{Name: "x", OS: "plan9"}, nil, "linux or windows"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := Store{filepath.Join(t.TempDir(), "images")}
			_, err := s.Import(t.Context(), c.file, c.o)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want one that says %q", err, c.says)
			}
			if c.as != nil && !errors.As(err, c.as) {
				t.Errorf("got %T", err)
			}
			if images, _ := s.List(); len(images) > 0 {
				t.Errorf("there is an image: %v", images)
			}
			if left, _ := filepath.Glob(filepath.Join(s.Dir, ".new-*")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestAnImageOfWindowsReadsNoCloudSeed(t *testing.T) {
	i, err := (Store{t.TempDir()}).Import(t.Context(), rawDisk(t), ImportOptions{Name: "server-2022", OS: topology.Windows, Firmware: UEFI})
	if err != nil || i.OS != topology.Windows || i.FirstBoot != AnswerFile || i.Firmware != UEFI {
		t.Errorf("got %+v, %v", i, err)
	}
}
