package transfer

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"l4lab/lab/powershell"
)

// ErrChanged says that a file is not what it was when its download began.
var ErrChanged = errors.New("the file changed meanwhile, or was damaged on the way")

// Download writes the file at path on the host to w. When it returns an error,
// what was written is not the file.
func Download(ctx context.Context, on powershell.Runner, verbs Verbs, path string, w io.Writer, progress Progress) error {
	there, err := verbs.FileProbe.Run(ctx, on, FileProbeParams{Path: path})
	if err == nil && !there.Exists {
		err = &powershell.ScriptError{Script: verbs.FileSend.Name, Code: NotFound, Message: "there is no such file", Target: path}
	}
	if err != nil {
		return fmt.Errorf("download %s: %w", path, err)
	}
	d := &download{on: on, verbs: verbs, path: path, to: w, sum: sha256.New(), size: there.Bytes, progress: progress}
	if err := again(ctx, func() int64 { return d.written }, func() error { return d.attempt(ctx) }); err != nil {
		return fmt.Errorf("download %s (%d bytes): %w", path, there.Bytes, err)
	}
	if got := hex.EncodeToString(d.sum.Sum(nil)); d.written != there.Bytes || !strings.EqualFold(got, there.SHA256) {
		return fmt.Errorf("download %s: %w: %d bytes of SHA-256 %s, not %d of %s", path, ErrChanged, d.written, got, there.Bytes, there.SHA256)
	}
	return nil
}

type download struct {
	on       powershell.Runner
	verbs    Verbs
	path     string
	to       io.Writer
	progress Progress

	sum           hash.Hash
	size, written int64
}

// attempt gets what is missing.
func (d *download) attempt(ctx context.Context) error {
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := d.unpack(r)
		r.CloseWithError(err)
		unpacked <- err
	}()
	var got FileSendResult
	err := d.on.Run(ctx, powershell.Call{
		Script: d.verbs.FileSend.Script,
		Input:  FileSendParams{Path: d.path, Offset: d.written},
		Stdout: w,
		Result: &got,
	})
	w.CloseWithError(err) // io.EOF where there is none
	if fault := <-unpacked; err == nil && fault != nil {
		return fmt.Errorf("what the host sent: %w", fault)
	}
	return err
}

// unpack takes the host's gzip streams, which make one (RFC 1952 section 2.2).
// What was written before the stream broke counts.
func (d *download) unpack(r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err == io.EOF {
		return nil // nothing was left to send
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(d, z)
	return err
}

// Write takes the file's bytes.
func (d *download) Write(b []byte) (int, error) {
	n, err := d.to.Write(b)
	d.sum.Write(b[:n])
	d.written += int64(n)
	d.progress.report(d.written, d.size)
	return n, err
}
