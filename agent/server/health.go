package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"l4lab/agent/device"
	"l4lab/agent/health"
	"l4lab/agent/health/path"
)

// checkBackends has the backends checked of all services that ask for it, until ctx ends.
func (s *Server) checkBackends(ctx context.Context, d device.Device) error {
	vip := &vipProber{options: path.Options{
		Interface: d.Name,
		Addresses: slices.DeleteFunc([]netip.Addr{d.Address4, d.Address6}, func(a netip.Addr) bool { return !a.IsValid() }),
		NextHop: func(backend netip.Addr) (net.HardwareAddr, error) {
			mac, err := s.tracker.MAC(backend)
			return mac[:], err
		},
	}}
	checker := health.New(health.Options{VIP: vip, Reporter: s.services, Log: s.options.Log})
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.tellServices(ctx, checker) })
	err := checker.Run(ctx)
	cancel()
	following.Wait()
	return errors.Join(err, vip.close())
}

// tellServices keeps the checker's services those that are desired.
func (s *Server) tellServices(ctx context.Context, checker *health.Checker) {
	for {
		changed := s.services.Changed()
		if err := checker.SetServices(s.services.Services()); err != nil {
			s.options.Log.Error("some backends are not checked", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// vipProber opens its sockets, several hundred, when a service first asks for checks through
// the VIP.
type vipProber struct {
	options path.Options
	mu      sync.Mutex
	prober  *path.Prober
}

// Probe is health.Prober's.
func (v *vipProber) Probe(ctx context.Context, t health.Target) error {
	prober, err := v.open()
	if err != nil {
		return fmt.Errorf("%w: %w", health.ErrInconclusive, err)
	}
	return prober.Probe(ctx, t)
}

func (v *vipProber) open() (*path.Prober, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.prober != nil {
		return v.prober, nil
	}
	var err error
	v.prober, err = path.Open(v.options)
	if err != nil {
		v.prober = nil
	}
	return v.prober, err
}

func (v *vipProber) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.prober == nil {
		return nil
	}
	return v.prober.Close()
}
