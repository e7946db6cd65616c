package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"l4lab/lab/guest"
	"l4lab/lab/guest/relay"
)

// Dial implements guest.Guest. TCP from any address and unix sockets go
// through SSH's own forwarding where the server permits it; the rest through
// `lbagent relay` in the guest, which must have been pushed before.
func (g *Guest) Dial(ctx context.Context, network, local, address string) (net.Conn, error) {
	target := relay.Target{Network: network, Local: local, Address: address}
	if network == relay.Unix {
		p, err := g.path(address)
		if err != nil {
			return nil, err
		}
		target.Address = p
	}
	if local == "" && g.forwards(network) {
		conn, err := g.Forward(ctx, network, target.Address)
		if !errors.Is(err, errProhibited) {
			return conn, err
		}
	}
	conn, err := relay.Dial(ctx, g.start, g.config.Agent, target)
	if err != nil {
		return nil, g.errorf("%w", err)
	}
	return conn, nil
}

// forwards says whether a network is one of SSH's. Its server opens unix
// sockets as the user who logged in, for whom the agent's is closed unless that is root.
func (g *Guest) forwards(network string) bool {
	return strings.HasPrefix(network, relay.TCP) || network == relay.Unix && !g.config.Sudo
}

// start is Run, as relays want it.
func (g *Guest) start(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	return g.Run(ctx, guest.Command{Argv: argv, Stdin: stdin, Stdout: stdout, Stderr: stderr})
}

// errProhibited: the server forwards nothing.
var errProhibited = errors.New("the SSH server permits no forwarding")

// Forward connects by SSH's own forwarding: "tcp" to HOST:PORT, or "unix" to an
// absolute path. As another guest's Config.Dial it makes this one a jump host.
func (g *Guest) Forward(ctx context.Context, network, address string) (net.Conn, error) {
	what := fmt.Sprintf("dial %s %s", network, address)
	channel, c, err := open(ctx, g, what, func(c *connection) (net.Conn, error) {
		conn, err := c.Client.Dial(network, address)
		return conn, refusal(err)
	}, func(conn net.Conn) { conn.Close() })
	if err != nil {
		return nil, err
	}
	stream, ok := channel.(relay.Stream)
	if !ok { // x/crypto/ssh embeds Channel, which can
		channel.Close()
		return nil, g.errorf("%s: the channel is a %T, which cannot be closed for writing alone", what, channel)
	}
	return relay.Over(stream, c.LocalAddr(), remoteAddr(network, address)), nil
}

func remoteAddr(network, address string) net.Addr {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return &net.UnixAddr{Name: address, Net: network}
}

// refusal gives a channel that was refused the type that a dialler expects.
// OpenSSH says why in words, those of strerror(3), since 8.1; before, and when
// the server itself does not want to, it says "open failed".
func refusal(err error) error {
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		return err
	}
	if refused.Reason == ssh.Prohibited {
		return fmt.Errorf("%w: %w", errProhibited, err)
	}
	for _, is := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT, syscall.ENOENT} {
		if strings.EqualFold(refused.Message, is.Error()) {
			return fmt.Errorf("%w: %w", is, err)
		}
	}
	if refused.Reason == ssh.ConnectionFailed {
		return fmt.Errorf("%w: %w", syscall.ECONNREFUSED, err)
	}
	return err
}
