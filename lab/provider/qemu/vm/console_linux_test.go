package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// size returns how large the console's log is in all.
func size(dir string) int64 {
	var n int64
	for _, path := range []string{consoleFile(dir), olderFile(dir)} {
		if st, err := os.Stat(path); err == nil {
			n += st.Size()
		}
	}
	return n
}

func TestTheConsolesLogIsBoundedAndKeepsTheEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(consoleFile(dir), []byte("an earlier machine's"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	console, keeper, err := keepConsole(dir, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	v := &VM{dir: dir}
	fmt.Fprintln(console, "first")
	eventually(t, "a line is there while the machine runs", func() bool { return v.Console(100) == "first" })
	const line = 16
	for i := range 3*consolePart/line + 100 {
		if _, err := fmt.Fprintf(console, "line %010d\n", i); err != nil {
			t.Fatal(err)
		}
		if n := size(dir); n > 2*consolePart {
			t.Fatalf("the log has %d bytes, more than %d", n, 2*consolePart)
		}
	}
	fmt.Fprint(console, "last, without a line end")
	console.Close()
	eventually(t, "the keeper ends with the pipe", func() bool { return !keeper.Alive() })
	all := v.Console(2 * consolePart)
	if len(all) <= consolePart {
		t.Errorf("only %d bytes are left, less than one part", len(all))
	}
	lines := strings.Split(all, "\n")
	if got := lines[len(lines)-1]; got != "last, without a line end" {
		t.Errorf("it ends with %q", got)
	}
	for i, want := 2, 3*consolePart/line+100-1; i < len(lines); i, want = i+1, want-1 {
		if got := lines[len(lines)-i]; got != fmt.Sprintf("line %010d", want) {
			t.Fatalf("line %d from the end is %q, want number %d", i, got, want)
		}
	}
	if words, err := os.ReadFile(logFile(dir)); err != nil || len(words) > 0 {
		t.Errorf("the keeper complained: %q, %v", words, err)
	}
}

func TestAGuestThatFloodsItsConsoleFillsNoDisk(t *testing.T) {
	t.Parallel()
	c := config(t, floods)
	v := run(t, c)
	eventually(t, "the first part is full", func() bool {
		_, err := os.Stat(olderFile(c.Dir))
		return err == nil
	})
	eventually(t, "the second part grows", func() bool {
		if n := size(c.Dir); n > 2*consolePart {
			t.Fatalf("the log has %d bytes, more than %d", n, 2*consolePart)
		}
		return len(v.Console(2*consolePart)) > consolePart+1000
	})
	if got, err := v.State(t.Context()); got != Running || err != nil {
		t.Errorf("state %q, %v; want %q", got, err, Running)
	}
	if got := v.Console(10); got != strings.Repeat("f", 10) {
		t.Errorf("the console ends with %q", got)
	}
}

func TestWhatAConsoleShows(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ written, want string }{
		"plain lines as they are":                     {"one\n two\tthree\n", "one\n two\tthree"},
		"no carriage returns":                         {"one\r\ntwo\r\n", "one\ntwo"},
		"no colours":                                  {"[ \x1b[0;32m OK \x1b[0m] done", "[  OK ] done"},
		"no titles, ended by BEL":                     {"\x1b]0;a title\atext", "text"},
		"no titles, ended by ESC \\":                  {"\x1b]0;a title\x1b\\text", "text"},
		"no short sequences, as the firmware's reset": {"\x1bc\x1b[?7l\x1b[2JSeaBIOS", "SeaBIOS"},
		"no backspace, bell, NUL, delete":             {"a\b\a\x00\x7fb", "ab"},
		"no C1 controls":                              {"a\u009bb", "ab"},
		"letters of all languages":                    {"grüße 日本", "grüße 日本"},
		"no broken UTF-8":                             {"a\xff\xfeb", "a\ufffd\ufffdb"},
		"nothing of a sequence that is not complete":  {"text\x1b[31", "text"},
		"nothing of a title that is not complete":     {"text\x1b]0;tit", "text"},
		"the line after a title that never ends":      {"\x1b]0;title\nnext", "next"},
		"nothing of an escape at the end":             {"text\x1b", "text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(consoleFile(dir), []byte(tt.written), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := (&VM{dir: dir}).Console(1000); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTheEndOfAConsoleIsAsLongAsAskedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := &VM{dir: dir}
	if got := v.Console(10); got != "" {
		t.Errorf("without a log: %q", got)
	}
	for path, text := range map[string]string{consoleFile(dir): "6789", olderFile(dir): "012345"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int]string{3: "789", 4: "6789", 7: "3456789", 100: "0123456789"} {
		if got := v.Console(n); got != want {
			t.Errorf("the last %d: %q, want %q", n, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "console.log.2")); err == nil {
		t.Error("there is a third part")
	}
}
