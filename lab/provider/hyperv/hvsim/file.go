package hvsim

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider/hyperv/scripts"
)

// pieceSize is how much of a file goes into one gzip stream, and into one line.
const pieceSize = 48 << 10

// markFile is the file that makes a folder a lab's.
const markFile = "l4lab.mark"

func hashFile(real string) (string, error) {
	f, err := os.Open(real)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// probe returns a regular file's size and hash, and whether there is one.
func probe(real string) (size int64, hash string, exists bool, err error) {
	info, err := os.Stat(real)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return 0, "", false, nil
	}
	if err != nil {
		return 0, "", false, err
	}
	hash, err = hashFile(real)
	return info.Size(), hash, err == nil, err
}

func (h *Host) fileProbe(_ context.Context, p transfer.FileProbeParams) (transfer.FileProbeResult, error) {
	var r transfer.FileProbeResult
	real, err := h.drives.real(p.Path)
	if err != nil {
		return r, err
	}
	part := real + ".part"
	if r.Bytes, r.SHA256, r.Exists, err = probe(real); err != nil {
		return r, err
	}
	if r.PartBytes, r.PartSHA256, _, err = probe(part); err != nil {
		return r, err
	}
	entries, err := os.ReadDir(filepath.Dir(real))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(real) && e.Name() != filepath.Base(part) {
			r.Beside++
		}
	}
	return r, nil
}

func (h *Host) fileReceive(_ context.Context, p transfer.FileReceiveParams, s streams) (transfer.FileReceiveResult, error) {
	var none transfer.FileReceiveResult
	real, err := h.drives.real(p.Path)
	if err != nil {
		return none, err
	}
	part := real + ".part"
	if err := h.writable(p.Path); err != nil {
		return none, err
	}
	if p.Offset < 0 || p.Bytes < p.Offset {
		return none, fail(idInvalidParam, p.Path, "offset %d does not lie in a file of %d bytes", p.Offset, p.Bytes)
	}
	if err := h.checkSpace(p.Path, p.Bytes-p.Offset); err != nil {
		return none, err
	}
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return none, err
	}
	size, err := h.grow(part, p, s.stdin)
	if err != nil {
		return none, err
	}
	if size < p.Bytes {
		return none, fail(scripts.HashMismatch, p.Path+".part", "the upload ended at %d of %d bytes", size, p.Bytes)
	}
	hash, err := hashFile(part)
	if err != nil {
		return none, err
	}
	if size != p.Bytes || !strings.EqualFold(hash, p.SHA256) {
		// What is wrong already does not get right by more of it.
		return none, errors.Join(fail(scripts.HashMismatch, p.Path, "what came has %d bytes and SHA-256 %s", size, hash), os.Remove(part))
	}
	return transfer.FileReceiveResult{Bytes: p.Bytes}, os.Rename(part, real)
}

// writable says why a path cannot be written to.
func (h *Host) writable(path string) error {
	h.store.Lock()
	defer h.store.Unlock()
	return h.busy(path)
}

// grow appends what the call's standard input carries to the part, and returns
// how long that is now. When the input is cut off, the part keeps what came.
func (h *Host) grow(part string, p transfer.FileReceiveParams, stdin io.Reader) (size int64, err error) {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() < p.Offset {
		return 0, fail(scripts.HashMismatch, p.Path+".part", "the part has %d bytes, not %d", info.Size(), p.Offset)
	}
	if err := f.Truncate(p.Offset); err != nil {
		return 0, err
	}
	if _, err := f.Seek(p.Offset, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := unpack(f, stdin, p.Bytes-p.Offset)
	if err != nil {
		return 0, fail("InvalidDataException", p.Path, "the upload broke off after %d bytes: %v", p.Offset+n, err)
	}
	return p.Offset + n, nil
}

// unpack writes what gzip streams hold, up to one byte more than is wanted,
// which tells a file that is too long. Streams that are cut off are no error:
// the length tells.
func unpack(to io.Writer, from io.Reader, want int64) (int64, error) {
	packed, err := gzip.NewReader(from)
	var n int64
	if err == nil {
		n, err = io.Copy(to, io.LimitReader(packed, want+1))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

func (h *Host) fileSend(_ context.Context, p transfer.FileSendParams, s streams) (transfer.FileSendResult, error) {
	var r transfer.FileSendResult
	real, err := h.drives.real(p.Path)
	if err != nil {
		return r, err
	}
	size, hash, exists, err := probe(real)
	if err != nil {
		return r, err
	}
	if !exists {
		return r, fail(scripts.NotFound, p.Path, "there is no file %s", p.Path)
	}
	if p.Offset < 0 || p.Offset > size {
		return r, fail(idInvalidParam, p.Path, "offset %d does not lie in a file of %d bytes", p.Offset, size)
	}
	f, err := os.Open(real)
	if err != nil {
		return r, err
	}
	defer f.Close()
	if _, err := f.Seek(p.Offset, io.SeekStart); err != nil {
		return r, err
	}
	return transfer.FileSendResult{Bytes: size, SHA256: hash}, pack(f, s.stdout)
}

// pack writes gzip streams of 48 KiB of the file each.
func pack(from io.Reader, to io.Writer) error {
	piece := make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(from, piece)
		if n > 0 {
			// One write makes one line.
			var packed bytes.Buffer
			w := gzip.NewWriter(&packed)
			_, packErr := w.Write(piece[:n])
			packErr = errors.Join(packErr, w.Close())
			if _, err := to.Write(packed.Bytes()); packErr != nil || err != nil {
				return fmt.Errorf("send the file: %w", errors.Join(packErr, err))
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (h *Host) filesRemove(_ context.Context, p scripts.FilesRemoveParams) (scripts.Removed, error) {
	real, err := h.drives.real(p.Folder)
	if err != nil {
		return scripts.Removed{}, err
	}
	if names, err := splitPath(p.Folder); err != nil || len(names) == 0 {
		return scripts.Removed{}, fail(scripts.Foreign, p.Folder, "%s is a drive and no folder of a lab", p.Folder)
	}
	if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) {
		return scripts.Removed{}, nil
	}
	mark, err := h.drives.real(join(p.Folder, markFile))
	if err != nil {
		return scripts.Removed{}, err
	}
	content, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return scripts.Removed{}, err
	}
	if !isMark(content, p.Mark) {
		return scripts.Removed{}, fail(scripts.Foreign, p.Folder, "the folder %s does not bear the mark of this lab", p.Folder)
	}
	var targets []string
	for _, path := range p.Paths {
		switch {
		case path == "":
			continue
		case !drivePath.MatchString(path):
			path = join(p.Folder, path)
		}
		if !within(path, p.Folder) || samePath(path, p.Folder) {
			return scripts.Removed{}, fail(scripts.Foreign, path, "this is not below %s", p.Folder)
		}
		targets = append(targets, path)
	}
	if len(targets) == 0 {
		targets = []string{p.Folder}
	}
	return h.removeAll(targets)
}

// removeAll removes files and folders. All are looked at before the first goes.
func (h *Host) removeAll(targets []string) (scripts.Removed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	var reals []string
	for _, target := range targets {
		if err := errors.Join(h.busy(target), h.busyBelow(target)); err != nil {
			return scripts.Removed{}, err
		}
		real, err := h.drives.real(target)
		if err != nil {
			return scripts.Removed{}, err
		}
		reals = append(reals, real)
	}
	removed := false
	for _, real := range reals {
		if _, err := os.Lstat(real); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(real); err != nil {
			return scripts.Removed{Removed: removed}, err
		}
		removed = true
	}
	return scripts.Removed{Removed: removed}, nil
}
