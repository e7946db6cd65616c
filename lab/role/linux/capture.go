package linux

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"l4lab/lab/capture"
	"l4lab/lab/guest"
)

// Capture starts a capture on the interface of a machine that has an address,
// by `lbagent capture` there. The context bounds the start alone; Stop ends
// the capture.
func Capture(ctx context.Context, g guest.Guest, machine string, address netip.Addr) (*capture.Session, error) {
	name := capture.Place{Machine: machine}.String()
	// The command outlives the context: it ends with its input, or with ours.
	run, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stdin, input := io.Pipe()
	output, stdout := io.Pipe()
	go func() {
		err := g.Run(run, guest.Command{Argv: []string{Program, "capture", "--address", address.String()}, Stdin: stdin, Stdout: stdout})
		stdin.Close()
		stdout.CloseWithError(err) // nil is io.EOF
		end(nil)
	}()
	stop := context.AfterFunc(ctx, func() {
		end(context.Cause(ctx))
		output.CloseWithError(context.Cause(ctx))
	})
	session, err := capture.Remote(name, output, input.Close)
	if !stop() && err == nil {
		_, err = session.Stop()
		if err == nil {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		end(err)
		return nil, fmt.Errorf("%s: %w", machine, err)
	}
	return session, nil
}
