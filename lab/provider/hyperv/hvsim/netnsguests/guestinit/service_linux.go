package guestinit

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startLimit is systemd's default of TimeoutStartSec, shortened.
	startLimit = 20 * time.Second
	// stopLimit is how long a service may take to end by itself.
	stopLimit = 3 * time.Second
	// burst and burstWindow end restarts that lead nowhere, as StartLimitBurst
	// and StartLimitIntervalSec do.
	burst       = 5
	burstWindow = 10 * time.Second
)

// service is one unit's life.
type service struct {
	name    string
	machine *machine

	// verbs is held while it is started or stopped.
	verbs sync.Mutex

	mu       sync.Mutex
	unit     Unit
	active   string
	pid      int
	code     int
	restarts int
	recent   []time.Time
	stopping bool
	// waiting: it ended and is about to be started again.
	waiting bool
	ended   chan struct{} // closed at the end of the main process
}

func newService(name string, m *machine) *service {
	return &service{name: name, machine: m, active: "inactive"}
}

func (s *service) state() ServiceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ServiceState{Active: s.active, Waiting: s.waiting, PID: s.pid, ExitCode: s.code, Restarts: s.restarts}
}

func (s *service) set(active string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = active
}

// start has it run; one that does already is left alone.
func (s *service) start(u Unit) error {
	s.verbs.Lock()
	defer s.verbs.Unlock()
	if now := s.state(); now.Active == "active" || now.Active == "activating" && !now.Waiting {
		return nil
	}
	s.mu.Lock()
	s.unit, s.stopping, s.waiting, s.recent, s.restarts, s.code = u, false, false, nil, 0, 0
	s.mu.Unlock()
	return s.launch()
}

// launch runs the start's command lines.
func (s *service) launch() error {
	s.set("activating")
	err := s.begin()
	if err != nil {
		s.note(err.Error())
		s.set("failed")
		if s.unit.Type == "oneshot" && strings.HasPrefix(s.unit.Restart, "on-") {
			go s.startAgain()
		}
		return fmt.Errorf("%s: %w; see journalctl -u %s", s.name, err, s.name)
	}
	return nil
}

func (s *service) begin() error {
	u := s.unit
	for prefix, dirs := range map[string][]string{"/run": u.RuntimeDirectories, "/var/lib": u.StateDirectories} {
		for _, dir := range dirs {
			if err := os.MkdirAll(filepath.Join(prefix, dir), 0o755); err != nil {
				return err
			}
		}
	}
	if err := s.runAll(u.Before); err != nil {
		return err
	}
	if u.Type == "oneshot" {
		if err := s.runAll(u.Start); err != nil {
			return err
		}
		if u.RemainAfterExit {
			s.set("active")
		} else {
			s.set("inactive")
		}
		return s.runAll(u.After)
	}
	if err := s.launchMain(u); err != nil {
		return err
	}
	return s.runAll(u.After)
}

// command makes a process of a command line, its output in the unit's journal.
func (s *service) command(line Line, journal *os.File) *exec.Cmd {
	argv := expand(line.Argv, s.unit.Environment)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), s.unit.Environment...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", journal, journal
	if s.unit.Directory != "" {
		cmd.Dir = s.unit.Directory
	}
	return cmd
}

// runAll runs command lines to their ends, one after the other.
func (s *service) runAll(lines []Line) error {
	for _, line := range lines {
		journal, err := s.journal()
		if err != nil {
			return err
		}
		wait, err := s.machine.children.start(s.command(line, journal))
		if err == nil {
			err = wait()
		}
		journal.Close()
		if err == nil || line.Lenient {
			continue
		}
		s.mu.Lock()
		s.code = exitCode(err)
		s.mu.Unlock()
		return fmt.Errorf("%s: %w", strings.Join(line.Argv, " "), err)
	}
	return nil
}

// launchMain starts the main process and, for Type=notify, waits for its word.
func (s *service) launchMain(u Unit) error {
	journal, err := s.journal()
	if err != nil {
		return err
	}
	defer journal.Close()
	cmd := s.command(u.Start[0], journal)
	var notice *net.UnixConn
	if u.Type == "notify" {
		path := "/run/notify-" + u.Name
		os.Remove(path)
		if notice, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path}); err != nil {
			return err
		}
		defer notice.Close()
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	}
	wait, err := s.machine.children.start(cmd)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	s.mu.Lock()
	s.pid, s.ended = cmd.Process.Pid, ended
	if u.Type != "notify" {
		s.active = "active"
	}
	s.mu.Unlock()
	go s.watch(wait, ended)
	if notice == nil {
		return nil
	}
	return s.awaitReady(notice, ended)
}

// awaitReady waits for READY=1 (sd_notify(3)).
func (s *service) awaitReady(notice *net.UnixConn, ended chan struct{}) error {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ended:
			notice.Close()
		case <-stop:
		}
	}()
	if err := notice.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	text := make([]byte, 4096)
	for {
		n, err := notice.Read(text)
		if err != nil {
			s.kill(unix.SIGKILL)
			return errors.New("it ended, or did not say that it is ready")
		}
		for line := range strings.Lines(string(text[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				s.set("active")
				return nil
			}
		}
	}
}

// watch notes the main process's end and starts it anew where the unit says so.
func (s *service) watch(wait func() error, ended chan struct{}) {
	err := wait()
	code := exitCode(err)
	s.mu.Lock()
	wasActive := s.active == "active"
	s.pid, s.code = 0, code
	failed := code != 0 && !(s.stopping && code == 128+int(unix.SIGTERM))
	switch {
	case failed && !s.stopping:
		s.active = "failed"
	case s.unit.RemainAfterExit && !s.stopping:
		s.active = "active"
	default:
		s.active = "inactive"
	}
	again := wasActive && !s.stopping && (s.unit.Restart == "always" || failed && strings.HasPrefix(s.unit.Restart, "on-"))
	s.mu.Unlock()
	close(ended)
	if code != 0 {
		s.note(fmt.Sprintf("main process exited, code %d", code))
	}
	if again {
		s.startAgain()
	}
}

// startAgain starts a service that ended by itself, unless it does so too often.
func (s *service) startAgain() {
	s.mu.Lock()
	now := time.Now()
	s.recent = append(s.recent, now)
	early := 0
	for _, t := range s.recent {
		if now.Sub(t) < burstWindow {
			early++
		}
	}
	tooOften := early > burst && !s.unit.NoStartLimit
	if !tooOften && !s.stopping {
		s.active, s.waiting = "activating", true
	}
	pause := s.unit.Pause
	s.mu.Unlock()
	if tooOften {
		s.note("it is started no more: it ended too often")
		return
	}
	time.Sleep(pause)
	s.verbs.Lock()
	defer s.verbs.Unlock()
	s.mu.Lock()
	// Somebody may have stopped it meanwhile, or started it anew.
	due := s.waiting && !s.stopping
	s.waiting = false
	if due {
		s.restarts++
	}
	s.mu.Unlock()
	if due {
		_ = s.launch() // it is in the journal
	}
}

// stop ends it: ExecStop first, then SIGTERM, then SIGKILL, each to its session.
func (s *service) stop() error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.verbs.Lock()
	defer s.verbs.Unlock()
	s.mu.Lock()
	was, ended, waited := s.active, s.ended, s.waiting
	running := s.pid != 0
	s.waiting = false
	s.mu.Unlock()
	if was == "inactive" || was == "failed" || waited {
		s.set("inactive")
		return nil
	}
	s.set("deactivating")
	err := s.runAll(s.unit.Stop)
	if running {
		s.kill(unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopLimit):
			s.kill(unix.SIGKILL)
			<-ended
		}
	}
	s.set("inactive")
	return err
}

// kill signals the main process and its group.
func (s *service) kill(signal unix.Signal) {
	if pid := s.state().PID; pid != 0 {
		_ = unix.Kill(-pid, signal)
	}
}

func (s *service) journalFile() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unit.Log != "" {
		return s.unit.Log
	}
	return filepath.Join(journals, s.name+".log")
}

func (s *service) journal() (*os.File, error) {
	path := s.journalFile()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// note writes a line of the manager's own into the unit's journal.
func (s *service) note(text string) {
	if f, err := s.journal(); err == nil {
		fmt.Fprintf(f, "%s: %s\n", s.name, text)
		f.Close()
	}
	s.machine.log.Info(text, "unit", s.name)
}
