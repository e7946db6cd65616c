// Package ssh is the way into a guest over SSH: guest.Guest on one connection a
// node, which all commands, files and dialled connections share, and which is made
// anew after the guest was restarted.
//
//	g, err := ssh.New(ssh.Config{
//		Machine: "be3", Address: "20.1.1.30:22", User: "root", Key: client, HostKey: host.Public(),
//	})
//	err = g.AwaitReady(ctx, 5*time.Minute)
//	err = g.Run(ctx, guest.Command{Argv: []string{"uname", "-r"}, Stdout: os.Stdout})
//
// The host key is pinned: a server with another one is never spoken to. Logging
// in is by key; Password is for a jump host that takes none.
//
// The guest is a machine of its own, so that Push and Pull take absolute paths
// as they are; relative ones are under Folder, as everywhere in labctl.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
)

// Errors that a caller may want to tell apart.
var (
	// ErrUnreachable: no connection came about, or the one there was is lost.
	ErrUnreachable = errors.New("guest cannot be reached over SSH")
	// ErrHostKey: the server's key is not the pinned one.
	ErrHostKey = errors.New("host key is not the one that the lab gave the guest")
	// ErrAuth: the server let nobody in with what was offered.
	ErrAuth = errors.New("guest refuses the login")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("connection to the guest has been closed")
)

// Where things are in a guest.
const (
	// DefaultFolder is where relative paths lie.
	DefaultFolder = "/var/lib/l4lab"
	// DefaultAgent is the program that Dial runs in the guest.
	DefaultAgent = "/usr/local/bin/lbagent"
)

// DialFunc makes the connection under SSH.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config is how a guest is reached.
type Config struct {
	// Machine is the node's name, for messages.
	Machine string
	// Address is HOST:PORT, as Dial understands it.
	Address string
	User    string
	// Key logs in. The zero value is none.
	Key keys.Key
	// Password, when not nil, is asked for the password of a jump host.
	Password func() (string, error)
	// HostKey is the pinned public key: "ssh-ed25519 AAAA…".
	HostKey string
	// Dial is nil for a direct connection. Another guest's Forward goes through it.
	Dial DialFunc
	// Sudo runs everything by sudo, for a user who is not root.
	Sudo bool
	// Folder and Agent replace the defaults.
	Folder, Agent string
	// KeepAlive is how often the server is asked whether it is there, and how
	// long its answer may take, twice; 0 means 10 s.
	KeepAlive time.Duration
	// Handshake bounds the making of a connection; 0 means 30 s: an emulated
	// guest needs several seconds for its part of the key exchange.
	Handshake time.Duration
	// Progress, when not nil, is told how many of a pushed file's bytes are there.
	Progress func(f guest.File, done, total int64)
	// Log is nil for none.
	Log *slog.Logger
}

// Guest is a guest.Guest over SSH. Its methods may be called side by side.
type Guest struct {
	config  Config
	client  ssh.ClientConfig
	pinned  ssh.PublicKey
	dialing chan struct{} // holds a token while a connection is being made
	pushing sync.Mutex

	mu          sync.Mutex
	connections []*connection
	closed      bool
}

var _ guest.Guest = (*Guest)(nil)

// New returns a guest without connecting: the first use does.
func New(c Config) (*Guest, error) {
	if c.Folder == "" {
		c.Folder = DefaultFolder
	}
	if c.Agent == "" {
		c.Agent = DefaultAgent
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = 10 * time.Second
	}
	if c.Handshake <= 0 {
		c.Handshake = 30 * time.Second
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	g := &Guest{config: c, dialing: make(chan struct{}, 1)}
	if !path.IsAbs(c.Folder) || !path.IsAbs(c.Agent) {
		return nil, fmt.Errorf("%s: the folder %q and the program %q need absolute paths", c.Machine, c.Folder, c.Agent)
	}
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.HostKey))
	if err != nil {
		return nil, fmt.Errorf("%s: the host key to pin is unusable: %w", c.Machine, err)
	}
	g.pinned = pinned
	g.client = g.clientConfig()
	if len(g.client.Auth) == 0 {
		return nil, fmt.Errorf("%s: there is neither a key nor a password to log in with", c.Machine)
	}
	return g, nil
}

// Connect returns a guest whose first connection stands. It tries once; to wait
// for a guest that starts, use New and AwaitReady.
func Connect(ctx context.Context, c Config) (*Guest, error) {
	g, err := New(c)
	if err != nil {
		return nil, err
	}
	if _, err := g.connect(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

// Close ends the connection and all that uses it.
func (g *Guest) Close() error {
	g.mu.Lock()
	connections := g.connections
	g.closed, g.connections = true, nil
	g.mu.Unlock()
	for _, c := range connections {
		c.close()
	}
	return nil
}

// path returns the guest's path of a file.
func (g *Guest) path(p string) (string, error) {
	if path.IsAbs(p) {
		return path.Clean(p), nil
	}
	clean := path.Clean(p)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%s: %s: %w (%s)", g.config.Machine, p, guest.ErrOutside, g.config.Folder)
	}
	return path.Join(g.config.Folder, clean), nil
}

// errorf is an error of this guest's.
func (g *Guest) errorf(format string, args ...any) error {
	return fmt.Errorf(g.config.Machine+": "+format, args...)
}
