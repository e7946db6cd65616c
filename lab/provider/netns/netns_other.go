//go:build !linux

// Package netns provides labs in network namespaces, which Linux alone has.
package netns

import (
	"context"
	"errors"
	"runtime"

	"l4lab/lab/capture"
	"l4lab/lab/provider"
)

// Name is the provider's name in --provider.
const Name = "netns"

var errLinuxOnly = errors.New("network namespaces exist on Linux alone; run labctl on a Linux machine")

// New returns a provider whose Check says that this system cannot be one.
func New() provider.Driver { return provider.Driver{Name: Name, Provider: absent{}} }

type absent struct{}

func (absent) Check(context.Context, provider.Lab) []provider.Requirement {
	return []provider.Requirement{{
		Name: "Linux", Fatal: true, Found: "this is " + runtime.GOOS, Remedy: "run labctl on a Linux machine",
	}}
}

func (absent) Observe(context.Context, provider.Lab) (provider.Actual, error) {
	return provider.Actual{}, errLinuxOnly
}
func (absent) EnsureSwitch(context.Context, provider.Lab) error       { return errLinuxOnly }
func (absent) EnsureNode(context.Context, provider.Lab, string) error { return errLinuxOnly }
func (absent) RemoveNode(context.Context, provider.Lab, string) error { return errLinuxOnly }
func (absent) Destroy(context.Context, provider.Lab) error            { return errLinuxOnly }
func (absent) Machine(provider.Lab, string) (provider.Machine, error) {
	return provider.Machine{}, errLinuxOnly
}
func (absent) Capture(context.Context, provider.Lab, capture.Place) (*capture.Session, error) {
	return nil, errLinuxOnly
}
