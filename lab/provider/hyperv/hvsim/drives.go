package hvsim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// drives maps the host's paths to a real folder: C:\l4lab\x is DIR/c/l4lab/x.
// It takes what a Windows program that looks twice takes: an absolute path on a
// drive that is there, of names that NTFS can hold and that are no devices.
// Names are found whatever their case, and kept in the case they were made in.
type drives struct{ dir string }

var (
	drivePath = regexp.MustCompile(`^[A-Za-z]:[\\/]`)
	// device names mean a device in every folder, with any extension
	// (Naming Files, Paths, and Namespaces).
	device = regexp.MustCompile(`(?i)^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?$`)
)

// real returns where a path of the host's lies here. What is not there yet is
// named as it was asked for.
func (d drives) real(path string) (string, error) {
	names, err := splitPath(path)
	if err != nil {
		return "", err
	}
	at := filepath.Join(d.dir, strings.ToLower(path[:1]))
	if _, err := os.Stat(at); err != nil {
		return "", fail("DriveNotFound", path, "Cannot find drive. A drive with the name '%s' does not exist.", path[:1])
	}
	for _, name := range names {
		at = filepath.Join(at, onDisk(at, name))
	}
	return at, nil
}

// splitPath returns the names of a path after its drive.
func splitPath(path string) ([]string, error) {
	if !utf8.ValidString(path) || !drivePath.MatchString(path) {
		return nil, fail(idNotSupported, path, "The given path's format is not supported: it must be absolute and on a drive.")
	}
	var names []string
	for name := range strings.FieldsFuncSeq(path[3:], func(r rune) bool { return r == '\\' || r == '/' }) {
		if err := checkFileName(name); err != nil {
			return nil, fail(idNotSupported, path, "The given path's format is not supported: %v.", err)
		}
		names = append(names, name)
	}
	return names, nil
}

// checkFileName refuses what is no name of a file on NTFS, what Windows would
// quietly make another name of, and what leads elsewhere.
func checkFileName(name string) error {
	switch {
	case strings.Trim(name, ".") == "":
		return fmt.Errorf("%q leads elsewhere", name)
	case strings.ContainsAny(name, `<>:"|?*`), strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }):
		return fmt.Errorf("%q has a character that no name of a file has", name)
	case strings.HasSuffix(name, "."), strings.HasSuffix(name, " "):
		return fmt.Errorf("%q ends with a dot or a space", name)
	case device.MatchString(name):
		return fmt.Errorf("%q is a device", name)
	case len(utf16.Encode([]rune(name))) > 255, len(name) > 255:
		// NTFS counts UTF-16 units; the file system below counts bytes.
		return errors.New("a name in it is too long")
	}
	return nil
}

// onDisk returns the name that an entry of a folder has, whatever its case.
func onDisk(folder, name string) string {
	if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
		return name
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return name
	}
	for _, e := range entries {
		if strings.EqualFold(e.Name(), name) {
			return e.Name()
		}
	}
	return name
}

// within says whether a path lies in a folder or is the folder.
func within(path, folder string) bool {
	inner, err := splitPath(path)
	if err != nil {
		return false
	}
	outer, err := splitPath(folder)
	if err != nil || len(inner) < len(outer) || !strings.EqualFold(path[:1], folder[:1]) {
		return false
	}
	for i := range outer {
		if !strings.EqualFold(inner[i], outer[i]) {
			return false
		}
	}
	return true
}

// samePath says whether two paths name one file.
func samePath(a, b string) bool { return within(a, b) && within(b, a) }

// join adds names to a path of the host's.
func join(path string, names ...string) string {
	return strings.Join(append([]string{strings.TrimRight(path, `\/`)}, names...), `\`)
}

// used returns how many bytes the files of all drives have.
func (d drives) used() (int64, error) {
	var total int64
	err := filepath.WalkDir(d.dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while being looked at
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
