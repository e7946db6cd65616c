//go:build !linux

package qemuguests

import (
	"context"
	"errors"

	"l4lab/lab/provider/hyperv/hvsim"
)

// Guests exists on Linux alone.
type Guests struct{ hvsim.Guests }

// New says that this system cannot have such guests.
func New(context.Context, Options) (*Guests, error) {
	return nil, errors.New("guests in QEMU exist on Linux alone; run the simulated host there, or without guests")
}
