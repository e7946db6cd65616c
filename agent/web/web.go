// Package web is the demo's web server on a backend: a page that names its
// backend and refreshes itself, and the few answers that prove a path, who
// answered, what the client looks like from here, bytes whose hash is known.
//
//	GET  /               the page
//	GET  /whoami         {"name","address","os","client"}
//	GET  /bytes?n=&seed= n bytes of package pattern
//	POST /sink           {"bytes","sha256"} of the body
//
// Every answer has the header X-Backend with the backend's name. Over UDP every
// datagram is answered with what /whoami says.
//
// Hundreds of these servers run side by side on one machine, a process each,
// so memory counts for more than speed; memory.go says what is done about it.
package web

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Identity is who answers.
type Identity struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	OS      string     `json:"os"`
}

// Options say what Serve serves.
type Options struct {
	Identity
	// TCP and UDP are the addresses to listen on, ":80", "20.1.1.10:80" or "[fd00::10]:80". Without a
	// host they are all of both families, and so take the VIP on the loopback as well.
	TCP, UDP []string
	// Log gets one record a request.
	Log *slog.Logger
}

// OptionError says which option is wrong. Its exit code is 2.
type OptionError struct{ Option, Message string }

func (e *OptionError) Error() string { return "--" + e.Option + ": " + e.Message }

// ExitCode is 2: usage.
func (e *OptionError) ExitCode() int { return 2 }

// PermissionError says that the system did not let us listen. Its exit code is 3.
type PermissionError struct{ Err error }

func (e *PermissionError) Error() string {
	return e.Err.Error() + ": ports below 1024 need root or CAP_NET_BIND_SERVICE"
}

// Unwrap returns the cause.
func (e *PermissionError) Unwrap() error { return e.Err }

// ExitCode is 3: a missing privilege.
func (e *PermissionError) ExitCode() int { return 3 }

// check returns an *OptionError for the first option that is wrong.
func (o Options) check() error {
	if o.Name == "" {
		return &OptionError{"name", "is missing: the name of this backend, such as be1"}
	}
	if strings.ContainsFunc(o.Name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return &OptionError{"name", strconv.Quote(o.Name) + " cannot stand in a header: letters, digits and hyphens can"}
	}
	if !o.Address.IsValid() {
		return &OptionError{"address", "is missing: the address of this backend, such as 20.1.1.10"}
	}
	if len(o.TCP)+len(o.UDP) == 0 {
		return &OptionError{"tcp", "neither --tcp nor --udp names an address to listen on, such as :80"}
	}
	for option, addresses := range map[string][]string{"tcp": o.TCP, "udp": o.UDP} {
		for _, a := range addresses {
			if err := checkListen(a); err != nil {
				return &OptionError{option, err.Error()}
			}
		}
	}
	return nil
}

func checkListen(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not [ADDRESS]:PORT, such as :80", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q: the port is not between 0 and 65535", address)
	}
	if a, err := netip.ParseAddr(host); host != "" && (err != nil || a.Is4In6()) {
		return fmt.Errorf("%q: %q is no address", address, host)
	}
	return nil
}

// eachFamily calls open with each address that a valid one means: itself, or without a host the unspecified
// one of each family, IPv6's with the port of IPv4's where the system chose that. A socket of its own
// for each lets UDP learn to which address a datagram came. IPv6 may be missing.
func eachFamily(address string, open func(family, address string) (net.Addr, error)) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		family := "6"
		if a.Is4() {
			family = "4"
		}
		_, err := open(family, address)
		return err
	}
	first, err := open("4", address)
	if err != nil {
		return err
	}
	if _, chosen, err := net.SplitHostPort(first.String()); err == nil {
		port = chosen
	}
	if _, err = open("6", net.JoinHostPort("::", port)); errors.Is(err, syscall.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// Timeouts. Clients of a lab are near; one that stalls must not hold memory.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 60 * time.Second
	// drainTimeout is how long a stopping server waits for requests in flight.
	drainTimeout = 5 * time.Second
)

// Server listens already; Run serves.
type Server struct {
	options   Options
	listeners []net.Listener
	datagrams []*datagrams
}

// Listen opens all sockets, so that whoever reads "listening" in the log can
// connect. It fails with an *OptionError or a *PermissionError where those fit.
func Listen(ctx context.Context, options Options) (*Server, error) {
	if err := options.check(); err != nil {
		return nil, err
	}
	s := &Server{options: options}
	var config net.ListenConfig
	for _, address := range options.TCP {
		err := eachFamily(address, func(family, at string) (net.Addr, error) {
			listener, err := config.Listen(ctx, "tcp"+family, at)
			if err != nil {
				return nil, err
			}
			s.listeners = append(s.listeners, listener)
			return listener.Addr(), nil
		})
		if err != nil {
			return nil, errors.Join(explainListen("tcp", address, err), s.close())
		}
	}
	for _, address := range options.UDP {
		err := eachFamily(address, func(family, at string) (net.Addr, error) {
			socket, err := listenDatagrams(ctx, "udp"+family, at)
			if err != nil {
				return nil, err
			}
			s.datagrams = append(s.datagrams, socket)
			return socket.conn.LocalAddr(), nil
		})
		if err != nil {
			return nil, errors.Join(explainListen("udp", address, err), s.close())
		}
	}
	return s, nil
}

func explainListen(option, address string, err error) error {
	err = fmt.Errorf("listen on %s %s: %w", option, address, err)
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{err}
	}
	return err
}

// Addresses returns where the server listens, "tcp 0.0.0.0:80", with the port
// that the system chose where port 0 was asked for.
func (s *Server) Addresses() []string {
	var all []string
	for _, l := range s.listeners {
		all = append(all, "tcp "+l.Addr().String())
	}
	for _, d := range s.datagrams {
		all = append(all, "udp "+d.conn.LocalAddr().String())
	}
	return all
}

func (s *Server) close() error {
	var faults []error
	for _, l := range s.listeners {
		faults = append(faults, l.Close())
	}
	for _, d := range s.datagrams {
		faults = append(faults, d.conn.Close())
	}
	return errors.Join(faults...)
}

// Run serves until ctx ends or a socket fails. Then it takes no more
// connections and gives the requests in flight up to five seconds. The end of
// ctx is no error.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	idle := newIdleTrimmer()
	defer idle.stop()
	server := http.Server{
		Handler:           newHandler(s.options.Identity, s.options.Log),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnState:         idle.connection,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelWarn),
	}
	var running sync.WaitGroup
	for _, l := range s.listeners {
		running.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				stop(fmt.Errorf("serve on %s: %w", l.Addr(), err))
			}
		})
	}
	for _, d := range s.datagrams {
		running.Go(func() {
			if err := d.answer(s.options.Identity, s.options.Log); ctx.Err() == nil {
				stop(fmt.Errorf("serve on udp %s: %w", d.conn.LocalAddr(), err))
			}
		})
	}
	s.options.Log.Info("listening", "backend", s.options.Name, "on", strings.Join(s.Addresses(), ", "))

	<-ctx.Done()
	failure := context.Cause(ctx)
	if errors.Is(failure, context.Canceled) {
		failure = nil
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		s.options.Log.Warn("requests in flight were cut off", "after", drainTimeout)
		failure = errors.Join(failure, server.Close())
	}
	for _, d := range s.datagrams {
		failure = errors.Join(failure, d.conn.Close())
	}
	running.Wait()
	s.options.Log.Info("stopped", "backend", s.options.Name)
	return failure
}
