package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// Nothing in this file was run on a Windows host.

// pipePrefix begins the names of this machine's pipes.
const pipePrefix = `\\.\pipe\`

// ownersOnly grants everything to SYSTEM and Administrators, and nothing to anyone else
// (SDDL). A process of an administrator that is not elevated is not among them.
const ownersOnly = "D:P(A;;GA;;;SY)(A;;GA;;;BA)"

// Listen returns a listener on the named pipe path that only SYSTEM and
// Administrators can open. A pipe that is there already, whose process lives
// therefore, is ErrAgentRunning: ListenPipe creates and never joins one
// (FILE_CREATE), so nobody else can answer in the agent's place once it listens.
func Listen(path string) (net.Listener, error) {
	if !strings.HasPrefix(strings.ToLower(path), pipePrefix) {
		return nil, fmt.Errorf("listen on %s: --socket is a named pipe here, such as %slbagent", path, pipePrefix)
	}
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: ownersOnly})
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return nil, fmt.Errorf("listen on %s: %w, or the pipe is somebody else's: %w", path, ErrAgentRunning, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// dialLocal connects without letting the other end act in this process's name
// (winio's impersonation level is anonymous).
func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// ListenGroup refuses groups: the pipe's descriptor says who may come in.
func ListenGroup(path, group string) (net.Listener, error) {
	if group != "" {
		return nil, fmt.Errorf("listen on %s: %w: %s; on Windows the pipe is SYSTEM's and Administrators' alone", path, ErrNoGroup, group)
	}
	return Listen(path)
}
