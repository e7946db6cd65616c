package guest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"l4lab/lab/guest"
)

func TestAwaitLooksUntilTheRequirementIsMet(t *testing.T) {
	looks := 0
	err := guest.Await(t.Context(), "be3", guest.Requirement{
		Description: "is there", Limit: time.Minute, Pause: time.Millisecond,
		Check: func(context.Context) error {
			if looks++; looks < 3 {
				return errors.New("not yet")
			}
			return nil
		},
	})
	if err != nil || looks != 3 {
		t.Errorf("Await = %v after %d looks", err, looks)
	}
}

func TestAwaitSaysWhatItWaitedForAndHowToLook(t *testing.T) {
	notYet, cause := errors.New("not yet"), errors.New("interrupted")
	never := func(context.Context) error { return notYet }
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, c := range []struct {
		name  string
		ctx   context.Context
		check func(context.Context) error
		is    error
	}{
		{"the limit is over", t.Context(), never, guest.ErrLimit},
		{"the context ends", cancelled, never, cause},
		{"no waiting mends it", t.Context(), func(context.Context) error { return errors.Join(guest.ErrNever, notYet) }, guest.ErrNever},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := guest.Await(c.ctx, "be3", guest.Requirement{
				Description: "answers SSH", Hint: "see its console", Limit: 20 * time.Millisecond, Pause: time.Millisecond, Check: c.check,
			})
			if !errors.Is(err, c.is) {
				t.Errorf("Await = %v, want %v", err, c.is)
			}
			var wait *guest.AwaitError
			if !errors.As(err, &wait) || wait.Machine != "be3" {
				t.Fatalf("Await = %v, want an AwaitError", err)
			}
			for _, want := range []string{"be3", "answers SSH", "see its console"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}
