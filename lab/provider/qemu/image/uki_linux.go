package image

import (
	"bytes"
	"context"
	"debug/pe"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// efiStub is systemd's program that firmware starts and that starts the kernel
// which it finds in its own file (systemd-stub(7)), of Debian's systemd-boot-efi.
const efiStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// firmwareAppend is what the kernel's command line has before the image's own
// where firmware boots it: what a machine's screen shows is all that there is to
// see of it on Hyper-V, whose machines of generation 2 have no serial port.
const firmwareAppend = "console=tty0 "

// section is a part of a unified kernel image.
type section struct{ name, file string }

// unify writes the kernel, its command line and its initrd as one program for
// firmware: a unified kernel image.
func (e *export) unify(ctx context.Context, to string) error {
	initrd, err := joined(e.Initrd, e.Drivers)
	if err != nil {
		return err
	}
	sections := []section{{".cmdline", "cmdline"}, {".linux", ""}, {".initrd", "initrd"}}
	for i, content := range [][]byte{[]byte(firmwareAppend + e.Append + "\x00"), nil, initrd} {
		s := &sections[i]
		if s.file == "" {
			s.file = e.Kernel
			continue
		}
		s.file = filepath.Join(e.scratch, s.file)
		if err := os.WriteFile(s.file, content, 0o600); err != nil {
			return err
		}
	}
	argv := []string{"objcopy"}
	at, err := endOf(efiStub)
	if err != nil {
		return err
	}
	for _, s := range sections {
		info, err := os.Stat(s.file)
		if err != nil {
			return err
		}
		argv = append(argv, "--add-section", s.name+"="+s.file, "--change-section-vma", fmt.Sprintf("%s=%#x", s.name, at))
		at = aligned(at + uint64(info.Size()))
	}
	_, err = run(ctx, append(argv, efiStub, to)...)
	return err
}

// joined returns archives that the kernel unpacks one after another: each begins
// at a multiple of 4 bytes (initramfs buffer format).
func joined(files ...string) ([]byte, error) {
	var all bytes.Buffer
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		all.Write(content)
		all.Write(make([]byte, (4-all.Len()%4)%4))
	}
	return all.Bytes(), nil
}

// pageSize is how a program's sections are aligned in memory.
const pageSize = 4096

func aligned(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// endOf returns the first address after a program's sections.
func endOf(program string) (uint64, error) {
	f, err := pe.Open(program)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", program, err)
	}
	defer f.Close()
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return 0, fmt.Errorf("%s is no program for x86-64", program)
	}
	var end uint64
	for _, s := range f.Sections {
		end = max(end, uint64(s.VirtualAddress)+uint64(s.VirtualSize))
	}
	return aligned(header.ImageBase + end), nil
}

// virtualSize returns the size in bytes of a disk as a machine sees it.
func virtualSize(ctx context.Context, disk string) (int64, error) {
	out, err := run(ctx, "qemu-img", "info", "--output=json", disk)
	if err != nil {
		return 0, err
	}
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return 0, fmt.Errorf("read the size of %s: %w", disk, err)
	}
	return info.Size, nil
}
