//go:build linux

package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
	"l4lab/lab/guest/relay"
)

// asRelay makes the test binary be the guest's `lbagent`: its relay.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "relay" {
		os.Exit(relayMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// relayMain takes Target.Argv's arguments.
func relayMain(args []string) int {
	var t relay.Target
	for len(args) > 0 && args[0] != "--" {
		t.Local, args = args[1], args[2:]
	}
	t.Network, t.Address = args[1], args[2]
	if err := relay.Serve(context.Background(), t, t.Connect, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		return 1
	}
	return 0
}

// server is an OpenSSH server of this test's own, on loopback.
type server struct {
	dir     string
	address string
	login   keys.Key
	host    keys.Key
	extra   string // of its configuration

	mu  sync.Mutex
	cmd *exec.Cmd
	log *bytes.Buffer
}

// newServer starts a server. Lines of extra go before the others: the first
// value of a keyword counts.
func newServer(t *testing.T, extra ...string) *server {
	t.Helper()
	s := &server{dir: t.TempDir(), extra: strings.Join(extra, "\n")}
	var err error
	if s.login, err = keys.Client(s.dir); err != nil {
		t.Fatal(err)
	}
	if s.host, err = keys.Host(s.dir, "be3"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "authorized_keys"), []byte(s.login.Public()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.address = freePort(t)
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *server) start(t *testing.T) {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			t.Skip("no OpenSSH server here: scripts/install-deps.sh test")
		}
	}
	if os.Geteuid() == 0 { // where sshd's unprivileged half is shut in
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skip("sshd needs /run/sshd:", err)
		}
	}
	config := filepath.Join(s.dir, "sshd_config")
	// A home of the test's own: bash reads ~/.bashrc when sshd runs it, and this one is noisy.
	noise := "echo Welcome to the guest\necho Mind the step >&2\n"
	if err := os.WriteFile(filepath.Join(s.dir, ".bashrc"), []byte(noise), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`%s
SetEnv HOME=%s
ListenAddress %s
HostKey %s
PidFile none
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowStreamLocalForwarding yes
Subsystem sftp internal-sftp
`, s.extra, s.dir, s.address, filepath.Join(s.dir, keys.Folder, "host-be3"), filepath.Join(s.dir, "authorized_keys"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = new(bytes.Buffer)
	s.cmd = exec.Command(sshd, "-D", "-e", "-f", config)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			s.cmd.Process.Kill()
			s.cmd.Wait()
			t.Fatalf("sshd does not listen: %v\n%s", err, s.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stop ends the server with all of its connections, as a machine that is turned off.
func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	pids := descendants(s.cmd.Process.Pid)
	s.cmd.Process.Kill()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.cmd.Wait() // the log is read until all have ended
	s.cmd = nil
}

// descendants are the processes that a process started, directly or not.
func descendants(of int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	var all []int
	for queue := []int{of}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

func (s *server) config(t *testing.T) Config {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Machine: "be3", Address: s.address, User: me.Username, Key: s.login, HostKey: s.host.Public(),
		Folder: filepath.Join(s.dir, "node"), Agent: program,
	}
}

// connected returns a guest on a server of its own.
func connected(t *testing.T, extra ...string) (*Guest, *server) {
	t.Helper()
	s := newServer(t, extra...)
	g, err := Connect(t.Context(), s.config(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	t.Cleanup(func() { g.Close() })
	return g, s
}

// output runs a command and returns what it printed.
func output(t *testing.T, g guest.Guest, argv ...string) string {
	t.Helper()
	var out strings.Builder
	if err := g.Run(t.Context(), guest.Command{Argv: argv, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// lines gives what is written, line by line.
func lines() (io.Writer, <-chan string) {
	r, w := io.Pipe()
	found := make(chan string, 100)
	go func() {
		var line []byte
		buffer := make([]byte, 1)
		for {
			if _, err := r.Read(buffer); err != nil {
				close(found)
				return
			}
			if buffer[0] != '\n' {
				line = append(line, buffer[0])
				continue
			}
			found <- string(line)
			line = nil
		}
	}()
	return w, found
}

// gone waits until a process is no more.
func gone(t *testing.T, pid string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s still runs: %s", pid, stat)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
