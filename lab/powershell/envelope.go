package powershell

import (
	"bytes"
	"crypto/rand"
	_ "embed" // the bootstrap
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

//go:embed bootstrap.ps1
var bootstrap string

// arguments are powershell.exe's; nothing of a call is in them.
func arguments() []string {
	units := utf16.Encode([]rune(bootstrap))
	b := make([]byte, 0, 2*len(units))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return []string{"-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass",
		"-EncodedCommand", base64.StdEncoding.EncodeToString(b)}
}

// CommandLine is what runs on a machine for every call: powershell.exe with
// the bootstrap as -EncodedCommand.
func CommandLine() string { return "powershell.exe " + strings.Join(arguments(), " ") }

// newNonce returns what makes an envelope's markers ones that no program prints by chance.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b[:])
}

func beginMark(nonce string) string { return "-----BEGIN l4lab " + nonce + "-----" }
func endMark(nonce string) string   { return "-----END l4lab " + nonce + "-----" }

// opening is the three lines that begin a call.
func opening(nonce string, c Call) ([]byte, error) {
	input := []byte("{}")
	if c.Input != nil {
		var err error
		if input, err = json.Marshal(c.Input); err != nil {
			return nil, fmt.Errorf("%s: parameters: %w", c.Script.Name, err)
		}
	}
	if !bytes.HasPrefix(input, []byte{'{'}) {
		return nil, fmt.Errorf("%s: parameters are %T, which is no JSON object", c.Script.Name, c.Input)
	}
	b := append([]byte(nonce), '\n')
	return appendLine(appendLine(b, []byte(c.Script.Text)), input), nil
}

// envelope is what a script's end looks like.
type envelope struct {
	OK     bool            `json:"ok"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *envelopeError  `json:"error,omitempty"`
}

type envelopeError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Target  string `json:"target"`
}

// answer takes a call's standard output as it arrives.
type answer struct {
	call       Call
	begin, end string

	line   []byte
	inside bool   // between the marks
	json   []byte // what was there
	ended  bool
	noise  tail
	// delivered says that the caller's writers got something: the call cannot be
	// tried again.
	delivered bool
}

func newAnswer(nonce string, c Call) *answer {
	return &answer{call: c, begin: beginMark(nonce), end: endMark(nonce)}
}

// Write fails when a line cannot be understood, or the caller's writer fails.
func (a *answer) Write(b []byte) (int, error) {
	written := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if len(a.line)+len(b) > maxLine {
				return 0, errLongLine
			}
			a.line = append(a.line, b...)
			return written, nil
		}
		line := append(a.line, b[:i]...)
		a.line, b = line[:0], b[i+1:]
		if err := a.take(bytes.TrimSuffix(line, []byte{'\r'})); err != nil {
			return 0, err
		}
	}
}

func (a *answer) take(line []byte) error {
	line = bytes.TrimPrefix(line, []byte("\uFEFF")) // .NET may begin a stream with one
	switch {
	case a.ended:
	case a.inside && string(line) == a.end:
		a.ended = true
	case a.inside:
		a.json = append(a.json, line...)
	case string(line) == a.begin:
		a.inside = true
	case bytes.HasPrefix(line, []byte("1:")):
		return a.deliver(a.call.Stdout, line)
	case bytes.HasPrefix(line, []byte("2:")):
		return a.deliver(a.call.Stderr, line)
	default:
		a.noise.add(line)
	}
	return nil
}

func (a *answer) deliver(w io.Writer, line []byte) error {
	data, err := base64.StdEncoding.DecodeString(string(line[2:]))
	if err != nil {
		return fmt.Errorf("data line %q: %w", excerpt(string(line)), err)
	}
	if w == nil || len(data) == 0 {
		return nil
	}
	a.delivered = true
	if _, err := w.Write(data); err != nil {
		return &streamError{fmt.Errorf("%s: write what it printed: %w", a.call.Script.Name, err)}
	}
	return nil
}

// streamError is a fault of the caller's own reader or writer, not of the machine.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// result is the call's: nil, a *ScriptError, or what is wrong with the envelope.
func (a *answer) result() error {
	if len(a.line) > 0 && !a.ended {
		if err := a.take(a.line); err != nil {
			return err
		}
		a.line = nil
	}
	if !a.ended {
		return fmt.Errorf("no envelope (begun: %t)", a.inside)
	}
	var e envelope
	if err := json.Unmarshal(a.json, &e); err != nil {
		return fmt.Errorf("envelope %q: %w", excerpt(string(a.json)), err)
	}
	if !e.OK {
		if e.Error == nil {
			return fmt.Errorf("envelope %q has neither result nor error", excerpt(string(a.json)))
		}
		return &ScriptError{Script: a.call.Script.Name, Code: e.Error.Code, Message: e.Error.Message, Target: e.Error.Target}
	}
	if a.call.Result == nil || len(e.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(e.Result, a.call.Result); err != nil {
		return fmt.Errorf("result %q is no %T: %w", excerpt(string(e.Result)), a.call.Result, err)
	}
	return nil
}

// tail keeps the first and the last lines of what nobody asked for.
type tail struct {
	head, end []byte
}

func (t *tail) add(line []byte) {
	if room := excerptLength - len(t.head); room > 0 {
		n := min(len(line), room)
		t.head = append(t.head, line[:n]...)
		if line = line[n:]; len(line) == 0 {
			t.head = append(t.head, '\n')
			return
		}
	}
	t.end = append(append(t.end, line...), '\n')
	if over := len(t.end) - 2*excerptLength; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
}

func (t *tail) String() string { return string(t.head) + string(t.end) }

// errorOf makes a call's error of how its process ended. Errors of its own kind
// pass; the rest is ErrProtocol with what was printed in place of an envelope.
func (a *answer) errorOf(where string, err error, exitCode int, stderr string) error {
	switch e := err.(type) {
	case nil:
		return nil
	case *ScriptError, *streamError:
		return e
	}
	got := fmt.Sprintf("%v; exit code %d", err, exitCode)
	if s := excerpt(a.noise.String()); s != "" {
		got += "; standard output: " + s
	}
	if s := excerpt(plainText(stderr)); s != "" {
		got += "; standard error: " + s
	}
	return &failure{kind: ErrProtocol, where: where, doing: "run " + a.call.Script.Name, got: got, cause: err}
}
