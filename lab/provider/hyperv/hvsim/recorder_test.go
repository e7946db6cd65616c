package hvsim

import (
	"context"
	"sync"
)

// recorder are guests that remember what they were told, and can be made to fail.
type recorder struct {
	Guests

	mu      sync.Mutex
	started []Machine
	hosts   []HostNetwork
	// startError, when set, is what Start returns.
	startError error
	// stopping, when set, is called by Stop before it does anything.
	stopping func(ctx context.Context, id string, orderly bool)
}

func (r *recorder) Start(ctx context.Context, m Machine) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.startError != nil {
		return r.startError
	}
	r.started = append(r.started, m)
	return r.Guests.Start(ctx, m)
}

func (r *recorder) Stop(ctx context.Context, id string, orderly bool) error {
	if r.stopping != nil {
		r.stopping(ctx, id, orderly)
	}
	return r.Guests.Stop(ctx, id, orderly)
}

func (r *recorder) SetHost(ctx context.Context, n HostNetwork) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts = append(r.hosts, n)
	return r.Guests.SetHost(ctx, n)
}
