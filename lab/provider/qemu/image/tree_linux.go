package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernel unpacks the kernel's package: its image beside the disk, the modules
// that are kept into the tree.
func (b *builder) kernel(ctx context.Context) error {
	pkg, unpacked := filepath.Join(b.scratch, "kernel.deb"), filepath.Join(b.scratch, "kernel")
	out, err := run(ctx, "dpkg-deb", "--field", pkg, "Package", "Version")
	if err != nil {
		return err
	}
	fields := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	b.image.Packages[fields["Package"]] = fields["Version"]
	if _, err := run(ctx, "dpkg-deb", "--extract", pkg, unpacked); err != nil {
		return err
	}
	release := strings.TrimPrefix(fields["Package"], "linux-image-")
	if err := os.Rename(filepath.Join(unpacked, "boot/vmlinuz-"+release), filepath.Join(b.work, kernelFile)); err != nil {
		return err
	}
	modules := filepath.Join(unpacked, "lib/modules", release)
	if err := keepModules(modules, b.Modules); err != nil {
		return err
	}
	target := filepath.Join(b.root, "usr/lib/modules")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := os.Rename(modules, filepath.Join(target, release)); err != nil {
		return err
	}
	// The tree's own depmod, so that the host needs none.
	return runIn(ctx, b.root, "/usr/sbin/depmod", release)
}

// keepModules removes the modules that are in none of the folders.
func keepModules(dir string, folders []string) error {
	kernel := filepath.Join(dir, "kernel")
	return filepath.WalkDir(kernel, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(kernel, path)
		if err != nil {
			return err
		}
		kept := slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(name, folder+"/") })
		if kept {
			return nil
		}
		return os.Remove(path)
	})
}

const unitFolder = "etc/systemd/system"

// finish makes of the distribution's tree the lab's.
func (b *builder) finish(ctx context.Context) error {
	// What packages enabled, and what they leave for the machine to keep.
	for _, pattern := range append([]string{unitFolder + "/*.wants", unitFolder + "/*.requires"}, b.Remove...) {
		if err := removeAll(b.root, pattern); err != nil {
			return err
		}
	}
	for name, content := range b.Files {
		if err := place(filepath.Join(b.root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, unit := range b.Mask {
		if err := link("/dev/null", filepath.Join(b.root, unitFolder, unit)); err != nil {
			return err
		}
	}
	for _, unit := range b.Enable {
		folder := "/usr/lib/systemd/system/"
		if _, ours := b.Files[filepath.Join(unitFolder, unit)]; ours {
			folder = "/etc/systemd/system/"
		}
		if err := link(folder+unit, filepath.Join(b.root, unitFolder, "multi-user.target.wants", unit)); err != nil {
			return err
		}
	}
	if err := link("/usr/lib/systemd/system/multi-user.target", filepath.Join(b.root, unitFolder, "default.target")); err != nil {
		return err
	}
	if err := b.maskFolders(); err != nil {
		return err
	}
	// Empty, not missing: systemd makes one at the first boot of each machine.
	if err := place(filepath.Join(b.root, "etc/machine-id"), nil, 0o444); err != nil {
		return err
	}
	if err := runIn(ctx, b.root, "/usr/sbin/usermod", "--password", "*", "root"); err != nil {
		return err
	}
	program, err := os.ReadFile(b.FirstBoot)
	if err != nil {
		return fmt.Errorf("the first-boot program: %w", err)
	}
	if err := place(filepath.Join(b.root, firstBootPath), program, 0o755); err != nil {
		return err
	}
	return b.manifest()
}

// maskFolders hides all files of the distribution's folders behind links to
// nothing in the administrator's.
func (b *builder) maskFolders() error {
	for vendor, admin := range b.MaskAll {
		files, err := os.ReadDir(filepath.Join(b.root, vendor))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := link("/dev/null", filepath.Join(b.root, admin, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// manifest writes the sorted paths of the tree beside the disk.
func (b *builder) manifest() error {
	var names strings.Builder
	err := filepath.WalkDir(b.root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == b.root {
			return err
		}
		names.WriteString(strings.TrimPrefix(path, b.root) + "\n")
		return nil
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.work, manifestFile), []byte(names.String()), 0o644)
}

func removeAll(root, pattern string) error {
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil {
		return err
	}
	for _, path := range found {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// place writes a file and the folders on the way to it.
func place(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// link makes a symbolic link in place of what is there.
func link(target, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}
