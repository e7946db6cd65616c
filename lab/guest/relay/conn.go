package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// closePatience is how long a relay may take, once its input has ended, to
	// pass on what it was given; then it is ended.
	closePatience = 2 * time.Second
	// bufferBytes is read at once.
	bufferBytes = 64 << 10
)

// conn is a connection over two streams. Each stream is a net.Pipe, which
// brings the deadlines.
type conn struct {
	in     net.Conn // what we write
	out    net.Conn // what we read
	reader *bufio.Reader
	local  net.Addr
	remote net.Addr
	framed bool
	frame  []byte // of a datagram, what came so far
	broken atomic.Bool

	end     context.CancelFunc
	ended   chan struct{} // closed when the other side is over
	failure error         // why, before ended is closed
	closing sync.Once
	closed  atomic.Bool
}

// ends is the other side of a conn: what the process reads and writes.
type ends struct {
	stdin  net.Conn
	stdout net.Conn
}

func newConn(framed bool, end context.CancelFunc) (*conn, ends) {
	in, stdin := net.Pipe()
	out, stdout := net.Pipe()
	c := &conn{in: in, out: out, reader: bufio.NewReaderSize(out, bufferBytes), framed: framed, end: end, ended: make(chan struct{})}
	return c, ends{stdin: stdin, stdout: stdout}
}

// Dial runs the program's relay and returns its connection. The context bounds
// the dialling alone. An error of the dialling in the machine is a *DialError.
func Dial(ctx context.Context, run Run, program string, t Target) (net.Conn, error) {
	runCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	c, process := newConn(t.framed(), end)
	var words lastWords
	go func() {
		err := run(runCtx, t.Argv(program), process.stdin, process.stdout, &words)
		if text := words.String(); err != nil && text != "" && !strings.Contains(err.Error(), text) {
			err = fmt.Errorf("%w: %s", err, text)
		}
		c.finish(err)
		process.stdin.Close()
		process.stdout.Close()
	}()
	greeting, err := c.greet(ctx)
	if err != nil {
		end()
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("dial %s %s: %w", t.Network, t.Address, err)
	}
	c.local, c.remote = address(t.Network, greeting.Local), address(t.Network, greeting.Remote)
	return c, nil
}

// greet reads the first line.
func (c *conn) greet(ctx context.Context) (Greeting, error) {
	stop := context.AfterFunc(ctx, func() { c.out.SetReadDeadline(time.Unix(1, 0)) })
	line, err := readLine(c.reader, maxGreeting)
	if !stop() {
		return Greeting{}, context.Cause(ctx)
	}
	if err == nil {
		return parseGreeting(line)
	}
	if errors.Is(err, io.EOF) {
		<-c.ended
		if c.failure != nil {
			return Greeting{}, c.failure
		}
		return Greeting{}, fmt.Errorf("%w: it ended without a word", ErrNoRelay)
	}
	return Greeting{}, err
}

func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for len(line) < limit {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if b == '\n' {
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		line = append(line, b)
	}
	return nil, fmt.Errorf("%w: its first line is too long: %.80q…", ErrNoRelay, line)
}

func (c *conn) finish(err error) {
	c.failure = err
	close(c.ended)
}

// Read implements net.Conn. A process that failed is an error, never an end.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	if err == nil || c.closed.Load() {
		if err != nil {
			err = net.ErrClosed
		}
		return n, err
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	<-c.ended
	if c.failure != nil {
		return n, fmt.Errorf("read from %s: %w", c.remote, c.failure)
	}
	return n, io.EOF
}

func (c *conn) read(p []byte) (int, error) {
	if !c.framed {
		return c.reader.Read(p)
	}
	for {
		want := 2
		if len(c.frame) >= 2 {
			want += int(binary.BigEndian.Uint16(c.frame))
		}
		if len(c.frame) == want && want >= 2 && len(c.frame) >= 2 {
			n := copy(p, c.frame[2:]) // what does not fit is lost, as with any datagram
			c.frame = c.frame[:0]
			return n, nil
		}
		// A deadline may come in the middle: what was read stays.
		have := len(c.frame)
		c.frame = append(c.frame, make([]byte, want-have)...)
		n, err := c.reader.Read(c.frame[have:])
		c.frame = c.frame[:have+n]
		if err != nil {
			if errors.Is(err, io.EOF) && len(c.frame) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		select {
		case <-c.ended:
			if c.failure != nil {
				err = c.failure
			}
		default:
		}
		err = fmt.Errorf("write to %s: %w", c.remote, err)
	}
	return n, err
}

func (c *conn) write(p []byte) (int, error) {
	if !c.framed {
		return c.in.Write(p)
	}
	if len(p) > maxDatagram {
		return 0, fmt.Errorf("a datagram of %d bytes is longer than %d", len(p), maxDatagram)
	}
	if c.broken.Load() {
		return 0, fmt.Errorf("a datagram was cut off by a deadline: the stream is out of step: %w", net.ErrClosed)
	}
	n, err := c.in.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
	if err != nil && n > 0 {
		c.broken.Store(true)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite ends our side; the other's can still be read.
func (c *conn) CloseWrite() error { return c.in.Close() }

// Close implements net.Conn. What was written is passed on by the relay, which
// is ended when that takes too long.
func (c *conn) Close() error {
	c.closing.Do(func() {
		c.closed.Store(true)
		c.in.Close()
		// Whatever still comes is thrown away, so that the process can end.
		c.out.SetReadDeadline(time.Time{})
		go func() {
			go func() { _, _ = io.Copy(io.Discard, c.out) }()
			patience := time.NewTimer(closePatience)
			defer patience.Stop()
			select {
			case <-c.ended:
			case <-patience.C:
			}
			c.end()
			c.out.Close()
		}()
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.out.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.in.SetWriteDeadline(t)
}

// lastWords keeps the end of what a process says on its error output.
type lastWords struct {
	mu   sync.Mutex
	kept []byte
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = append(w.kept, p...)
	if extra := len(w.kept) - maxGreeting; extra > 0 {
		w.kept = append([]byte(nil), w.kept[extra:]...)
	}
	return len(p), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.TrimSpace(string(w.kept))
}
