package relay

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// maxDatagram is the longest payload of a datagram, in bytes: what the
	// length in the IPv4 header can say, without that header and UDP's.
	maxDatagram = 65535 - 20 - 8
	// linger is how long answers to datagrams are waited for after the end of
	// the input: nothing else says that there will be none.
	linger = time.Second
)

// Serve is the machine's side: it dials, says how that went, and copies until
// the peer has ended, or for datagrams a second after the input has.
func Serve(ctx context.Context, t Target, dial func(context.Context) (net.Conn, error), in io.Reader, out io.Writer) error {
	conn, err := dial(ctx)
	greeting := Greeting{Relay: Version}
	if err != nil {
		greeting.Kind, greeting.Message = kindOf(err), err.Error()
	} else {
		defer conn.Close()
		greeting.Local, greeting.Remote = conn.LocalAddr().String(), conn.RemoteAddr().String()
	}
	line, jsonErr := json.Marshal(greeting)
	if jsonErr != nil {
		return jsonErr
	}
	if _, writeErr := out.Write(append(line, '\n')); writeErr != nil {
		return fmt.Errorf("relay: %w", errors.Join(err, writeErr))
	}
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if t.framed() {
		err = datagrams(conn, in, out)
	} else {
		err = stream(conn, in, out, t.UntilClosed)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	return nil
}

func stream(conn net.Conn, in io.Reader, out io.Writer, untilClosed bool) error {
	go func() {
		_, err := io.Copy(conn, in)
		// A named pipe cannot be shut for writing alone: then the peer learns of
		// the end from what was sent.
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil && !untilClosed {
			_ = half.CloseWrite() // the peer may have ended before
		}
	}()
	_, err := io.Copy(out, conn)
	return err
}

func datagrams(conn net.Conn, in io.Reader, out io.Writer) error {
	var inputEnded atomic.Bool
	inErr := make(chan error, 1)
	go func() {
		err := sendFrames(conn, in)
		inErr <- err // first of all: whoever sees what follows finds the error
		if err != nil {
			conn.Close()
		}
		inputEnded.Store(true)
		_ = conn.SetReadDeadline(time.Now().Add(linger))
	}()
	frame := make([]byte, 2+65535)
	for {
		n, err := conn.Read(frame[2:])
		if err != nil {
			select {
			case sendErr := <-inErr:
				if sendErr != nil {
					return sendErr
				}
			default:
			}
			if inputEnded.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
		binary.BigEndian.PutUint16(frame, uint16(n))
		if _, err := out.Write(frame[:2+n]); err != nil {
			return err
		}
		if inputEnded.Load() {
			_ = conn.SetReadDeadline(time.Now().Add(linger))
		}
	}
}

// sendFrames sends each frame of the input as a datagram.
func sendFrames(conn io.Writer, in io.Reader) error {
	var length [2]byte
	for {
		if _, err := io.ReadFull(in, length[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read a datagram's length: %w", err)
		}
		datagram := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(in, datagram); err != nil {
			return fmt.Errorf("read a datagram of %d bytes: %w", len(datagram), err)
		}
		if _, err := conn.Write(datagram); err != nil {
			return err
		}
	}
}
