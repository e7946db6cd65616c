package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l4lab/topology"
)

// ImportOptions say what a file is that does not say it itself.
type ImportOptions struct {
	// Name is the image's; "" is the file's without what follows its first dot.
	Name string
	// SHA256 is the checksum that the file must have; "" asks for none.
	SHA256   string
	OS       topology.OS // "" is Linux
	Firmware Firmware    // "" is BIOS
}

// ChecksumError says that a file is not the one that was meant.
type ChecksumError struct{ File, Want, Got string }

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s has the SHA-256 %s, not %s: it is damaged or another file", e.File, e.Got, e.Want)
}

// ForeignFileError says that a disk would read from another file of the host.
type ForeignFileError struct{ File, Refers string }

func (e *ForeignFileError) Error() string {
	return fmt.Sprintf("%s refers to another file, %q, of which a machine could read; merge them with qemu-img convert where it is trusted", e.File, e.Refers)
}

// Import makes an image of a disk in the format qcow2, raw or VHDX, which its
// content tells. The same file under the same name is imported once.
func (s Store) Import(ctx context.Context, file string, o ImportOptions) (Image, error) {
	o, err := o.complete(file)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", file, err)
	}
	f, err := os.Open(file)
	if err != nil {
		return Image{}, fmt.Errorf("import: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return Image{}, fmt.Errorf("import %s: expected a file with a disk (%v)", file, err)
	}
	sum, err := hashFile(file)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", file, err)
	}
	if o.SHA256 != "" && !strings.EqualFold(o.SHA256, sum) {
		return Image{}, fmt.Errorf("import: %w", &ChecksumError{file, strings.ToLower(o.SHA256), sum})
	}
	release, err := s.lock(ctx, o.Name)
	if err != nil {
		return Image{}, err
	}
	defer release()
	if i, err := s.read(imageID(o.Name, o.hash(sum))); !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	i, err := s.convert(ctx, file, sum, o)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", file, err)
	}
	return i, nil
}

// complete fills in defaults and refuses what cannot be.
func (o ImportOptions) complete(file string) (ImportOptions, error) {
	if o.Name == "" {
		o.Name, _, _ = strings.Cut(strings.ToLower(filepath.Base(file)), ".")
	}
	if err := checkName(o.Name); err != nil {
		return o, err
	}
	if o.Name == Debian().Name {
		return o, fmt.Errorf("%s is the image that labctl builds; name this one otherwise", o.Name)
	}
	if o.SHA256 != "" && (len(o.SHA256) != 64 || strings.Trim(strings.ToLower(o.SHA256), "0123456789abcdef") != "") {
		return o, fmt.Errorf("%q is no SHA-256: expected 64 hexadecimal digits", o.SHA256)
	}
	if o.OS == "" {
		o.OS = topology.Linux
	}
	if o.Firmware == "" {
		o.Firmware = BIOS
	}
	if o.Firmware != BIOS && o.Firmware != UEFI {
		return o, fmt.Errorf("firmware %q: expected %s or %s", o.Firmware, BIOS, UEFI)
	}
	if o.OS != topology.Linux && o.OS != topology.Windows {
		return o, fmt.Errorf("system %q: expected %s or %s", o.OS, topology.Linux, topology.Windows)
	}
	return o, nil
}

// hash is what the image is named after: the file and what was said of it.
func (o ImportOptions) hash(sum string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "import 1\n%s\n%s\n%s\n", sum, o.OS, o.Firmware))
	return hex.EncodeToString(h[:])
}

func (s Store) convert(ctx context.Context, file, sum string, o ImportOptions) (_ Image, err error) {
	format, err := diskFormat(file)
	if err != nil {
		return Image{}, err
	}
	// An absolute path: qemu-img takes "json:{…}" and "nbd:…" for more than a name.
	if file, err = filepath.Abs(file); err != nil {
		return Image{}, err
	}
	work, err := s.workFolder(o.Name)
	if err != nil {
		return Image{}, err
	}
	defer func() {
		if removeErr := os.RemoveAll(work); err == nil {
			err = removeErr // nothing when it was published
		}
	}()
	if _, err := run(ctx, "qemu-img", "convert", "-f", format, "-O", "qcow2", file, filepath.Join(work, diskFile)); err != nil {
		return Image{}, err
	}
	i := Image{Name: o.Name, Recipe: o.hash(sum), OS: o.OS, Firmware: o.Firmware, FirstBoot: CloudInit, Source: sum}
	if o.OS == topology.Windows {
		i.FirstBoot = AnswerFile
	}
	return s.publish(work, i)
}
