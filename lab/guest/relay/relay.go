// Package relay makes a connection of a process' standard streams. The
// process is `lbagent relay` on a machine that labctl can run commands on; it
// connects to a TCP or UDP address, a unix socket or the agent, and copies
// between that connection and its own streams:
//
//	conn, err := relay.Dial(ctx, run, "/usr/local/bin/lbagent", relay.Target{Network: "tcp", Address: "40.1.1.1:80"})
//
// First of all, the process writes one line of JSON (Greeting): that the
// connection stands, or why it does not, so that a dialler gets the errors that a
// dialler expects (ECONNREFUSED and so on). What follows are the connection's
// bytes, both ways. For UDP each datagram is preceded by its length, two bytes
// in network byte order, so that datagrams stay what they are. The end of the
// process' input shuts the connection for writing, as nc -N does, unless the
// target says otherwise; when the peer has ended its side, the process ends.
package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// Run runs a command on the machine to its end: guest.Guest's Run, spelled out.
type Run func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error

// The networks that a Target may have.
const (
	TCP  = "tcp"
	UDP  = "udp"
	Unix = "unix"
	// Agent is the agent's own socket, or its named pipe on Windows; Address is
	// "" for the usual one.
	Agent = "agent"
)

// Target is what to connect to, as seen from the machine.
type Target struct {
	Network, Address string
	// Local is "" or the ADDRESS:PORT to bind to.
	Local string
	// UntilClosed leaves the connection open for writing after the input's end,
	// until the peer closes it: an HTTP server of Go cancels a request whose
	// client has shut its side.
	UntilClosed bool
}

// Argv is the command line that relays to it.
func (t Target) Argv(program string) []string {
	argv := []string{program, "relay"}
	if t.Local != "" {
		argv = append(argv, "--local", t.Local)
	}
	if t.UntilClosed {
		argv = append(argv, "--until-closed")
	}
	argv = append(argv, "--", t.Network)
	if t.Address != "" {
		argv = append(argv, t.Address)
	}
	return argv
}

// framed says whether datagrams are kept apart.
func (t Target) framed() bool { return strings.HasPrefix(t.Network, UDP) }

// Version is the protocol's, in every Greeting.
const Version = 1

// Greeting is the first line that a relay writes.
type Greeting struct {
	Relay int `json:"relay"`
	// Local and Remote are the connection's addresses.
	Local  string `json:"local,omitempty"`
	Remote string `json:"remote,omitempty"`
	// Kind and Message say why there is no connection.
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message,omitempty"`
}

// The kinds of failure, and the errors that they are on the dialler's side.
func kinds() map[string]error {
	return map[string]error{
		"refused":     syscall.ECONNREFUSED,
		"unreachable": syscall.EHOSTUNREACH,
		"noNetwork":   syscall.ENETUNREACH,
		"inUse":       syscall.EADDRINUSE,
		"noAddress":   syscall.EADDRNOTAVAIL,
		"reset":       syscall.ECONNRESET,
		"notFound":    fs.ErrNotExist,
		"permission":  fs.ErrPermission,
		"timeout":     os.ErrDeadlineExceeded,
	}
}

// winsock are the same errors as Windows numbers them (Windows Sockets Error
// Codes): the constants that package syscall has there are its own inventions, and
// no call ever returns them.
func winsock() map[string]syscall.Errno {
	return map[string]syscall.Errno{
		"refused":     10061, // WSAECONNREFUSED
		"unreachable": 10065, // WSAEHOSTUNREACH
		"noNetwork":   10051, // WSAENETUNREACH
		"inUse":       10048, // WSAEADDRINUSE
		"noAddress":   10049, // WSAEADDRNOTAVAIL
		"reset":       10054, // WSAECONNRESET
		"timeout":     10060, // WSAETIMEDOUT
	}
}

// wsaeacces comes from bind for a port in a range that Windows keeps for itself, as
// it does on Hyper-V hosts (netsh int ipv4 show excludedportrange), or for one
// that somebody has opened exclusively.
const wsaeacces = syscall.Errno(10013)

// kindOf names a dial error.
func kindOf(err error) string {
	for kind, is := range kinds() {
		if errors.Is(err, is) || errors.Is(err, winsock()[kind]) {
			return kind
		}
	}
	var call *os.SyscallError
	if errors.As(err, &call) && call.Syscall == "bind" && call.Err == wsaeacces {
		return "inUse"
	}
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return "timeout"
	}
	return "other"
}

// DialError says that a relay could not connect. It matches the error of its
// kind: errors.Is(err, syscall.ECONNREFUSED).
type DialError struct {
	Kind, Message string
}

func (e *DialError) Error() string { return e.Message }

// Unwrap returns the error of its kind.
func (e *DialError) Unwrap() error { return kinds()[e.Kind] }

// ErrNoRelay: what ran is no relay, or it ended before it said anything.
var ErrNoRelay = errors.New("no relay answers")

// maxGreeting bounds the first line, in bytes.
const maxGreeting = 4096

func parseGreeting(line []byte) (Greeting, error) {
	var g Greeting
	if err := json.Unmarshal(line, &g); err != nil || g.Relay == 0 {
		return g, fmt.Errorf("%w: its first line is %q", ErrNoRelay, line)
	}
	if g.Relay != Version {
		return g, fmt.Errorf("%w: it speaks version %d of the protocol, this labctl %d; push the agent again", ErrNoRelay, g.Relay, Version)
	}
	if g.Kind != "" {
		return g, &DialError{Kind: g.Kind, Message: g.Message}
	}
	return g, nil
}

// address is a connection's end as net.Addr.
func address(network, text string) net.Addr {
	ap, err := netip.ParseAddrPort(text)
	switch {
	case err == nil && strings.HasPrefix(network, UDP):
		return net.UDPAddrFromAddrPort(ap)
	case err == nil:
		return net.TCPAddrFromAddrPort(ap)
	}
	return &net.UnixAddr{Name: text, Net: "unix"}
}
