package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The formats by qemu-img's names.
const (
	formatQCOW2 = "qcow2"
	formatVHDX  = "vhdx"
	formatRaw   = "raw"
)

// The header of qcow2, docs/interop/qcow2.txt of QEMU: big-endian, the magic at
// 0, the version at 4, where the name of a backing file is at 8 and its length at
// 16, and from version 3 on the features that a reader must know at 72.
const (
	qcow2Header       = 80
	qcow2ExternalData = 1 << 2
)

// maxName is the longest name of a backing file.
const maxName = 1023

// bootSignature ends the first sector of a disk that firmware starts from, an
// MBR or the protective one of a GPT.
var bootSignature = []byte{0x55, 0xaa}

// diskFormat tells a disk's format by its content. It is asked before any tool
// opens the file, because the file of a stranger can name files of this host:
// qemu-img would follow a qcow2's backing and data file (CVE-2024-4467).
func diskFormat(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 512)
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("expected a disk, found a file too short for one (%w)", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return formatQCOW2, checkQCOW2(f, head)
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		// QEMU refuses those that have a parent.
		return formatVHDX, nil
	case bytes.HasPrefix(head[510:], bootSignature):
		return formatRaw, nil
	}
	return "", errors.New("expected a disk in the format qcow2, VHDX, or raw with a boot sector; qemu-img convert makes one of most others")
}

func checkQCOW2(f *os.File, head []byte) error {
	version := binary.BigEndian.Uint32(head[4:])
	offset, length := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if version != 2 && version != 3 {
		return fmt.Errorf("a qcow2 disk of version %d, expected 2 or 3", version)
	}
	if offset != 0 {
		name := make([]byte, min(length, maxName))
		n, _ := f.ReadAt(name, int64(offset)) // for the message alone
		return &ForeignFileError{f.Name(), string(name[:n])}
	}
	if version == 3 && binary.BigEndian.Uint64(head[72:qcow2Header])&qcow2ExternalData != 0 {
		return &ForeignFileError{f.Name(), "an external data file"}
	}
	return nil
}
