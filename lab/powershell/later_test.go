package powershell_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"l4lab/lab/powershell"
	"l4lab/lab/powershell/powershelltest"
)

func TestALogonComesWithTheFirstCallAndOnce(t *testing.T) {
	var logons atomic.Int32
	verb := powershell.Verb[struct{}, struct{}]{Script: powershell.Script{Name: "x", Text: "text"}}
	m := powershelltest.New()
	powershelltest.On(m, verb, func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	refused := errors.New("not yet")
	r := powershell.Later(func(context.Context) (powershell.Runner, error) {
		if logons.Add(1) == 1 {
			return nil, refused
		}
		return m, nil
	})
	if logons.Load() != 0 {
		t.Error("it logged on before anybody asked")
	}
	if _, err := verb.Run(t.Context(), r, struct{}{}); !errors.Is(err, refused) {
		t.Errorf("a logon that failed: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := verb.Run(t.Context(), r, struct{}{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := logons.Load(); n != 2 {
		t.Errorf("%d logons, want 2: one failed, one served all calls", n)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := verb.Run(t.Context(), r, struct{}{}); !errors.Is(err, powershell.ErrUnreachable) {
		t.Errorf("a call after the end: %v", err)
	}
}

func TestACallThatWaitsForALogonCanBeCancelled(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	r := powershell.Later(func(context.Context) (powershell.Runner, error) {
		close(began)
		<-end
		return powershelltest.New(), nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(context.Background(), powershell.Call{})
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx, powershell.Call{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(end)
	<-done
}
