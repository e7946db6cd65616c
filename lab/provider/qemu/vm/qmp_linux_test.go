package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}` + "\r\n"

// server is a QEMU as a test wants it. It greets, agrees to the capabilities,
// and answers each further command as told; "ID" stands for the command's id.
func server(t *testing.T, answer func(command string) string) string {
	t.Helper()
	path := filepath.Join(folder(t), "qmp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			converse(conn, answer)
		}
	}()
	return path
}

func converse(conn net.Conn, answer func(command string) string) {
	defer conn.Close()
	fmt.Fprint(conn, greeting)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var request struct {
			Execute string `json:"execute"`
			ID      int    `json:"id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &request); err != nil {
			return
		}
		text := `{"return": {}, "id": ID}`
		if request.Execute != "qmp_capabilities" {
			text = answer(request.Execute)
		}
		fmt.Fprint(conn, strings.ReplaceAll(text, "ID", fmt.Sprint(request.ID)), "\r\n")
	}
}

func TestAnAnswerIsTheOneToTheCommand(t *testing.T) {
	t.Parallel()
	path := server(t, func(string) string {
		return `{"event": "RESET", "timestamp": {"seconds": 1}, "data": {"guest": true}}` + "\n" +
			`{"return": {"status": "an older one"}, "id": 1}` + "\n" +
			`{"return": {"status": "running"}, "id": ID}` + "\n" +
			`{"event": "STOP"}`
	})
	m, err := dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 3 {
		if got, err := m.status(t.Context()); got != "running" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

func TestWhatGoesWrongWithQMP(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ answer, want string }{
		"the command is refused":      {`{"error": {"class": "GenericError", "desc": "Not today"}, "id": ID}`, "query-status: Not today"},
		"the answer is no JSON":       {"hello", "query-status: invalid character"},
		"the answer is another shape": {`{"return": {"status": 7}, "id": ID}`, "query-status: read the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := dial(t.Context(), server(t, func(string) string { return tt.answer }))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			_, err = m.status(t.Context())
			wantError(t, err, tt.want)
		})
	}
}

func TestAServerThatHangsDoesNotHangItsClient(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(folder(t), "qmp.sock")) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("time is up"))
	defer cancel()
	_, err = dial(ctx, l.Addr().String())
	wantError(t, err, "reach QEMU", "time is up")
}

func TestASocketThatIsNotQMPs(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("unix", filepath.Join(folder(t), "qmp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			fmt.Fprintln(conn, `{"hello": "world"}`)
		}
	}()
	_, err = dial(t.Context(), l.Addr().String())
	wantError(t, err, "is no QMP socket")
}

func TestAFileGoesAlongWithItsCommand(t *testing.T) {
	t.Parallel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder(t), "qmp.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan string, 1)
	go func() {
		defer close(received)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, greeting)
		text, rights := make([]byte, 1000), make([]byte, 100)
		n, _, _, _, _ := conn.ReadMsgUnix(text, nil)
		fmt.Fprint(conn, `{"return": {}, "id": 1}`)
		n, oob, _, _, err := conn.ReadMsgUnix(text[:n+900], rights)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(rights[:oob])
		for _, message := range messages {
			fds, _ := unix.ParseUnixRights(&message)
			for _, fd := range fds {
				f := os.NewFile(uintptr(fd), "received")
				_, _ = f.WriteString("written by the server to what came with " + string(text[:n]))
				f.Close()
			}
		}
		fmt.Fprint(conn, `{"return": {}, "id": 2}`)
	}()
	file, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.execute(t.Context(), "getfd", map[string]any{"fdname": "state"}, nil, file); err != nil {
		t.Fatal(err)
	}
	<-received
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(file)
	want := "written by the server to what came with " + `{"arguments":{"fdname":"state"},"execute":"getfd","id":2}` + "\n"
	if string(got) != want || err != nil {
		t.Errorf("the file holds %q (%v), want %q", got, err, want)
	}
}

func TestTheStatesOfAMachine(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]State{
		"running": Running, "paused": Paused, "prelaunch": Paused, "postmigrate": Paused, "suspended": Paused,
		"shutdown": Shutdown, "guest-panicked": Panicked, "io-error": IOError, "internal-error": InternalError,
	} {
		if got := stateOf(status); got != want {
			t.Errorf("%s: got %q, want %q", status, got, want)
		}
	}
}
