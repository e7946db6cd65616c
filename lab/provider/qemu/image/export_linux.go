package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Format is how a disk is written to a file.
type Format string

// The formats of exported disks. VHDX is Hyper-V's, dynamic: it grows with what
// is written to it.
const (
	VHDX  Format = formatVHDX
	QCOW2 Format = formatQCOW2
	Raw   Format = formatRaw
)

// FormatOf returns the format that a file's name says: VHDX where it says none.
func FormatOf(file string) Format {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".qcow2":
		return QCOW2
	case ".raw", ".img":
		return Raw
	}
	return VHDX
}

// bootable is the file of an image's folder with the disk that firmware boots,
// once somebody has asked for it.
const bootable = "disk.vhdx"

// exportTools are the programs that an export of a built image runs, by Debian's package.
var exportTools = map[string]string{
	"sfdisk": "fdisk", "mformat": "mtools", "mcopy": "mtools", "objcopy": "binutils", "qemu-img": "qemu-utils",
}

// MissingForExport returns the Debian packages that an export needs and this
// machine lacks.
func MissingForExport() []string {
	missing := missingOf(exportTools)
	if _, err := os.Stat(efiStub); err != nil {
		missing = append(missing, "systemd-boot-efi")
	}
	return missing
}

// Export writes a disk that UEFI firmware starts by itself, without Secure Boot,
// whose signature it lacks. Nothing may be at the file yet. An imported image is
// written as it is.
func Export(ctx context.Context, i Image, file string, format Format) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export image %s to %s: %w", i.ID, file, err)
		}
	}()
	if !slices.Contains([]Format{VHDX, QCOW2, Raw}, format) {
		return fmt.Errorf("format %q: there is %s, %s and %s", format, VHDX, QCOW2, Raw)
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fs.ErrExist)
	}
	scratch, err := os.MkdirTemp(filepath.Dir(file), ".new-"+i.Name+"-export-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	e := export{Image: i, scratch: scratch}
	source, sourceFormat := i.Disk, formatQCOW2
	if i.Kernel != "" {
		source, sourceFormat = filepath.Join(scratch, "disk.raw"), formatRaw
		if err := e.compose(ctx, source); err != nil {
			return err
		}
	}
	whole := filepath.Join(scratch, "disk")
	argv := []string{"qemu-img", "convert", "-f", sourceFormat, "-O", string(format)}
	if format == VHDX {
		argv = append(argv, "-o", "subformat=dynamic")
	}
	if _, err := run(ctx, append(argv, source, whole)...); err != nil {
		return err
	}
	return os.Rename(whole, file)
}

// BootablePath is where Bootable keeps its disk, which need not be there.
func (s Store) BootablePath(i Image) string { return filepath.Join(s.Dir, i.ID, bootable) }

// Bootable returns the path of a VHDX in the image's folder that firmware boots;
// it is made when it is not there, and goes with the image.
func (s Store) Bootable(ctx context.Context, i Image) (string, error) {
	file := s.BootablePath(i)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	release, err := s.lock(ctx, i.Name)
	if err != nil {
		return "", err
	}
	defer release()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err // by the labctl that had the lock
	}
	draft := filepath.Join(s.Dir, ".new-"+i.Name+"-bootable")
	if err := os.RemoveAll(draft); err != nil {
		return "", err
	}
	if err := Export(ctx, i, draft, VHDX); err != nil {
		return "", err
	}
	if err := os.Chmod(draft, 0o444); err != nil {
		return "", err
	}
	return file, os.Rename(draft, file)
}

// BootableDebian is Bootable of the recipe debian, which is built when it is
// missing or of an older recipe; say is told what takes long.
func (s Store) BootableDebian(ctx context.Context, firstBoot string, say func(string)) (string, error) {
	recipe := Debian()
	if _, err := s.Current(recipe); errors.Is(err, fs.ErrNotExist) {
		say("image " + recipe.Name + " is built, which takes a minute or two")
	}
	i, err := s.Build(ctx, recipe, BuildOptions{FirstBoot: firstBoot})
	if err != nil {
		return "", err
	}
	return s.Bootable(ctx, i)
}

// BootableDebianFound says where that disk is, or that it can be made; the error
// says what is missing for that.
func (s Store) BootableDebianFound() (string, error) {
	i, err := s.Current(Debian())
	missing := MissingForExport()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		missing = append(missing, MissingPackages()...)
	case err != nil:
		return "", err
	default:
		if _, err := os.Stat(s.BootablePath(i)); err == nil {
			return s.BootablePath(i), nil
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return "", fmt.Errorf("it is not in %s, and to make it this machine lacks %s", s.Dir, strings.Join(slices.Compact(missing), " "))
	}
	return "not there yet: `labctl up` makes it", nil
}

// export is one export of a built image.
type export struct {
	Image
	scratch string
}

// The disk's layout in MiB: what GPT keeps for itself at both ends, the system
// partition, which has the kernel, and the root file system after it.
const (
	mebibyte   = 1 << 20
	edgeMB     = 1
	espMB      = 64
	sectorSize = 512
	// The types of the partitions: the UEFI specification 5.3.3, and the
	// Discoverable Partitions Specification for root on x86-64.
	espType  = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	rootType = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
)

// removablePath is where firmware looks on a disk that it was told nothing
// about (UEFI specification 3.5.1.1).
var removablePath = []string{"EFI", "BOOT", "BOOTX64.EFI"}

// compose writes the disk, raw and sparse.
func (e *export) compose(ctx context.Context, disk string) error {
	if e.Drivers == "" {
		return errors.New("it was built by an earlier labctl, without the drivers of other machines; build it anew: labctl image build " + e.Name)
	}
	if missing := MissingForExport(); len(missing) > 0 {
		return fmt.Errorf("%w: install %s", exec.ErrNotFound, strings.Join(missing, ", "))
	}
	rootBytes, err := virtualSize(ctx, e.Disk)
	if err != nil {
		return err
	}
	const rootAt = (edgeMB + espMB) * mebibyte
	f, err := os.Create(disk)
	if err == nil {
		err = errors.Join(f.Truncate(rootAt+rootBytes+edgeMB*mebibyte), f.Close())
	}
	if err != nil {
		return err
	}
	if err := e.partition(ctx, disk, rootBytes/sectorSize); err != nil {
		return err
	}
	kernel := filepath.Join(e.scratch, "kernel.efi")
	if err := e.unify(ctx, kernel); err != nil {
		return err
	}
	if err := fillESP(ctx, disk, kernel, e.uuid("esp")); err != nil {
		return err
	}
	// Into the place of the partition, whose bytes are zeros so far.
	target := fmt.Sprintf("driver=raw,offset=%d,size=%d,file.driver=file,file.filename=%s", rootAt, rootBytes, strings.ReplaceAll(disk, ",", ",,"))
	_, err = run(ctx, "qemu-img", "convert", "-n", "--target-is-zero", "-f", formatQCOW2, "--target-image-opts", e.Disk, target)
	return err
}

// uuid makes one that follows from the image.
func (e *export) uuid(of string) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(e.Recipe+" "+of))
}

// partition writes the partition table.
func (e *export) partition(ctx context.Context, disk string, rootSectors int64) error {
	const sectors = mebibyte / sectorSize
	table := fmt.Sprintf(`label: gpt
label-id: %s
start=%d, size=%d, type=%s, uuid=%s, name="EFI system"
start=%d, size=%d, type=%s, uuid=%s, name="l4lab"
`, e.uuid("disk"), edgeMB*sectors, espMB*sectors, espType, e.uuid("esp"),
		(edgeMB+espMB)*sectors, rootSectors, rootType, e.uuid("root"))
	_, err := runWith(ctx, table, "sfdisk", "--quiet", disk)
	return err
}

// fillESP makes the file system of the system partition, and puts the kernel into it.
func fillESP(ctx context.Context, disk, kernel string, id uuid.UUID) error {
	at := fmt.Sprintf("%s@@%dM", disk, edgeMB)
	commands := [][]string{
		{"mformat", "-i", at, "-F", "-T", fmt.Sprint(espMB * mebibyte / sectorSize), "-h", "16", "-s", "63", "-v", "EFI", "-N", fmt.Sprintf("%08x", id[:4]), "::"},
		{"mmd", "-i", at, "::/" + removablePath[0], "::/" + strings.Join(removablePath[:2], "/")},
		{"mcopy", "-i", at, kernel, "::/" + strings.Join(removablePath, "/")},
	}
	for _, argv := range commands {
		if _, err := run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}
