package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxConnections bounds how many connections a guest gets when its server
// takes no more sessions on the first (OpenSSH: MaxSessions, 10 by default).
const maxConnections = 8

// errFull: the server takes no more sessions on a connection.
var errFull = errors.New("no more sessions on this connection")

// connection is one SSH connection.
type connection struct {
	*ssh.Client
	once sync.Once
	done chan struct{} // closed when it has ended
}

func (c *connection) close() { c.once.Do(func() { c.Client.Close() }) }

func (c *connection) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (g *Guest) clientConfig() ssh.ClientConfig {
	c := ssh.ClientConfig{
		User:          g.config.User,
		ClientVersion: "SSH-2.0-labctl",
		// The pinned key's kind comes first; the others are offered so that a
		// server with another key is found out by that key and not by silence.
		HostKeyAlgorithms: append([]string{g.pinned.Type()}, slices.DeleteFunc([]string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		}, func(kind string) bool { return kind == g.pinned.Type() })...),
	}
	if g.pinned.Type() == ssh.KeyAlgoRSA { // the key's name, but SHA-1 as a signature's
		c.HostKeyAlgorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256}
	}
	// Cheap for an emulated guest: the post-quantum exchange that would be first
	// costs it seconds (facts of QEMU guests).
	c.KeyExchanges = []string{ssh.KeyExchangeCurve25519, ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeECDHP256}
	if g.config.Key.Signer() != nil {
		c.Auth = append(c.Auth, ssh.PublicKeys(g.config.Key.Signer()))
	}
	if g.config.Password != nil {
		c.Auth = append(c.Auth, ssh.PasswordCallback(g.config.Password))
	}
	return c
}

// connect returns a connection that stands, the first one or a new one.
func (g *Guest) connect(ctx context.Context) (*connection, error) { return g.pick(ctx, nil) }

// pick returns a connection that was not tried yet, a new one when all were. At
// the bound of connections it returns errFull.
func (g *Guest) pick(ctx context.Context, tried []*connection) (*connection, error) {
	select {
	case g.dialing <- struct{}{}:
		defer func() { <-g.dialing }()
	case <-ctx.Done():
		return nil, g.errorf("connect to %s: %w", g.config.Address, context.Cause(ctx))
	}
	live, err := g.live()
	if err != nil {
		return nil, err
	}
	for _, c := range live {
		if !slices.Contains(tried, c) {
			return c, nil
		}
	}
	if len(live) >= maxConnections {
		return nil, errFull
	}
	return g.dial(ctx)
}

// live returns the connections that stand.
func (g *Guest) live() ([]*connection, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, g.errorf("%w", ErrClosed)
	}
	g.connections = slices.DeleteFunc(g.connections, func(c *connection) bool { return !c.alive() })
	return slices.Clone(g.connections), nil
}

// dial makes a connection. The caller holds dialing.
func (g *Guest) dial(ctx context.Context) (*connection, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, g.config.Handshake,
		fmt.Errorf("%w: no connection within %s", ErrUnreachable, g.config.Handshake))
	defer cancel()
	conn, err := g.config.Dial(ctx, "tcp", g.config.Address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, g.errorf("connect to %s: %w", g.config.Address, context.Cause(ctx))
		}
		return nil, g.errorf("connect to %s: %w: %w", g.config.Address, ErrUnreachable, err)
	}
	client, err := g.handshake(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, g.errorf("log in at %s as %s: %w", g.config.Address, g.config.User, err)
	}
	c := &connection{Client: client, done: make(chan struct{})}
	go func() {
		_ = c.Wait() // why it ended shows in what used it
		close(c.done)
	}()
	go g.keepAlive(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		c.close()
		return nil, g.errorf("%w", ErrClosed)
	}
	g.connections = append(g.connections, c)
	g.config.Log.Debug("connected over SSH", "machine", g.config.Machine, "address", g.config.Address, "took", time.Since(began))
	return c, nil
}

// handshake speaks SSH on a connection, until the context ends.
func (g *Guest) handshake(ctx context.Context, conn net.Conn) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	config := g.client
	var mismatch error
	config.HostKeyCallback = func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if string(key.Marshal()) == string(g.pinned.Marshal()) {
			return nil
		}
		mismatch = fmt.Errorf("%w: it shows %s %s, pinned is %s %s; the machine was made anew by somebody else, or another one answers in its place",
			ErrHostKey, key.Type(), ssh.FingerprintSHA256(key), g.pinned.Type(), ssh.FingerprintSHA256(g.pinned))
		return mismatch
	}
	c, channels, requests, err := ssh.NewClientConn(conn, g.config.Address, &config)
	if !stop() && err == nil {
		c.Close()
		err = context.Cause(ctx)
	}
	switch {
	case err == nil:
		return ssh.NewClient(c, channels, requests), nil
	case mismatch != nil:
		return nil, mismatch
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	// The library has no type for this (golang.org/x/crypto/ssh, client_auth.go).
	case strings.Contains(err.Error(), "unable to authenticate"):
		return nil, fmt.Errorf("%w: %w", ErrAuth, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// keepAlive ends a connection whose server has stopped answering, so that what
// waits on it does not wait for ever.
func (g *Guest) keepAlive(c *connection) {
	tick := time.NewTicker(g.config.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		answered := make(chan error, 1)
		go func() {
			_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
			answered <- err
		}()
		select {
		case err := <-answered:
			if err == nil {
				continue
			}
		case <-c.done:
			return
		case <-time.After(2 * g.config.KeepAlive):
			g.config.Log.Warn("the guest has stopped answering over SSH", "machine", g.config.Machine, "for", 2*g.config.KeepAlive)
		}
		c.close()
		return
	}
}

// fullPause is between two tries to get a session where the server has none left.
const fullPause = 50 * time.Millisecond

// maxLost bounds how many connections in a row may turn out to be lost.
const maxLost = 3

// open opens something on a connection: on the first that takes it, else on a
// new one. Nothing has been run yet when it fails, so that a connection which
// turns out to be lost is simply replaced.
func open[T any](ctx context.Context, g *Guest, what string, do func(*connection) (T, error), release func(T)) (T, *connection, error) {
	var none T
	var tried []*connection
	for lost := 0; ; {
		c, err := g.pick(ctx, tried)
		if errors.Is(err, errFull) { // one of the sessions will end
			tried = nil
			select {
			case <-time.After(fullPause):
				continue
			case <-ctx.Done():
				return none, nil, g.errorf("%s: %w: %w", what, err, context.Cause(ctx))
			}
		}
		if err != nil {
			return none, nil, err
		}
		got, err := within(ctx, func() (T, error) { return do(c) }, release)
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return got, c, nil
		case ctx.Err() != nil:
			return none, nil, g.errorf("%s: %w", what, context.Cause(ctx))
		case errors.Is(err, errFull):
			tried = append(tried, c)
		case errors.As(err, &refused):
			return none, nil, g.errorf("%s: %w", what, err)
		default:
			c.close()
			<-c.done
			if lost++; lost == maxLost {
				return none, nil, g.errorf("%s: %w: %w", what, ErrUnreachable, err)
			}
		}
	}
}

// within waits for something that knows no context; what comes too late is released.
func within[T any](ctx context.Context, do func() (T, error), release func(T)) (T, error) {
	type outcome struct {
		got T
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		got, err := do()
		done <- outcome{got, err}
	}()
	select {
	case o := <-done:
		return o.got, o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil {
				release(o.got)
			}
		}()
		var none T
		return none, context.Cause(ctx)
	}
}
