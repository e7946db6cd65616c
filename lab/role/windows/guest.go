package windows

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/powershell"
	"l4lab/lab/role/windows/guestscripts"
)

const (
	// maxStdin bounds what a command reads: all of it travels as one parameter.
	maxStdin = 16 << 20
	// pieceBytes is how much of a file one call brings: base64 and JSON make it
	// 1.4 MB of answer, in many envelopes.
	pieceBytes = 1 << 20
	// runLimit bounds a command when the context does not.
	runLimit = 10 * time.Minute
)

// ErrTooLong: a command's standard input is more than a script is asked to carry.
var ErrTooLong = errors.New("standard input is too long for a Windows guest")

// Run implements guest.Guest. What the command prints comes at its end, and
// signals do not reach it; Ctrl-C ends the call, and the machine ends the
// command when its time is over.
func (m *Machine) Run(ctx context.Context, c guest.Command) error {
	if len(c.Argv) == 0 {
		return errors.New("no command")
	}
	p := guestscripts.ExecParams{Program: program(c.Argv[0]), Arguments: append([]string{}, c.Argv[1:]...), Seconds: seconds(ctx)}
	if c.Stdin != nil {
		input, err := io.ReadAll(io.LimitReader(c.Stdin, maxStdin+1))
		if err != nil {
			return m.errorf("run %s: read its standard input: %w", strings.Join(c.Argv, " "), err)
		}
		if len(input) > maxStdin {
			return m.errorf("run %s: %w (more than %d MiB)", strings.Join(c.Argv, " "), ErrTooLong, maxStdin>>20)
		}
		p.Stdin = encode(input)
	}
	r, err := m.verbs.Exec.Run(ctx, m.Runner, p)
	if errors.Is(err, &powershell.ScriptError{Code: guestscripts.NotFound}) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return m.errorf("run %s: %w", strings.Join(c.Argv, " "), err)
	}
	stderr, err := deliver(r, c)
	if err != nil {
		return m.errorf("run %s: %w", strings.Join(c.Argv, " "), err)
	}
	if r.TimedOut {
		return m.errorf("run %s: ended after %d s: %w", strings.Join(c.Argv, " "), p.Seconds, context.DeadlineExceeded)
	}
	if r.ExitCode != 0 {
		return &guest.ExitError{Argv: c.Argv, Code: r.ExitCode, Stderr: stderr}
	}
	return nil
}

// deliver hands over what a command printed; what nobody took of its standard
// error is returned.
func deliver(r guestscripts.ExecResult, c guest.Command) (stderr string, err error) {
	out, outErr := base64.StdEncoding.DecodeString(r.Stdout)
	words, wordsErr := base64.StdEncoding.DecodeString(r.Stderr)
	if err := errors.Join(outErr, wordsErr); err != nil {
		return "", fmt.Errorf("what it printed cannot be read: %w", err)
	}
	if c.Stdout != nil {
		_, outErr = c.Stdout.Write(out)
	}
	if c.Stderr == nil {
		return string(words), outErr
	}
	_, wordsErr = c.Stderr.Write(words)
	return "", errors.Join(outErr, wordsErr)
}

// program returns the full path of lbagent, which is in the machine's folder;
// other names are looked for in the PATH.
func program(name string) string {
	switch strings.ToLower(name) {
	case "lbagent", "lbagent.exe":
		return Program
	}
	return name
}

// seconds is how long a command may take: no longer than the caller waits.
func seconds(ctx context.Context) int {
	limit := runLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	return max(1, int(math.Ceil(limit.Seconds())))
}

// path returns the machine's path of a path in its folder. A full path is
// taken as it is: the machine's files are its own.
func (m *Machine) path(p string) (string, error) {
	if len(p) > 2 && p[1] == ':' && p[2] == '\\' {
		return p, nil
	}
	if !filepath.IsLocal(p) || strings.ContainsAny(p, `:\`) {
		return "", fmt.Errorf("%s: %s: %w (%s)", m.Machine, p, guest.ErrOutside, Folder)
	}
	return Folder + `\` + strings.ReplaceAll(p, "/", `\`), nil
}

// Push implements guest.Guest.
func (m *Machine) Push(ctx context.Context, f guest.File) error {
	to, err := m.path(f.Path)
	if err != nil {
		return err
	}
	if err := m.Upload(ctx, f.Source, f.Hash, to); err != nil {
		return m.errorf("push %s: %w", f.Source, err)
	}
	return nil
}

// WriteFile writes a small file of the machine, whole or not at all.
func (m *Machine) WriteFile(ctx context.Context, path string, data []byte) error {
	if _, err := m.verbs.FileWrite.Run(ctx, m.Runner, guestscripts.FileWriteParams{Path: path, Data: encode(data)}); err != nil {
		return m.errorf("write %s: %w", path, err)
	}
	return nil
}

// Pull implements guest.Guest. The services' logs have the names that they have
// on every node: agent.log, web.log, decap.log.
func (m *Machine) Pull(ctx context.Context, path string) (io.ReadCloser, error) {
	switch path {
	case "agent.log":
		return m.open(ctx, logs+`\lbagent.log`)
	case "web.log", "decap.log":
		return m.open(ctx, logs+`\lbagent-`+path)
	}
	from, err := m.path(path)
	if err != nil {
		return nil, err
	}
	return m.open(ctx, from)
}

func (m *Machine) open(ctx context.Context, path string) (io.ReadCloser, error) {
	have, err := m.verbs.FileProbe.Run(ctx, m.Runner, guestscripts.FileParams{Path: path})
	if err == nil && !have.Exists {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, m.errorf("pull %s: %w", path, err)
	}
	return &reader{ctx: ctx, m: m, path: path, size: have.Bytes}, nil
}

// reader reads a file of the machine, a piece a call. It ends where the file
// did when it was opened: a log grows meanwhile.
type reader struct {
	ctx          context.Context
	m            *Machine
	path         string
	offset, size int64
	piece        bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.piece.Len() == 0 {
		if r.offset >= r.size {
			return 0, io.EOF
		}
		got, err := r.m.verbs.FileRead.Run(r.ctx, r.m.Runner, guestscripts.FileReadParams{Path: r.path, Offset: r.offset, Bytes: min(pieceBytes, r.size-r.offset)})
		if err != nil {
			return 0, r.m.errorf("read %s: %w", r.path, err)
		}
		data, err := base64.StdEncoding.DecodeString(got.Data)
		if err != nil {
			return 0, r.m.errorf("read %s: %w", r.path, err)
		}
		if len(data) == 0 {
			return 0, io.EOF // it was cut meanwhile
		}
		r.offset += int64(len(data))
		r.piece.Reset(data)
	}
	return r.piece.Read(p)
}

func (r *reader) Close() error { return nil }
