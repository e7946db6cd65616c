package guest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Requirement is something that a guest must come to before it can be used:
// "answers SSH". A wait for it says what it waits for and how to look.
type Requirement struct {
	// Description completes "be3: wait until it …".
	Description string
	// Hint says how to find out why it does not: a command to run, a log to read.
	Hint string
	// Limit bounds the wait.
	Limit time.Duration
	// Pause is between two looks; 0 means 200 ms.
	Pause time.Duration
	// Check returns nil when it is met. An error that matches ErrNever ends the wait.
	Check func(ctx context.Context) error
}

// ErrNever marks an error of a Requirement's Check that no waiting mends.
var ErrNever = errors.New("waiting does not help")

// AwaitError says that a requirement was not met.
type AwaitError struct {
	Machine     string
	Description string
	Hint        string
	// Waited is how long, Last what the last look brought.
	Waited time.Duration
	Last   error
	cause  error
}

func (e *AwaitError) Error() string {
	s := fmt.Sprintf("%s: waited %s until it %s: %v", e.Machine, e.Waited.Round(100*time.Millisecond), e.Description, e.cause)
	if e.Last != nil && !errors.Is(e.cause, e.Last) {
		s += fmt.Sprintf("; last: %v", e.Last)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns the end of the wait and the last look's error.
func (e *AwaitError) Unwrap() []error {
	if e.Last == nil {
		return []error{e.cause}
	}
	return []error{e.cause, e.Last}
}

// ErrLimit is the cause of an AwaitError when the requirement's own limit was over.
var ErrLimit = errors.New("time is over")

// Await waits for requirements, one after the other. The error is an *AwaitError.
func Await(ctx context.Context, machine string, requirements ...Requirement) error {
	for _, r := range requirements {
		if err := r.await(ctx, machine); err != nil {
			return err
		}
	}
	return nil
}

func (r Requirement) await(ctx context.Context, machine string) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, r.Limit, fmt.Errorf("%w (%s)", ErrLimit, r.Limit))
	defer cancel()
	pause := r.Pause
	if pause <= 0 {
		pause = 200 * time.Millisecond
	}
	var last error
	for {
		err := r.Check(ctx)
		if err == nil {
			return nil
		}
		failed := &AwaitError{Machine: machine, Description: r.Description, Hint: r.Hint, Waited: time.Since(began), Last: last, cause: err}
		if errors.Is(err, ErrNever) {
			return failed
		}
		if ctx.Err() == nil {
			last = err // an error of the context's end says less than the one before
		}
		select {
		case <-ctx.Done():
			failed.Waited, failed.Last, failed.cause = time.Since(began), last, context.Cause(ctx)
			return failed
		case <-time.After(pause):
		}
	}
}
