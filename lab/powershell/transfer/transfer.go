// Package transfer moves files to and from a Windows machine over its Runner, a
// Hyper-V host's or a guest's that serves WinRM: one command each, its standard
// input or output the file's bytes, compressed, checked by hash at the end, taken
// up again where a connection broke.
//
// What it costs. A byte of the file, compressed, becomes 4/3 bytes as a line of
// base64 for the script and 16/9 as WinRM's own base64 around it: an envelope
// of 500 KB (512,000 bytes, 4,096 of them for headers) carries 380,928 bytes of
// standard input, which are 285,690 bytes of compressed file. A 12 MB agent that
// does not shrink at all is 45 envelopes and 22 MB on the wire: 0.18 s at 1 Gbit/s,
// and 45 round trips, 0.09 s at 2 ms each. Some ten milliseconds an envelope for the
// host's XML and PowerShell's base64 make it about a second: far below 10 s,
// which would be 220 ms an envelope. A Go program shrinks to less than half.
// BenchmarkUpload measures it against the simulated service with these limits
// and 2 ms a request: 2 to 3.5 s and 54 requests in all, on two busy processors
// that did both sides' work. A real host has never been measured.
//
// Before, with one command for each piece of base64, users of others waited
// 32 minutes for 1.4 MB (facts of Hyper-V).
package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"l4lab/lab/powershell"
)

// Progress is told how many of a file's bytes have been moved; total is the
// file's size. It may be nil.
type Progress func(done, total int64)

func (p Progress) report(done, total int64) {
	if p != nil {
		p(done, total)
	}
}

const (
	// tries is how often in a row a transfer may break without a byte of progress.
	tries = 3
	pause = 500 * time.Millisecond
	// block is what is compressed or read at a time; a line of standard input
	// holds as much (package powershell).
	block = 48 * 1024
)

// again runs attempt until it succeeds, fails for good, or breaks several times
// where it stood. Attempts that get further count anew.
func again(ctx context.Context, position func() int64, attempt func() error) error {
	broken, last := 0, position()
	for {
		err := attempt()
		if err == nil || ctx.Err() != nil || !errors.Is(err, powershell.ErrUnreachable) {
			return err
		}
		if now := position(); now > last {
			broken, last = 0, now
		}
		if broken++; broken == tries {
			return fmt.Errorf("broke %d times at byte %d: %w", tries, last, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w (the last try: %v)", context.Cause(ctx), err)
		}
	}
}

// hashOf returns the SHA-256 of n bytes in hex.
func hashOf(r io.Reader, n int64) (string, error) {
	h := sha256.New()
	if _, err := io.CopyN(h, r, n); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
