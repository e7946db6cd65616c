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
)

// usersFolder of an image has a symbolic link to each overlay that rests on it.
// A link whose overlay is gone counts no more, so that removing a lab's folder
// is all that a lab has to do.
const usersFolder = "overlays"

// Overlay makes a qcow2 file that reads from backing, a qcow2 file, what has not
// been written to it. When backing is an image's disk, the image is in use until
// the overlay is removed.
func Overlay(ctx context.Context, path, backing string) error {
	return OverlayOf(ctx, path, backing, QCOW2)
}

// OverlayOf is Overlay on a backing file of another format.
func OverlayOf(ctx context.Context, path, backing string, format Format) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if backing, err = filepath.Abs(backing); err != nil {
		return err
	}
	if err := enlist(filepath.Dir(backing), path); err != nil {
		return fmt.Errorf("make disk %s on %s: %w", path, backing, err)
	}
	if _, err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", string(format), "-b", backing, path); err != nil {
		return fmt.Errorf("make disk %s: %w", path, err)
	}
	return nil
}

// enlist notes an overlay before it is made: none is without its note. When the
// image is removed between the two, making the overlay fails.
func enlist(dir, overlay string) error {
	if _, err := os.Stat(filepath.Join(dir, recordFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // another overlay, not an image
	}
	users := filepath.Join(dir, usersFolder)
	if err := os.Mkdir(users, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	sum := sha256.Sum256([]byte(overlay))
	err := os.Symlink(overlay, filepath.Join(users, hex.EncodeToString(sum[:8])))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// overlays returns the disks that rest on the image of a folder, and forgets
// those that are gone.
func overlays(dir string) ([]string, error) {
	users := filepath.Join(dir, usersFolder)
	entries, err := os.ReadDir(users)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		link := filepath.Join(users, e.Name())
		overlay, err := os.Readlink(link)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(overlay); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(link); err != nil {
				return nil, err
			}
			continue
		}
		found = append(found, overlay)
	}
	return found, nil
}
