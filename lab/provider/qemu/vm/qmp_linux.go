package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// monitor is a connection to a QEMU. QEMU talks to one client at a time and lets
// others wait, so a connection is closed as soon as its work is done.
type monitor struct {
	conn    *net.UnixConn
	decoder *json.Decoder
	id      int
}

// message is anything that QEMU sends (docs/interop/qmp-spec in QEMU's sources).
type message struct {
	QMP    *json.RawMessage `json:"QMP"`
	Return json.RawMessage  `json:"return"`
	Error  *commandError    `json:"error"`
	Event  string           `json:"event"`
	ID     int              `json:"id"`
}

// commandError is QEMU's refusal of a command.
type commandError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *commandError) Error() string { return e.Desc }

// dial connects and leaves QMP's negotiation mode.
func dial(ctx context.Context, path string) (*monitor, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		err = errEnded // nobody has the socket open any more
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("reach QEMU: %w", err)
	}
	m := &monitor{conn: conn.(*net.UnixConn), decoder: json.NewDecoder(conn)}
	var greeting message
	err = m.within(ctx, func() error { return m.decoder.Decode(&greeting) })
	if err == nil && greeting.QMP == nil {
		err = fmt.Errorf("%s is no QMP socket", path)
	}
	if err == nil {
		err = m.execute(ctx, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("reach QEMU: %w", err)
	}
	return m, nil
}

func (m *monitor) Close() { m.conn.Close() }

// execute runs a command; result may be nil. The file goes along with it.
func (m *monitor) execute(ctx context.Context, command string, arguments, result any, files ...*os.File) error {
	m.id++
	request := map[string]any{"execute": command, "id": m.id}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	var rights []byte
	for _, f := range files {
		rights = append(rights, unix.UnixRights(int(f.Fd()))...)
	}
	var answer message
	err = m.within(ctx, func() error {
		if _, _, err := m.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
			return err
		}
		for {
			answer = message{}
			if err := m.decoder.Decode(&answer); err != nil {
				return err
			}
			if answer.Event == "" && answer.ID == m.id {
				return nil
			}
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", command, err)
	case answer.Error != nil:
		return fmt.Errorf("%s: %w", command, answer.Error)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(answer.Return, result); err != nil {
		return fmt.Errorf("%s: read the answer: %w", command, err)
	}
	return nil
}

// within runs what reads and writes, until ctx ends.
func (m *monitor) within(ctx context.Context, work func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := work()
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errEnded
	}
	return err
}
