package windows

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"l4lab/lab/guest"
	"l4lab/lab/guest/relay"
)

// ErrNoStream: scripts cannot carry what was asked for.
var ErrNoStream = errors.New("a Windows guest is reached by scripts, which carry no streams: it can be asked over HTTP alone")

// Dial implements guest.Guest for HTTP: the connection collects a request, has
// `lbagent.exe relay` exchange it for the answer, and is ready for the next one.
// An error of connecting comes with the first answer.
func (m *Machine) Dial(ctx context.Context, network, local, address string) (net.Conn, error) {
	// The exec verb gives all of the input at once, and then its end.
	target := relay.Target{Network: network, Local: local, Address: address, UntilClosed: true}
	switch {
	case network == relay.Unix && address == "agent.sock":
		// The agent's API is its named pipe.
		target = relay.Target{Network: relay.Agent, UntilClosed: true}
	case !strings.HasPrefix(network, relay.TCP):
		return nil, m.errorf("dial %s %s: %w", network, address, ErrNoStream)
	}
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	x := &exchange{machine: m, target: target, conn: far}
	go func() {
		defer cancel()
		x.serve(ctx)
	}()
	return &exchanging{Conn: near, end: cancel, x: x}, nil
}

// exchanging is the caller's end. Closing it ends an exchange that is under way.
type exchanging struct {
	net.Conn
	end context.CancelFunc
	x   *exchange
}

func (c *exchanging) Close() error {
	c.end()
	return c.Conn.Close()
}

// Read gives the reason when there is no answer.
func (c *exchanging) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) && c.x.failure() != nil {
		err = c.x.failure()
	}
	return n, err
}

// exchange is the machine's end.
type exchange struct {
	machine *Machine
	target  relay.Target
	conn    net.Conn
	failed  error // why, before conn is closed
}

// failure is known once the machine's end is closed, which the caller's end
// has seen as the end of its reading.
func (x *exchange) failure() error { return x.failed }

func (x *exchange) serve(ctx context.Context) {
	defer x.conn.Close()
	in := bufio.NewReader(x.conn)
	for {
		request, err := http.ReadRequest(in)
		if err != nil {
			return // the caller has closed, or speaks something else
		}
		answer, err := x.one(ctx, request)
		if err != nil {
			x.failed = err
			return
		}
		if _, err := x.conn.Write(answer); err != nil {
			return
		}
	}
}

// one exchanges a request for its answer.
func (x *exchange) one(ctx context.Context, request *http.Request) ([]byte, error) {
	// The server ends the connection after its answer, and with it the relay.
	request.Close = true
	var input, output, words bytes.Buffer
	if err := request.Write(&input); err != nil {
		return nil, fmt.Errorf("collect the request: %w", err)
	}
	err := x.machine.Run(ctx, guest.Command{Argv: x.target.Argv(Program), Stdin: &input, Stdout: &output, Stderr: &words})
	answer := bufio.NewReader(&output)
	if greetErr := relay.ReadGreeting(answer); greetErr != nil && (err == nil || !errors.Is(greetErr, relay.ErrNoRelay)) {
		return nil, x.machine.errorf("dial %s %s: %w", x.target.Network, x.target.Address, greetErr)
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, strings.TrimSpace(words.String()))
	}
	return io.ReadAll(answer)
}
