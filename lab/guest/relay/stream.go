package relay

import (
	"context"
	"io"
	"net"
)

// Stream is a connection without deadlines, such as a channel of SSH.
type Stream interface {
	io.ReadWriteCloser
	// CloseWrite ends the writing; reading goes on.
	CloseWrite() error
}

// Over returns a connection with deadlines over a stream that has none.
func Over(s Stream, local, remote net.Addr) net.Conn {
	ctx, end := context.WithCancel(context.Background())
	c, other := newConn(false, end)
	c.local, c.remote = local, remote
	context.AfterFunc(ctx, func() { s.Close() })
	go func() {
		_, err := io.Copy(s, other.stdin)
		other.stdin.Close()
		if err == nil {
			_ = s.CloseWrite() // the peer may have ended before
		}
	}()
	go func() {
		_, err := io.Copy(other.stdout, s)
		c.finish(err)
		other.stdout.Close()
	}()
	return c
}
