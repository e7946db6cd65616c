package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"l4lab/agent/datapath"
)

// stuck is a data path whose program cannot be detached.
type stuck struct {
	datapath.Datapath
	err error
}

func (s stuck) Unload() error { return s.err }

func TestUnloadThatFailsEndsTheAgentWithItsError(t *testing.T) {
	detach := errors.New("detach: device or resource busy")
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"a failed detach", detach, detach},
		{"none", nil, errUnloaded},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithCancelCause(t.Context())
			s := &Server{
				options:          Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))},
				datapath:         stuck{err: c.err},
				stop:             stop,
				cancelBackground: func() {},
			}
			if err := s.Unload(t.Context()); !errors.Is(err, c.err) {
				t.Errorf("the client gets %v", err)
			}
			if cause := context.Cause(ctx); !errors.Is(cause, c.want) {
				t.Errorf("the agent ends with %v, want %v", cause, c.want)
			}
		})
	}
}
