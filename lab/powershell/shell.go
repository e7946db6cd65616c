package powershell

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// keptShell is a shell on the machine.
type keptShell struct {
	id      string
	users   int
	retired bool
}

// shellKeeper keeps one shell and makes a new one where it was given up. One
// that was given up is deleted once nothing runs in it.
type shellKeeper struct {
	service service

	making chan struct{} // holds one while a shell is made

	mu    sync.Mutex
	shell *keptShell
	// left are shells that may exist and that nobody uses: their answer was
	// lost, or their deletion failed.
	left   []string
	closed bool
	// live are shells in use that are retired.
	live map[*keptShell]bool
}

func newShellKeeper(s service) *shellKeeper {
	return &shellKeeper{service: s, making: make(chan struct{}, 1), live: map[*keptShell]bool{}}
}

// acquire returns the kept shell, made where there is none.
func (k *shellKeeper) acquire(ctx context.Context) (*keptShell, error) {
	select {
	case k.making <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: wait for a shell: %w", k.service.t.e.address(), context.Cause(ctx))
	}
	defer func() { <-k.making }()
	if sh, err := k.current(); sh != nil || err != nil {
		return sh, err
	}
	_ = k.sweep(ctx) // tried again at the latest on Close
	wish := newUUID()
	id, err := k.service.create(ctx, wish)
	if err != nil {
		if ctx.Err() != nil || isSent(err) {
			k.leave(wish)
		}
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shell = &keptShell{id: id, users: 1}
	return k.shell, nil
}

func (k *shellKeeper) current() (*keptShell, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, k.service.failure(ErrUnreachable, "use the shell", errClosed.Error(), errClosed)
	}
	if k.shell != nil {
		k.shell.users++
	}
	return k.shell, nil
}

// retire gives a shell up: no call begins in it any more.
func (k *shellKeeper) retire(sh *keptShell) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shell == sh {
		k.shell = nil
	}
	sh.retired = true
	k.live[sh] = true
}

// release ends a use; the last one of a retired shell deletes it.
func (k *shellKeeper) release(ctx context.Context, sh *keptShell) {
	k.mu.Lock()
	sh.users--
	last := sh.retired && sh.users == 0 && k.live[sh]
	if last {
		delete(k.live, sh)
	}
	k.mu.Unlock()
	if last {
		k.leave(sh.id)
		_ = k.sweep(ctx)
	}
}

// leave notes a shell that may have to be deleted.
func (k *shellKeeper) leave(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = append(k.left, id)
}

// sweep deletes what was left; what fails is left again.
func (k *shellKeeper) sweep(ctx context.Context) error {
	k.mu.Lock()
	left := k.left
	k.left = nil
	k.mu.Unlock()
	var errs []error
	for _, id := range left {
		if err := k.delete(ctx, id); err != nil {
			k.leave(id)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// delete removes a shell, in time of its own: it is needed most when the
// call's is over. One that is not there is removed.
func (k *shellKeeper) delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	for try := 1; ; try++ {
		err := k.service.delete(ctx, id)
		if err == nil || errors.Is(err, errShellLost) {
			return nil
		}
		if !isLost(err) || try == tries || !pause(ctx, try) {
			return err
		}
	}
}

// close deletes all shells with what runs in them.
func (k *shellKeeper) close(ctx context.Context) error {
	k.mu.Lock()
	k.closed = true
	if k.shell != nil {
		k.left = append(k.left, k.shell.id)
		k.shell = nil
	}
	for sh := range k.live {
		k.left = append(k.left, sh.id)
	}
	clear(k.live)
	k.mu.Unlock()
	// A shell that is being made is waited for, and then there are no more.
	select {
	case k.making <- struct{}{}:
		defer func() { <-k.making }()
	case <-time.After(cleanUpWithin):
	}
	k.mu.Lock()
	if k.shell != nil {
		k.left = append(k.left, k.shell.id)
		k.shell = nil
	}
	k.mu.Unlock()
	err := k.sweep(ctx)
	k.service.t.close()
	return err
}
