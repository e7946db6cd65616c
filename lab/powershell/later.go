package powershell

import (
	"context"
	"fmt"
)

// Later returns a Runner that logs on at its first call: to name a machine is not to
// speak to it. A logon that failed is tried again by the next call.
func Later(connect func(ctx context.Context) (Runner, error)) Runner {
	l := &later{connect: connect, turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

type later struct {
	connect func(ctx context.Context) (Runner, error)
	// turn is taken while runner and closed are looked at: calls that wait for a
	// logon can be cancelled.
	turn   chan struct{}
	runner Runner
	closed bool
}

// on returns the runner, logged on to.
func (l *later) on(ctx context.Context) (Runner, error) {
	select {
	case <-l.turn:
		defer func() { l.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a logon: %w", context.Cause(ctx))
	}
	if l.closed {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, errClosed)
	}
	if l.runner == nil {
		r, err := l.connect(ctx)
		if err != nil {
			return nil, err
		}
		l.runner = r
	}
	return l.runner, nil
}

// Run implements Runner.
func (l *later) Run(ctx context.Context, c Call) error {
	r, err := l.on(ctx)
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Script.Name, err)
	}
	return r.Run(ctx, c)
}

// Close implements Runner. It waits for a logon that is under way.
func (l *later) Close(ctx context.Context) error {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return fmt.Errorf("wait for a logon: %w", context.Cause(ctx))
	}
	defer func() { l.turn <- struct{}{} }()
	l.closed = true
	if l.runner == nil {
		return nil
	}
	r := l.runner
	l.runner = nil
	return r.Close(ctx)
}
