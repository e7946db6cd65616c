package apply

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hostKeyPrefix is what the files of OpenSSH's host keys begin with.
const hostKeyPrefix = "/etc/ssh/ssh_host_"

// InstallHostKeys writes the SSH server's keys, by cloud-init's names for them:
// ed25519_private, ed25519_public, ed25519_certificate and the same of other kinds.
func (m Machine) InstallHostKeys(keys map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		f, err := hostKeyFile(name)
		if err == nil {
			f.Data = []byte(strings.TrimRight(keys[name], "\n") + "\n")
			err = m.WriteFile(f)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func hostKeyFile(name string) (File, error) {
	kind, part, _ := strings.Cut(name, "_")
	path := hostKeyPrefix + kind + "_key"
	if kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		part = ""
	}
	switch part {
	case "private":
		return File{Path: path, Mode: 0o600}, nil
	case "public":
		return File{Path: path + ".pub", Mode: 0o644}, nil
	case "certificate":
		return File{Path: path + "-cert.pub", Mode: 0o644}, nil
	}
	return File{}, fmt.Errorf("host keys: %q is no key's name", name)
}

// RemoveOtherHostKeys removes what is no file of the keys named: an image's own
// are known to all who have the image.
func (m Machine) RemoveOtherHostKeys(keep map[string]string) error {
	var kept []string
	for name := range keep {
		if f, err := hostKeyFile(name); err == nil {
			kept = append(kept, f.Path)
		}
	}
	entries, err := filepath.Glob(m.path(hostKeyPrefix) + "*")
	if err != nil {
		return fmt.Errorf("list the host keys: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(filepath.Dir(hostKeyPrefix), filepath.Base(e))
		if slices.Contains(kept, path) {
			continue
		}
		if err := os.Remove(e); err != nil {
			errs = append(errs, fmt.Errorf("remove a host key of the image's: %w", err))
			continue
		}
		m.Log.Info("removed " + path)
	}
	return errors.Join(errs...)
}
