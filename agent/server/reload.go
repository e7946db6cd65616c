package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/service"
)

// Settings are what may change while the agent runs, besides services.
type Settings struct {
	// Lifetimes, NATMin and NATMax are datapath.Config's; zero means the default.
	Lifetimes      datapath.Lifetimes
	NATMin, NATMax uint16
	// VLAN is datapath.Config's.
	VLAN datapath.VLAN
	// EventRate is that of listeners to events who name none; 0 is api.DefaultEventRate.
	EventRate uint32
	// DrainAfter is service.Options'.
	DrainAfter time.Duration
}

// Wish is what is desired of a running agent.
type Wish struct {
	Settings
	// Mode is the default of services; 0 keeps the last one.
	Mode datapath.Mode
	// Services, if not nil, are all that there shall be; nil leaves them to the API.
	Services []api.Service
}

// on puts the settings into a config.
func (s Settings) on(c *datapath.Config) {
	fallback := datapath.DefaultConfig()
	c.Lifetimes, c.NATMin, c.NATMax = fallback.Lifetimes, fallback.NATMin, fallback.NATMax
	if s.Lifetimes != (datapath.Lifetimes{}) {
		c.Lifetimes = s.Lifetimes
	}
	c.VLAN = s.VLAN
	if s.NATMin != 0 {
		c.NATMin, c.NATMax = s.NATMin, s.NATMax
	}
}

// reload makes the agent as it is wished, services as one set: when that cannot be,
// everything stays. It is for the background, which Unload waits for: it does not take part in s.using.
func (s *Server) reload(ctx context.Context, wish Wish) error {
	s.mu.Lock()
	was := s.wish
	s.mu.Unlock()
	mode := s.services.DefaultMode()
	if wish.Mode != 0 {
		mode = wish.Mode
	}
	if err := s.canCheckAll(wish.Services, mode.String()); err != nil {
		return err
	}
	s.services.SetDrainAfter(wish.DrainAfter)
	if err := s.services.Declare(ctx, wish.Mode, wish.Services); err != nil {
		s.services.SetDrainAfter(was.DrainAfter)
		return err
	}
	var now datapath.Config
	var err error
	if wish.Settings != was.Settings {
		err = s.datapath.Maps().ChangeConfig(func(c *datapath.Config) {
			wish.on(c)
			now = *c
		})
	}
	is := wish
	if err != nil { // the next reload tries them again
		is.Settings = was.Settings
		is.DrainAfter = wish.DrainAfter
	}
	s.mu.Lock()
	s.wish = is
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("the services are as desired, the settings are not: %w", err)
	}
	if wish.NATMin == was.NATMin && wish.NATMax == was.NATMax {
		return nil
	}
	if warning := portOverlap(now.NATMin, now.NATMax); warning != "" {
		s.options.Log.Warn(warning)
	}
	return nil
}

// changedByAPI says to the log what becomes of a change of services that a config file declares.
func (s *Server) changedByAPI() {
	s.mu.Lock()
	declared := s.wish.Services != nil
	s.mu.Unlock()
	if declared {
		s.options.Log.Warn("services were changed through the API, and the config file has services: it brings back its own " +
			"when it is read next; `lbagent diff` shows the difference")
	}
}

// Diff compares what the config file declares, or else the state, with the data path.
func (s *Server) Diff(context.Context) (api.Diff, error) {
	s.mu.Lock()
	declared := s.wish.Services
	s.mu.Unlock()
	if declared == nil {
		return s.diff("state", nil)
	}
	return s.diff("config", declared)
}

// DiffWith compares services that are not set with the data path.
func (s *Server) DiffWith(_ context.Context, all []api.Service) (api.Diff, error) {
	s.mu.Lock()
	on := service.Balancer{Mode: s.services.DefaultMode(), Own4: s.device.Address4, Own6: s.device.Address6, Known: true}
	s.mu.Unlock()
	var faults []error
	for _, f := range service.Check(all, on) {
		faults = append(faults, f)
	}
	if err := errors.Join(faults...); err != nil {
		return api.Diff{}, err
	}
	return s.diff("request", all)
}

func (s *Server) diff(desired string, wanted []api.Service) (api.Diff, error) {
	release, err := s.use()
	if err != nil {
		return api.Diff{}, err
	}
	defer release()
	services, unread, err := s.services.Diff(wanted)
	return api.Diff{Desired: desired, Same: len(services) == 0, TablesUnread: unread, Services: services}, err
}
