package chaos

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Way is how a connection fails, as a client's socket has it.
type Way string

// The ways.
const (
	// Refused is a reset in answer to the SYN: nobody listens.
	Refused Way = "refused"
	// Cut is a reset or an end without an answer, once the handshake was done.
	Cut Way = "cut"
	// Silent is that nothing came within the client's patience.
	Silent Way = "silent"
	// Otherwise is anything else, such as an unreachable host: nothing in a walk makes it.
	Otherwise Way = "failed otherwise"
)

// anyWay is all that what befalls a backend can make of a connection that just begins.
func anyWay() map[Way]bool { return map[Way]bool{Refused: true, Cut: true, Silent: true} }

// wayOf tells by an error how a connection failed.
func wayOf(err error) Way {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Cut
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Silent
	}
	return Otherwise
}
