// Package wsman is the server's side of WinRM: WS-Management with the shell
// protocol that cmd and powershell.exe are run with on a Windows machine
// (MS-WSMV), its limits and its faults. What a command does is the caller's.
//
//	s := &wsman.Server{Users: users, Run: func(ctx context.Context, p wsman.Process) int { … }}
//	cert, fingerprint, err := wsman.SelfSigned("127.0.0.1")
//	go s.ServeTLS(listener, cert)
//	defer s.Close()
package wsman

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"l4lab/lab/powershell"
)

// Server is a machine's WinRM service. Its fields are set before Serve.
type Server struct {
	// Users are who may log on, and with what. Names are compared without case.
	Users map[string]powershell.Password
	// Limits are the service's; zero fields are those of Windows Server 2022.
	Limits Limits
	// Latency is added to each request, as a network's round trip would.
	Latency time.Duration
	// Faults, when not nil, is asked before each request is handled (the first
	// is 1; those of logging on count, their action is "") for what goes wrong with it.
	Faults func(request int, action string) *Fault
	// Run runs a command to its end and returns its exit code.
	Run func(ctx context.Context, p Process) int

	once     sync.Once
	limits   Limits
	shells   shells
	requests atomic.Int64

	mu     sync.Mutex
	https  []*http.Server
	closed bool
}

// Process is one command. Streams are closed and ctx is done when the client
// terminates it or its shell goes.
type Process struct {
	User string
	// CommandLine is what the client asked for, Arguments what it gave apart.
	CommandLine string
	Arguments   []string
	Stdin       io.Reader
	Stdout      io.Writer
	Stderr      io.Writer
}

// Limits are those of winrm get winrm/config.
type Limits struct {
	// EnvelopeSize is MaxEnvelopeSizekb in bytes: 512,000.
	EnvelopeSize int
	// CommandLine is cmd's limit in characters: 8,191.
	CommandLine int
	// ShellsPerUser is MaxShellsPerUser: 30. ProcessesPerShell is
	// MaxProcessesPerShell: 25.
	ShellsPerUser     int
	ProcessesPerShell int
	// IdleTimeout is how long a shell is kept that nothing is asked of: 2 h.
	IdleTimeout time.Duration
	// OperationTimeout bounds what a request may ask for: 60 s.
	OperationTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		value *int
		or    int
	}{{&l.EnvelopeSize, 500 * 1024}, {&l.CommandLine, 8191}, {&l.ShellsPerUser, 30}, {&l.ProcessesPerShell, 25}} {
		if *f.value == 0 {
			*f.value = f.or
		}
	}
	if l.IdleTimeout == 0 {
		l.IdleTimeout = 2 * time.Hour
	}
	if l.OperationTimeout == 0 {
		l.OperationTimeout = time.Minute
	}
	return l
}

// Serve answers on a listener until Close; HTTP, so that messages must be
// sealed by NTLM. Basic authentication is not offered.
func (s *Server) Serve(l net.Listener) error { return s.serve(l, false) }

// ServeTLS answers HTTPS on a listener until Close.
func (s *Server) ServeTLS(l net.Listener, cert tls.Certificate) error {
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	return s.serve(tls.NewListener(l, config), true)
}

func (s *Server) serve(l net.Listener, secure bool) error {
	s.init()
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // refused handshakes are the client's to report
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, &connection{raw: c, tls: secure})
		},
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return http.ErrServerClosed
	}
	s.https = append(s.https, h)
	s.mu.Unlock()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) init() { s.once.Do(func() { s.limits = s.Limits.withDefaults() }) }

// Close ends all commands and shells, and what Serve does.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	servers := s.https
	s.mu.Unlock()
	var errs []error
	for _, h := range servers {
		errs = append(errs, h.Close())
	}
	s.shells.clear()
	return errors.Join(errs...)
}

// Shells returns how many shells there are.
func (s *Server) Shells() int { return s.shells.count() }

// Processes returns how many commands run in them.
func (s *Server) Processes() int { return s.shells.processes() }

// Requests returns how many requests came.
func (s *Server) Requests() int { return int(s.requests.Load()) }
