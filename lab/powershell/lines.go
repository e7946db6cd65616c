package powershell

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// lineBytes is how much data a line of base64 carries at most: 64 KiB of text,
// which .NET's Console.In reads at once and 5.1 keeps below its large objects (85,000 bytes).
const lineBytes = 48 * 1024

// maxLine bounds a line that is read: a script's result is one line.
const maxLine = 64 << 20

var errLongLine = errors.New("line is too long")

// appendLine adds one line of base64.
func appendLine(to, data []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(to, data), '\n')
}

// copyLines writes what r has as lines of base64, each as soon as there is
// anything, and an empty line at its end.
func copyLines(w io.Writer, r io.Reader) error {
	buffer := make([]byte, lineBytes)
	var line []byte
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			line = appendLine(line[:0], buffer[:n])
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			_, err = w.Write([]byte{'\n'})
			return err
		}
		if err != nil {
			return &streamError{fmt.Errorf("read the standard input to send: %w", err)}
		}
	}
}

// linesReader reads what copyLines wrote.
type linesReader struct {
	r     *bufio.Reader
	data  []byte
	begun bool
	err   error
}

// Read ends with io.EOF at the empty line, and where nothing came at all; an
// end within is io.ErrUnexpectedEOF.
func (l *linesReader) Read(p []byte) (int, error) {
	for len(l.data) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		l.next()
	}
	n := copy(p, l.data)
	l.data = l.data[n:]
	return n, nil
}

func (l *linesReader) next() {
	line, err := readLine(l.r)
	switch {
	case err == io.EOF && !l.begun && len(line) == 0:
		l.err = io.EOF
	case err == io.EOF:
		l.err = io.ErrUnexpectedEOF
	case err != nil:
		l.err = err
	case len(line) == 0:
		l.err = io.EOF
	default:
		l.begun = true
		if l.data, err = base64.StdEncoding.DecodeString(string(line)); err != nil {
			l.err = fmt.Errorf("line of standard input: %w", err)
		}
	}
}

// readLine returns a line without its end (\n or \r\n), at most maxLine long.
// io.EOF comes with what was left of a line that has no end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, errLongLine
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'}), err
	}
}
