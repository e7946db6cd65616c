package transfer

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"

	"l4lab/lab/powershell"
)

// Upload makes the file at path on the machine what source holds. A file that is
// right already stays, and one that was begun is gone on with.
func Upload(ctx context.Context, on powershell.Runner, verbs Verbs, source io.ReadSeeker, path string, progress Progress) error {
	u := upload{on: on, verbs: verbs, source: source, path: path, progress: progress}
	if err := u.measure(); err != nil {
		return fmt.Errorf("upload to %s: read the source: %w", path, err)
	}
	if err := again(ctx, func() int64 { return u.offset }, func() error { return u.attempt(ctx) }); err != nil {
		return fmt.Errorf("upload to %s (%d bytes): %w", path, u.size, err)
	}
	progress.report(u.size, u.size)
	return nil
}

type upload struct {
	on       powershell.Runner
	verbs    Verbs
	source   io.ReadSeeker
	path     string
	progress Progress

	size   int64
	sum    string
	offset int64 // what the host has for certain
}

func (u *upload) measure() (err error) {
	if u.size, err = u.source.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	u.sum, err = u.hash(u.size)
	return err
}

// hash returns that of the source's first n bytes.
func (u *upload) hash(n int64) (string, error) {
	if _, err := u.source.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return hashOf(u.source, n)
}

func (u *upload) attempt(ctx context.Context) error {
	there, err := u.verbs.FileProbe.Run(ctx, u.on, FileProbeParams{Path: u.path})
	if err != nil {
		return err
	}
	if there.Exists && there.Bytes == u.size && strings.EqualFold(there.SHA256, u.sum) {
		return nil
	}
	if u.offset, err = u.begun(there); err != nil {
		return fmt.Errorf("read the source: %w", err)
	}
	if _, err := u.source.Seek(u.offset, io.SeekStart); err != nil {
		return fmt.Errorf("read the source: %w", err)
	}
	stream := u.compressed()
	defer stream.Close()
	var got FileReceiveResult
	err = u.on.Run(ctx, powershell.Call{
		Script: u.verbs.FileReceive.Script,
		Input:  FileReceiveParams{Path: u.path, Offset: u.offset, Bytes: u.size, SHA256: u.sum},
		Stdin:  stream,
		Result: &got,
	})
	if err == nil && got.Bytes != u.size {
		err = fmt.Errorf("the host says that it has %d bytes", got.Bytes)
	}
	return err
}

// begun returns how much of the part on the host is the source's.
func (u *upload) begun(there FileProbeResult) (int64, error) {
	if there.PartBytes <= 0 || there.PartBytes > u.size {
		return 0, nil
	}
	sum, err := u.hash(there.PartBytes)
	if err != nil || !strings.EqualFold(sum, there.PartSHA256) {
		return 0, err
	}
	return there.PartBytes, nil
}

// compressed returns what is left of the source as a gzip stream. Closing it
// ends what makes it, which has then let go of the source.
func (u *upload) compressed() io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := bufio.NewWriterSize(w, block) // a line each
		z := gzip.NewWriter(b)
		err := u.copy(z)
		if err == nil {
			err = z.Close()
		}
		if err == nil {
			err = b.Flush()
		}
		w.CloseWithError(err)
	}()
	return &stream{r, done}
}

type stream struct {
	*io.PipeReader
	done chan struct{}
}

func (s *stream) Close() error {
	err := s.PipeReader.Close()
	<-s.done
	return err
}

func (u *upload) copy(w io.Writer) error {
	buffer := make([]byte, block)
	for at := u.offset; at < u.size; {
		n, err := u.source.Read(buffer[:min(block, u.size-at)])
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			at += int64(n)
			u.progress.report(at, u.size)
		}
		if err == io.EOF && at < u.size {
			return fmt.Errorf("the source ends at %d of %d bytes: %w", at, u.size, io.ErrUnexpectedEOF)
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}
