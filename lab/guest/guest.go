// Package guest says how to act inside a node: run a command, bring a file in
// or out, open a connection from where the node stands. Each transport
// (namespace, SSH, WinRM) implements Guest once; roles and the rest of the
// orchestrator know no other way into a node.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// ErrOutside is what Push and Pull return for a path outside the node's own
// folder. Namespaces share the host's file system, so such a path would be the
// host's.
var ErrOutside = errors.New("path is outside the node's folder")

// Guest acts inside one node.
type Guest interface {
	// Run runs a command to its end. A command that ran and failed returns an
	// *ExitError; any other error means that it did not run or was cut off.
	// Cancelling the context kills it.
	Run(ctx context.Context, c Command) error
	// Push puts a file into the node's folder, whole or not at all. Pushing
	// what is there already changes nothing.
	Push(ctx context.Context, f File) error
	// Pull opens a file of the node's folder.
	Pull(ctx context.Context, path string) (io.ReadCloser, error)
	// Dial connects from the node: "tcp", "udp", or "unix" with a path in the
	// node's folder. local is "" or the address to bind to.
	Dial(ctx context.Context, network, local, address string) (net.Conn, error)
}

// Command is a process to run in a node.
type Command struct {
	// Argv is the program and its arguments. A program without a slash is
	// looked for in the node's folder first, then in the node's PATH.
	Argv           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals are passed on to the process while it runs; nil: none are.
	Signals <-chan os.Signal
}

// File is a file to push: the host's file Source becomes the node's Path,
// which is relative to the node's folder.
type File struct {
	Path   string
	Source string
	// Hash is the source's SHA-256 in hex; Push refuses a source that has
	// another. "" means that Push computes it.
	Hash       string
	Executable bool
}

// ExitError says that a command ran and ended with a code other than 0.
type ExitError struct {
	Argv []string
	// Code is the exit code; 128 + the signal's number when a signal ended it.
	Code int
	// Stderr is the end of what it wrote there, when nobody else took it.
	Stderr string
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s: exit code %d", strings.Join(e.Argv, " "), e.Code)
	if text := strings.TrimSpace(e.Stderr); text != "" {
		s += ": " + text
	}
	return s
}
