package simhost

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
)

// kind is what a host's machines are. It stands in the host's folder, so that a
// host that is started again has the same.
type kind struct {
	Guests string `json:"guests"`
	// LinuxDisk is the VHDX that Linux machines in QEMU start from.
	LinuxDisk string `json:"linuxDisk,omitempty"`
}

func kindFile(dir string) string { return filepath.Join(dir, "guests.json") }

// kind returns what a host's machines are, or are to be when there is no host yet.
// Those of a host cannot become others.
func (s *Hosts) kind(dir string) (kind, error) {
	var k kind
	data, err := os.ReadFile(kindFile(dir))
	switch {
	case err == nil:
		err = json.Unmarshal(data, &k)
	case errors.Is(err, fs.ErrNotExist) && hasRun(dir):
		k, err = kind{Guests: Namespaces}, nil // of a labctl that had nothing else
	case errors.Is(err, fs.ErrNotExist):
		return kind{Guests: cmp.Or(s.o.Guests, Namespaces)}, nil
	}
	if err != nil {
		return k, fmt.Errorf("read what the simulated host's machines are: %w", err)
	}
	if s.o.Guests != "" && s.o.Guests != k.Guests {
		return k, fmt.Errorf("the lab's simulated host has guests %s: take the lab down to make it anew with guests %s", k.Guests, s.o.Guests)
	}
	return k, nil
}

// hasRun says whether a host of that folder was ever started: a labctl that was killed
// leaves the folder alone.
func hasRun(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "log"))
	return err == nil
}

// prepare remembers what the machines are, and with make set comes by the disk
// that they start from. Without it the host is started to be looked at or removed.
func (s *Hosts) prepare(ctx context.Context, dir string, k *kind, make bool) error {
	if k.Guests == QEMU {
		_, err := os.Stat(k.LinuxDisk)
		if make && err != nil || k.LinuxDisk == "" {
			if k.LinuxDisk, err = s.o.LinuxDisk(ctx); err != nil {
				return fmt.Errorf("make the disk that Linux machines start from: %w", err)
			}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the simulated host's folder: %w", err)
	}
	data, err := json.Marshal(k)
	if err == nil {
		err = state.WriteFile(kindFile(dir), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember what the simulated host's machines are: %w", err)
	}
	return nil
}

// bootLimit is enough for an emulated machine beside others on a busy computer.
const bootLimit = 8 * time.Minute

// slow says of a host whose machines boot for real what they are given, and how
// long they may take.
func (s *Hosts) slow(t *hyperv.Target) {
	linux := t.Images.Linux
	linux.MemoryMB, linux.CPUs = 512, 1
	unsigned := false
	linux.SecureBoot = &unsigned // as docs/hyperv.md says of the image
	limit := cmp.Or(s.o.BootLimit, bootLimit)
	t.Limits = hyperv.Limits{Running: time.Minute, Heartbeat: limit, SSH: limit, Revive: min(limit, 2*time.Minute)}
}

// virtualMachines says what machines in QEMU need of this one.
func (s *Hosts) virtualMachines(k kind) []provider.Requirement {
	var list []provider.Requirement
	add := func(name, remedy string, found string, err error) {
		r := provider.Requirement{Name: name, OK: err == nil, Fatal: true, ForUp: true, Found: found}
		if err != nil {
			r.Found, r.Remedy = err.Error(), remedy
		}
		list = append(list, r)
	}
	for _, tool := range []struct{ name, program, pkg string }{
		{"QEMU", "qemu-system-x86_64", "qemu-system-x86"}, {"QEMU's disk tool", "qemu-img", "qemu-utils"},
	} {
		path, err := image.LookPath(tool.program)
		add(tool.name, "apt-get install "+tool.pkg, path, err)
	}
	firmware, err := vm.FindUEFI()
	add("UEFI firmware", "apt-get install ovmf", firmware, err)
	if _, err := os.Stat(k.LinuxDisk); err == nil {
		add("Linux image", "", k.LinuxDisk, nil)
	} else {
		found, err := s.o.LinuxDiskFound()
		add("Linux image", "install what it lacks by apt-get", found, err)
	}
	return list
}
