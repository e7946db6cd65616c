package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/spf13/cobra"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/device"
	"l4lab/agent/metrics"
)

// The exit codes.
const (
	exitFailure     = 1
	exitUsage       = 2 // the command line, or what it asks for, is wrong
	exitUnsupported = 3 // a privilege or a kernel feature is missing
)

// usageError marks an error of the command line or of a value on it.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// ExitCode is what the process exits with.
func (e usageError) ExitCode() int { return exitUsage }

func exitCode(err error) int {
	var (
		coded   interface{ ExitCode() int } // what web and decap return, and usageError
		refusal *api.Error
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	case errors.Is(err, datapath.ErrUnsupported), errors.Is(err, datapath.ErrPermission), errors.Is(err, fs.ErrPermission):
		return exitUnsupported
	case errors.As(err, &refusal) && refusal.Code/100 == 4 && refusal.Code != http.StatusRequestTimeout:
		return exitUsage
	case errors.Is(err, device.ErrUnusable), errors.Is(err, api.ErrNoGroup),
		errors.Is(err, metrics.ErrNotLoopback), errors.Is(err, metrics.ErrNoAddress):
		return exitUsage
	}
	return exitFailure
}

// startedKey is how a command finds out, through its context, that it was run.
type startedKey struct{}

// started notes that flags and arguments were right.
func started(cmd *cobra.Command) {
	if ran, ok := cmd.Context().Value(startedKey{}).(*bool); ok {
		*ran = true
	}
}

// execute runs a command line and marks errors of the line itself, which cobra
// does not tell from those of the command.
func execute(ctx context.Context, root *cobra.Command) error {
	ran := false
	err := root.ExecuteContext(context.WithValue(ctx, startedKey{}, &ran))
	if err != nil && !ran {
		return usageError{err}
	}
	return err
}
