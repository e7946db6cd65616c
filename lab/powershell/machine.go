package powershell

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// Request is what the bootstrap reads from its standard input: the machine's
// side of a Call, for a simulated machine and for tests.
type Request struct {
	// Nonce marks the envelope's lines.
	Nonce string
	// Script is the text that arrived, byte for byte.
	Script Script
	// Input is the JSON object of parameters.
	Input json.RawMessage
	// Stdin is what follows, decoded; it ends where the caller's did. A caller
	// without standard input ends it at once.
	Stdin io.Reader
}

// ReadRequest reads the three lines that begin a call.
func ReadRequest(r io.Reader) (Request, error) {
	buffered := bufio.NewReaderSize(r, 128*1024)
	var lines [3][]byte
	for i := range lines {
		line, err := readLine(buffered)
		if err != nil {
			return Request{}, fmt.Errorf("line %d of a call: %w", i+1, err)
		}
		lines[i] = bytes.TrimSpace(line)
	}
	if len(lines[0]) != 32 || strings.Trim(string(lines[0]), "0123456789abcdef") != "" {
		return Request{}, fmt.Errorf("nonce of %d bytes is no 32 hex digits", len(lines[0]))
	}
	text, err := base64.StdEncoding.DecodeString(string(lines[1]))
	if err != nil {
		return Request{}, fmt.Errorf("script: %w", err)
	}
	input, err := base64.StdEncoding.DecodeString(string(lines[2]))
	if err != nil {
		return Request{}, fmt.Errorf("parameters: %w", err)
	}
	if !json.Valid(input) || !bytes.HasPrefix(bytes.TrimSpace(input), []byte{'{'}) {
		return Request{}, errors.New("parameters are no JSON object")
	}
	return Request{Nonce: string(lines[0]), Script: Script{Text: string(text)}, Input: input, Stdin: &linesReader{r: buffered}}, nil
}

// Reply writes what the bootstrap writes on its standard output.
type Reply struct {
	nonce string
	mu    sync.Mutex
	w     io.Writer
}

// NewReply returns the reply to a request, written to w.
func NewReply(w io.Writer, q Request) *Reply { return &Reply{nonce: q.Nonce, w: w} }

// Stdout and Stderr take what the script writes as data lines. They may be
// written to side by side.
func (r *Reply) Stdout() io.Writer { return dataLines{r, "1:"} }

// Stderr is Stdout's sister.
func (r *Reply) Stderr() io.Writer { return dataLines{r, "2:"} }

type dataLines struct {
	r      *Reply
	prefix string
}

func (d dataLines) Write(b []byte) (int, error) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	written := 0
	for len(b) > 0 {
		n := min(len(b), lineBytes)
		if _, err := d.r.w.Write(appendLine([]byte(d.prefix), b[:n])); err != nil {
			return written, err
		}
		b, written = b[n:], written+n
	}
	return written, nil
}

// End writes the envelope: result when err is nil; else err, which is a
// *ScriptError or becomes one without a code.
func (r *Reply) End(result any, err error) error {
	e := envelope{OK: err == nil}
	if err != nil {
		e.Error = &envelopeError{Message: err.Error()}
		var script *ScriptError
		if errors.As(err, &script) {
			e.Error = &envelopeError{Code: script.Code, Message: script.Message, Target: script.Target}
		}
	} else if e.Result, err = json.Marshal(result); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err = fmt.Fprintf(r.w, "\n%s\n%s\n%s\n", beginMark(r.nonce), inASCII(line), endMark(r.nonce))
	return err
}

// inASCII escapes what is not ASCII in JSON, as the bootstrap does: a console's
// code page then changes nothing.
func inASCII(line []byte) []byte {
	var b []byte
	for len(line) > 0 {
		c, n := utf8.DecodeRune(line)
		line = line[n:]
		if c < utf8.RuneSelf {
			b = append(b, byte(c))
			continue
		}
		for _, unit := range utf16.Encode([]rune{c}) {
			b = fmt.Appendf(b, `\u%04x`, unit)
		}
	}
	return b
}
