package main

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

// dialSocket connects to a named pipe. It does not let the other end act in
// this process' name (winio's impersonation level is anonymous).
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}
