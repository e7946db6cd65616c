package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"l4lab/agent/api"
	"l4lab/agent/device"
	"l4lab/agent/health"
	"l4lab/agent/health/path"
)

// checks are the checks of the backends of all services that ask for it.
type checks struct {
	checker *health.Checker
	vip     *vipProber
}

func (s *Server) newChecks(d device.Device) checks {
	vip := &vipProber{options: path.Options{
		Interface: d.Name,
		NextHop: func(backend netip.Addr) (net.HardwareAddr, error) {
			mac, err := s.tracker.MAC(backend)
			return mac[:], err
		},
	}}
	vip.options.Addresses = ownOf(d)
	options := health.Options{Direct: health.Direct{}, VIP: vip, Reporter: s.services, Log: s.options.Log}
	if s.metrics != nil {
		options.Direct, options.VIP = s.metrics.Timed(options.Direct, "direct"), s.metrics.Timed(vip, "vip")
	}
	return checks{health.New(options), vip}
}

func ownOf(d device.Device) []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{d.Address4, d.Address6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// checkBackends has the backends checked until ctx ends.
func (s *Server) checkBackends(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.tellServices(ctx, s.checks.checker) })
	err := s.checks.checker.Run(ctx)
	cancel()
	following.Wait()
	return errors.Join(err, s.checks.vip.close())
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

// canCheckAll is canCheck for services that become all that there are; mode is of those that name none.
func (s *Server) canCheckAll(all []api.Service, mode string) error {
	for i, wanted := range all {
		if wanted.Mode == "" {
			wanted.Mode = mode
		}
		if err := s.canCheck(wanted, fmt.Sprintf("services[%d].", i)); err != nil {
			return err
		}
	}
	return nil
}

// canCheckIn is canCheck for services that are there, in another mode; 0 is all.
func (s *Server) canCheckIn(mode string, id uint32) error {
	for _, has := range s.services.Services() {
		if id != 0 && has.ID != id {
			continue
		}
		has.Mode = mode
		err := s.canCheck(has, "")
		var refusal *api.Error
		if errors.As(err, &refusal) {
			return &api.Error{Field: "mode", Message: fmt.Sprintf("service %d: %s", has.ID, refusal)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unchecked says which services of before an agent has taken up though it cannot check them.
func (s *Server) unchecked() (warnings []string) {
	for _, has := range s.services.Services() {
		if err := s.canCheck(has, ""); err != nil {
			warnings = append(warnings, fmt.Sprintf("the backends of service %d are not checked: %s", has.ID, err))
		}
	}
	return warnings
}

// canCheck refuses a service, whose mode is filled in, whose checks this machine could never make: its
// backends would stay as they are for ever, and nobody would know.
func (s *Server) canCheck(wanted api.Service, field string) error {
	// In SNAT checks are direct, whatever is asked for.
	if c := wanted.HealthCheck; c == nil || c.Via != "vip" || wanted.Mode == "snat" {
		return nil
	}
	_, err := s.checks.vip.open()
	if errors.Is(err, path.ErrUnsupported) || errors.Is(err, path.ErrPermission) {
		return &api.Error{Field: field + "healthCheck.via", Message: err.Error() + "; direct is possible"}
	}
	return err
}

// vipProber opens its sockets, several hundred, when a service first asks for checks through
// the VIP.
type vipProber struct {
	mu      sync.Mutex
	options path.Options
	prober  *path.Prober
	// closed is for good.
	closed bool
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
	if v.closed {
		return nil, path.ErrClosed
	}
	if v.prober != nil {
		return v.prober, nil
	}
	prober, err := path.Open(v.options)
	if err != nil {
		return nil, err
	}
	v.prober = prober
	return prober, nil
}

// follow has the next check open its sockets anew when they are of addresses that the device has not any more.
func (v *vipProber) follow(d device.Device) error {
	v.mu.Lock()
	prober := v.prober
	if slices.Equal(v.options.Addresses, ownOf(d)) {
		v.mu.Unlock()
		return nil
	}
	v.options.Addresses, v.prober = ownOf(d), nil
	v.mu.Unlock()
	if prober == nil {
		return nil
	}
	return prober.Close()
}

func (v *vipProber) close() error {
	v.mu.Lock()
	v.closed = true
	prober := v.prober
	v.prober = nil
	v.mu.Unlock()
	if prober == nil {
		return nil
	}
	return prober.Close()
}
