//go:build !linux

package path

import (
	"context"

	"l4lab/agent/health"
)

// Prober is of Linux alone; here there is none.
type Prober struct{}

// Open fails with ErrUnsupported. A health.Checker without a VIP prober has its
// checks through the VIP inconclusive.
func Open(Options) (*Prober, error) { return nil, ErrUnsupported }

// Probe fails with ErrUnsupported.
func (*Prober) Probe(context.Context, health.Target) error { return inconclusive(ErrUnsupported) }

// Close does nothing.
func (*Prober) Close() error { return nil }
