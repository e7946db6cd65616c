package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Direct checks the backend's own address through the system's sockets.
//
// Each connection is ended by a reset (SO_LINGER 0). An orderly end would leave a
// TIME_WAIT for a minute on the side that closes first: 12,000 here for a
// thousand backends that are asked every 5 s, or as many on theirs. What is
// lost with a reset is the rest of an answer of which only the status was wanted.
//
// The source port is the system's choice. It must not lie in SNAT's pool, or
// the data path may take an answer for a client's: ip_local_port_range has to keep
// clear of 32768 to 65535, of which the agent warns.
type Direct struct{}

// Probe connects, and for HTTP asks and reads up to the status.
func (Direct) Probe(ctx context.Context, t Target) error {
	begin := time.Now()
	what := "connect to " + t.Backend.String()
	if t.HTTP {
		what = "GET http://" + t.Backend.String() + t.Path
	}
	if err := probe(ctx, t); err != nil {
		return fmt.Errorf("%s: %w", what, explain(ctx, err, begin))
	}
	return nil
}

func probe(ctx context.Context, t Target) error {
	dialer := net.Dialer{KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", t.Backend.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	if !t.HTTP {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return get(conn, t)
}

// get sends the request and reads until the status is there.
func get(conn io.ReadWriter, t Target) error {
	if _, err := conn.Write(t.Request()); err != nil {
		return err
	}
	answer := make([]byte, 0, 1024)
	for {
		if len(answer) == cap(answer) {
			answer = append(make([]byte, 0, min(2*cap(answer), MaxAnswer)), answer...)
		}
		n, err := conn.Read(answer[len(answer):cap(answer)])
		answer = answer[:len(answer)+n]
		if n > 0 {
			if done, verdict := t.Judge(answer); done {
				return verdict
			}
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("closed after %d bytes, before a status", len(answer))
		}
		if err != nil {
			return err
		}
	}
}

// explain takes the net package's own words about addresses off, which stand
// before the error already, and marks what is this machine's fault.
func explain(ctx context.Context, err error, begin time.Time) error {
	var timeout net.Error
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("no answer within %s: %w", time.Since(begin).Round(time.Millisecond), os.ErrDeadlineExceeded)
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	if ours(errno) {
		return fmt.Errorf("%w: %w", ErrInconclusive, errno)
	}
	return errno
}
