package vm

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"l4lab/lab/provider/fabric"
)

// consolePart is how large one of the two parts of the console's log gets. A
// Debian writes about 30 KB when it boots.
const consolePart = 256 << 10

func consoleFile(dir string) string { return filepath.Join(dir, "console.log") }
func olderFile(dir string) string   { return filepath.Join(dir, "console.log.1") }

// keepConsole starts the process that keeps the newest part of what comes
// through the pipe, for as long as somebody can write to it. QEMU's own log
// files only grow, a guest that prints in a loop would fill the disk, and its
// ring buffer is lost with QEMU, when it is needed most. head takes no more from
// the pipe than it was told to, and without a buffer it writes all at once.
func keepConsole(dir string, log *os.File, environment []string) (*os.File, fabric.Process, error) {
	const script = `while stdbuf -o0 head -c "$1" >console.log && [ "$(wc -c <console.log)" -ge "$1" ]
do mv -f console.log console.log.1
done`
	for _, path := range []string{consoleFile(dir), olderFile(dir)} {
		if err := os.RemoveAll(path); err != nil {
			return nil, fabric.Process{}, err
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fabric.Process{}, err
	}
	defer reader.Close()
	cmd := exec.Command("/bin/sh", "-c", script, "console", fmt.Sprint(consolePart))
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, environment, reader, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		writer.Close()
		return nil, fabric.Process{}, fmt.Errorf("keep the console: %w", err)
	}
	keeper, err := fabric.Identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }()
	if err != nil {
		writer.Close()
		return nil, fabric.Process{}, fmt.Errorf("keep the console: %w", err)
	}
	return writer, keeper, nil
}

// Console returns the end of what the guest wrote on its console, at most max
// bytes of it, without control characters; "" when there is nothing.
func (v *VM) Console(limit int) string {
	data, _ := tail(consoleFile(v.dir), limit)
	if len(data) < limit {
		older, _ := tail(olderFile(v.dir), limit-len(data))
		data = append(older, data...)
	}
	return strings.TrimSpace(printable(string(data)))
}

// printable removes what a terminal would act on: escape sequences (ECMA-48:
// CSI, OSC and the two-character ones) and all control characters but line ends
// and tabs.
func printable(text string) string {
	var out strings.Builder
	for len(text) > 0 {
		if text[0] == 0x1b {
			text = text[sequence(text):]
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			out.WriteRune(r)
		}
		text = text[size:]
	}
	return out.String()
}

// sequence returns how long the escape sequence is that text begins with.
func sequence(text string) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			if text[i] >= 0x40 && text[i] <= 0x7e {
				return i + 1
			}
		}
		return len(text)
	case ']':
		// It ends by BEL or by ESC \\, and in practice by a line end at the latest.
		if i := strings.IndexAny(text[2:], "\a\x1b\n"); i >= 0 {
			return 2 + i
		}
		return len(text)
	}
	return 2
}

// tail returns the end of a file.
func tail(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-int64(limit)), int64(limit)))
}
