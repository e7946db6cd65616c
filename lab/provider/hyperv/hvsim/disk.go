package hvsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/state"
	"l4lab/topology"
)

// diskFile is what a disk's file holds here: an image says its operating
// system, a differencing disk names its parent.
type diskFile struct {
	Image int         `json:"l4labImage,omitempty"`
	OS    topology.OS `json:"os,omitempty"`
	Disk  int         `json:"l4labDisk,omitempty"`
	// Parent is a path of the host's.
	Parent string `json:"parent,omitempty"`
	// Unattend is the answer file that was written into it.
	Unattend []byte `json:"unattend,omitempty"`
	// real says that the file is no such text but a disk.
	real bool
}

// vhdxMagic begins a VHDX (MS-VHDX 2.2.1).
const vhdxMagic = "vhdxfile"

// maxDiskFile is more than any disk's file here has, and less than a real disk.
const maxDiskFile = 1 << 20

// readDisk reads a disk's file. The error is notFound, or what Get-VHD says of
// a file that is no disk.
func (h *Host) readDisk(path string) (diskFile, error) {
	var d diskFile
	real, err := h.drives.real(path)
	if err != nil {
		return d, err
	}
	info, err := os.Stat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return d, fail(scripts.NotFound, path, "there is no disk %s", path)
	}
	if err != nil {
		return d, err
	}
	var text []byte
	switch {
	case !info.Mode().IsRegular():
	case info.Size() <= maxDiskFile:
		if text, err = os.ReadFile(real); err != nil {
			return d, err
		}
	case h.o.LinuxDisk != "" && isVHDX(real):
		return diskFile{Image: 1, OS: topology.Linux, real: true}, nil
	}
	known := json.Unmarshal(text, &d) == nil && (d.Image == 1 && d.OS != "" || d.Disk == 1 && d.Parent != "")
	if !known {
		return d, fail(idOperationFailed, path, "Failed to get disk information.\nThe system failed to get information for '%s': "+
			"The file or directory is corrupted and unreadable. (0x80070570) (the simulation's images are {\"l4labImage\":1,\"os\":\"linux\"} and the like)", path)
	}
	return d, nil
}

func isVHDX(real string) bool {
	f, err := os.Open(real)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, len(vhdxMagic))
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == vhdxMagic
}

// placeDisk has the image of Linux be a real disk, by a link: it is the host's as
// little as a disk of its storage array.
func (h *Host) placeDisk(path string) error {
	real, err := h.drives.real(path)
	if err != nil {
		return err
	}
	if was, err := os.Readlink(real); err == nil && was == h.o.LinuxDisk {
		return nil
	}
	if !isVHDX(h.o.LinuxDisk) {
		return fmt.Errorf("%s is no VHDX", h.o.LinuxDisk)
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return err
	}
	if err := os.Remove(real); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(h.o.LinuxDisk, real)
}

// isLink says whether a file is a link to a real disk, of a time when guests
// booted those.
func (h *Host) isLink(path string) bool {
	real, err := h.drives.real(path)
	if err != nil {
		return false
	}
	_, err = os.Readlink(real)
	return err == nil
}

func (h *Host) writeDisk(path string, d diskFile) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return h.writeSmall(path, text)
}

// writeSmall writes a file of the host's whole, and makes its folders.
func (h *Host) writeSmall(path string, content []byte) error {
	real, err := h.drives.real(path)
	if err != nil {
		return err
	}
	if err := h.checkSpace(path, int64(len(content))); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return err
	}
	return state.WriteFile(real, content, 0o644)
}

// chain returns a disk's files from itself to its image, and what they say.
func (h *Host) chain(path string) (paths []string, files []diskFile, err error) {
	for {
		d, err := h.readDisk(path)
		if err != nil {
			return nil, nil, err
		}
		paths, files = append(paths, path), append(files, d)
		if d.Parent == "" {
			return paths, files, nil
		}
		if len(paths) > 64 {
			return nil, nil, fail(idOperationFailed, path, "The chain of virtual hard disks is corrupted. (0xC03A000D)")
		}
		path = d.Parent
	}
}

// inUse returns the machine that is on and uses a file: a disk of its chain, or
// the image in its drive. The caller holds the store's lock.
func (h *Host) inUse(path string) *machine {
	for _, vm := range h.store.Machines {
		if !vm.power.on {
			continue
		}
		if vm.DVD != "" && samePath(vm.DVD, path) {
			return vm
		}
		paths, _, err := h.chain(vm.Disk)
		if err != nil {
			continue
		}
		for _, p := range paths {
			if samePath(p, path) {
				return vm
			}
		}
	}
	return nil
}

// freeBytes returns what the drives have left.
func (h *Host) freeBytes() (int64, error) {
	used, err := h.drives.used()
	return max(h.diskBytes-used, 0), err
}

// checkSpace fails when that many bytes more do not fit.
func (h *Host) checkSpace(path string, bytes int64) error {
	free, err := h.freeBytes()
	if err != nil {
		return fmt.Errorf("look how much room is left: %w", err)
	}
	if bytes > free {
		return fail(scripts.NoSpace, path, "There is not enough space on the disk: %d bytes are free.", free)
	}
	return nil
}

// format returns what Get-VHD calls a disk's format.
func format(path string) string {
	if strings.HasSuffix(strings.ToLower(path), ".vhd") {
		return "VHD"
	}
	return "VHDX"
}
