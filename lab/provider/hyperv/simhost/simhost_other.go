//go:build !linux

package simhost

import (
	"context"
	"errors"

	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv"
)

// Hosts exist on Linux alone.
type Hosts struct{}

// New returns hosts that cannot be started here.
func New(Options) *Hosts { return &Hosts{} }

// Find says that there is none.
func (*Hosts) Find(_ context.Context, _ provider.Lab, make bool) (hyperv.Target, error) {
	if !make {
		return hyperv.Target{}, hyperv.ErrNoHost
	}
	return hyperv.Target{}, errors.New("simulated hosts exist on Linux alone")
}

// Release has nothing to end.
func (*Hosts) Release(context.Context, provider.Lab) error { return nil }

// Local says what is missing.
func (*Hosts) Local(provider.Lab) []provider.Requirement {
	return []provider.Requirement{{Name: "Linux", Fatal: true, Found: "another system", Remedy: "run labctl on a Linux machine"}}
}
