package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l4lab/lab/demo"
	"l4lab/lab/guest"
)

// here is a guest that is this machine; dir stands for the node's folder.
type here struct {
	guest.Guest
	dir  string
	path string
}

func (h here) Run(ctx context.Context, c guest.Command) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.Env = append(os.Environ(), "LABCTL_NODE="+h.dir)
	if h.path != "" {
		cmd.Env = append(cmd.Env, "PATH="+h.path)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &guest.ExitError{Argv: c.Argv, Code: exit.ExitCode()}
	}
	return err
}

// found skips where no browser is installed; `make test` installs one.
func found(t *testing.T) (*Browser, here) {
	t.Helper()
	h := here{dir: t.TempDir()}
	_, err := look(t.Context(), h)
	if errors.Is(err, demo.ErrNoBrowser) {
		t.Skip("needs a browser: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return In(func() (guest.Guest, error) { return h, nil }), h
}

// counting is a page that says how often it was asked for, and from where.
func counting(t *testing.T) (url string, peers func() []string) {
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.RemoteAddr)
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Cache-Control", "max-age=600")
		fmt.Fprintf(w, `<meta http-equiv="refresh" content="1"><body style="font-size:9em">visit %d`, len(seen))
	}))
	t.Cleanup(server.Close)
	return server.URL + "/", func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

func TestAForcedRefreshIsAnotherVisitFromAnotherPort(t *testing.T) {
	b, h := found(t)
	url, peers := counting(t)
	p, err := b.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.Version(), "Chrom") {
		t.Errorf("version %q", b.Version())
	}
	before, err := p.Screenshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := p.Screenshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Text(t.Context())
	if err != nil || text != "visit 2" || before.Alt != "visit 1" || after.Alt != "visit 2" {
		t.Errorf("saw %q, then %q and %q (%v)", before.Alt, after.Alt, text, err)
	}
	for _, image := range [][]byte{before.PNG, after.PNG} {
		if c, err := png.DecodeConfig(bytes.NewReader(image)); err != nil || c.Width != width*scale || c.Height != height*scale {
			t.Errorf("picture %+v, %v", c, err)
		}
	}
	if bytes.Equal(before.PNG, after.PNG) {
		t.Error("both pictures are the same")
	}
	if seen := peers(); len(seen) != 2 || seen[0] == seen[1] {
		t.Errorf("asked from %v, want two ports", seen)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	left(t, h.dir)
}

func TestAPageDoesNotRefreshItself(t *testing.T) {
	b, _ := found(t)
	url, peers := counting(t)
	p, err := b.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	time.Sleep(2500 * time.Millisecond) // nothing may happen, so there is nothing to wait for
	if n := len(peers()); n != 1 {
		t.Errorf("asked for %d times", n)
	}
}

func TestAPageThatIsNotThereIsAnError(t *testing.T) {
	b, h := found(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + closed.Addr().String() + "/"
	closed.Close()
	if _, err := b.Open(t.Context(), url); err == nil || !strings.Contains(err.Error(), "CONNECTION_REFUSED") {
		t.Errorf("error %v names no refused connection", err)
	}
	left(t, h.dir)
}

func TestAReloadThatFailsIsAnError(t *testing.T) {
	b, _ := found(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "here")
	}))
	p, err := b.Open(t.Context(), server.URL+"/")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	server.Close()
	if err := p.Reload(t.Context()); err == nil {
		t.Error("a page of a server that is gone was reloaded")
	}
}

func TestAnInterruptEndsTheBrowser(t *testing.T) {
	b, h := found(t)
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	go func() {
		<-asked
		cancel(interrupted)
	}()
	if _, err := b.Open(ctx, server.URL+"/"); !errors.Is(err, interrupted) {
		t.Errorf("Open = %v, want %v", err, interrupted)
	}
	left(t, h.dir)
}

func TestWhereThereIsNoBrowserTheErrorSaysWhatToDo(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs sh")
	}
	bin := t.TempDir()
	if err := os.Symlink(sh, filepath.Join(bin, "sh")); err != nil {
		t.Fatal(err)
	}
	b := In(func() (guest.Guest, error) { return here{dir: t.TempDir(), path: bin}, nil })
	_, err = b.Open(t.Context(), "http://127.0.0.1/")
	if !errors.Is(err, demo.ErrNoBrowser) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("Open = %v", err)
	}
}

// left fails when a browser left a file in the node's folder or a process with its
// mark in the environment.
func left(t *testing.T, dir string) {
	t.Helper()
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range environments {
		data, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(data), "LABCTL_NODE="+dir+"\x00") {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			t.Errorf("still runs: %s", strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
}
