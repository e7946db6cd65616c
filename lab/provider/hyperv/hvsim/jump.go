package hvsim

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// jump is the host's SSH server as far as a jump needs one: it lets in whoever
// has one of the keys, and forwards TCP connections into the host's network
// (RFC 4254, 7.2). It has no shell, no files and no agents.
type jump struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	user   string
	host   ssh.Signer
	keys   []ssh.PublicKey
	log    *slog.Logger
	listen net.Listener
	ctx    context.Context
	done   sync.WaitGroup
}

// handshakeTime bounds what a client that is not logged on yet can hold.
const handshakeTime = 30 * time.Second

func (j *jump) serve() {
	config := &ssh.ServerConfig{PublicKeyCallback: j.authorize, ServerVersion: "SSH-2.0-hvsim"}
	config.AddHostKey(j.host)
	for {
		conn, err := j.listen.Accept()
		if err != nil {
			return
		}
		j.done.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(j.ctx, func() { conn.Close() })
			defer stop()
			if err := j.client(conn, config); err != nil && j.ctx.Err() == nil {
				j.log.Info("a client of the SSH server", "error", err)
			}
		})
	}
}

func (j *jump) authorize(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if c.User() != j.user {
		return nil, fmt.Errorf("unknown user %q", c.User())
	}
	for _, known := range j.keys {
		if subtle.ConstantTimeCompare(known.Marshal(), key.Marshal()) == 1 {
			return &ssh.Permissions{}, nil
		}
	}
	return nil, errors.New("unknown key")
}

func (j *jump) client(conn net.Conn, config *ssh.ServerConfig) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	client, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	defer client.Close()
	// Keepalives are answered, forwarded ports refused.
	j.done.Go(func() { ssh.DiscardRequests(requests) })
	for channel := range channels {
		if channel.ChannelType() != "direct-tcpip" {
			if err := channel.Reject(ssh.UnknownChannelType, "this server forwards TCP connections and does nothing else"); err != nil {
				return err
			}
			continue
		}
		j.done.Go(func() { j.forward(channel) })
	}
	return nil
}

// forward serves one direct-tcpip channel.
func (j *jump) forward(channel ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(channel.ExtraData(), &to); err != nil {
		_ = channel.Reject(ssh.ConnectionFailed, "the request cannot be read")
		return
	}
	conn, err := j.dial(j.ctx, "tcp", net.JoinHostPort(to.Host, strconv.FormatUint(uint64(to.Port), 10)))
	if err != nil {
		_ = channel.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	stream, requests, err := channel.Accept()
	if err != nil {
		return
	}
	defer stream.Close()
	j.done.Go(func() { ssh.DiscardRequests(requests) })
	stop := context.AfterFunc(j.ctx, func() { conn.Close(); stream.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			conn.Close()
		}
	})
	both.Go(func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.CloseWrite()
	})
	both.Wait()
}

func (j *jump) close() {
	j.listen.Close()
	j.done.Wait()
}
