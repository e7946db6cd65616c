package server

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"l4lab/agent/api"
	"l4lab/agent/conntrack"
	"l4lab/agent/datapath"
)

// platform is where the data path runs.
const platform = runtime.GOOS

// use takes part in using the data path; the caller calls release at its end.
func (s *Server) use() (release func(), err error) {
	s.using.RLock()
	if s.unloaded {
		s.using.RUnlock()
		return nil, &api.Error{Message: "the data path is unloaded, the agent is ending", Code: http.StatusServiceUnavailable}
	}
	return s.using.RUnlock, nil
}

// Status says what the agent is attached to and how it started.
func (s *Server) Status(context.Context) (api.Status, error) {
	release, err := s.use()
	if err != nil {
		return api.Status{}, err
	}
	defer release()
	attached, err := s.datapath.Attachment()
	if err != nil {
		return api.Status{}, err
	}
	warnings := s.surroundings()
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Status{
		PID:       os.Getpid(),
		Version:   s.options.Version,
		StartedAt: s.startedAt,
		Interface: api.Interface{
			Name:     s.device.Name,
			Index:    s.device.Index,
			MTU:      s.device.MTU,
			Address:  s.device.Address4,
			Address6: s.device.Address6,
			MAC:      datapath.MAC(s.device.MAC).String(),
		},
		Platform:   platform,
		AttachMode: attached.Mode,
		ProgramID:  attached.ProgramID,
		VLAN:       s.wish.VLAN.String(),
		TookOver:   s.datapath.TookOver(),
		Steps:      slices.Clone(s.steps),
		Warnings:   slices.Concat(s.warnings, warnings),
	}, nil
}

// Services returns the desired services.
func (s *Server) Services(context.Context) ([]api.Service, error) { return s.services.Services(), nil }

// Service returns one desired service.
func (s *Server) Service(_ context.Context, id uint32) (api.Service, error) {
	return s.services.Service(id)
}

// PutService creates or replaces a service.
func (s *Server) PutService(ctx context.Context, wanted api.Service) (api.Service, error) {
	release, err := s.use()
	if err != nil {
		return api.Service{}, err
	}
	defer release()
	judged := wanted
	if judged.Mode == "" {
		judged.Mode = s.services.DefaultMode().String()
		if has, err := s.services.Service(wanted.ID); err == nil {
			judged.Mode = has.Mode
		}
	}
	if err := s.canCheck(judged, ""); err != nil {
		return api.Service{}, err
	}
	stored, err := s.services.Put(ctx, wanted)
	if err == nil {
		s.changedByAPI()
		s.options.Log.Info("service set", "id", stored.ID, "frontend", stored.Frontend, "protocol", stored.Protocol,
			"mode", stored.Mode, "backends", len(stored.Backends))
	}
	return stored, err
}

// PutServices makes these the services.
func (s *Server) PutServices(ctx context.Context, all []api.Service) ([]api.Service, error) {
	release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	if err := s.canCheckAll(all, s.services.DefaultMode().String()); err != nil {
		return nil, err
	}
	stored, err := s.services.Apply(ctx, all)
	if err == nil {
		s.changedByAPI()
		s.options.Log.Info("services set", "services", len(stored))
	}
	return stored, err
}

// DeleteService removes a service.
func (s *Server) DeleteService(ctx context.Context, id uint32) error {
	release, err := s.use()
	if err != nil {
		return err
	}
	defer release()
	if err := s.services.Delete(ctx, id); err != nil {
		return err
	}
	s.changedByAPI()
	s.options.Log.Info("service deleted", "id", id)
	return nil
}

// Connections lists the living flows of a service, or of all.
func (s *Server) Connections(_ context.Context, id uint32) ([]api.Connection, error) {
	release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	if id != 0 {
		if _, err := s.services.Service(id); err != nil {
			return nil, err
		}
	}
	return conntrack.List(s.datapath.Maps(), id, datapath.Clock())
}

// Counters returns the totals of services, backends and drops.
func (s *Server) Counters(context.Context) (api.Counters, error) {
	release, err := s.use()
	if err != nil {
		return api.Counters{}, err
	}
	defer release()
	m := s.datapath.Maps()
	counters := api.Counters{Services: []api.ServiceCounters{}}
	if counters.Drops, err = m.Drops(); err != nil {
		return api.Counters{}, err
	}
	for _, n := range s.services.Numbers() {
		total, err := m.ServiceTraffic(n.Slot)
		if err != nil {
			return api.Counters{}, err
		}
		of := api.ServiceCounters{ID: n.ID, Traffic: api.Traffic(total), Backends: []api.BackendCounters{}}
		for _, address := range slices.SortedFunc(maps.Keys(n.Backends), netip.AddrPort.Compare) {
			part, err := m.BackendTraffic(n.Backends[address])
			if err != nil {
				return api.Counters{}, err
			}
			of.Backends = append(of.Backends, api.BackendCounters{Address: address, Traffic: api.Traffic(part)})
		}
		counters.Services = append(counters.Services, of)
	}
	return counters, nil
}

// Neighbours returns the next hop of each backend.
func (s *Server) Neighbours(context.Context) ([]api.Neighbour, error) { return s.tracker.List(), nil }

// RefreshNeighbour resolves the next hop towards a backend anew.
func (s *Server) RefreshNeighbour(ctx context.Context, address netip.Addr) (api.Neighbour, error) {
	release, err := s.use()
	if err != nil {
		return api.Neighbour{}, err
	}
	defer release()
	return s.tracker.Refresh(ctx, address)
}

// SetMode switches one service, or all and the default.
func (s *Server) SetMode(ctx context.Context, update api.ModeUpdate) error {
	release, err := s.use()
	if err != nil {
		return err
	}
	defer release()
	if err := s.canCheckIn(update.Mode, update.ServiceID); err != nil {
		return err
	}
	if err := s.services.SetMode(ctx, update.Mode, update.ServiceID); err != nil {
		return err
	}
	s.changedByAPI()
	s.options.Log.Info("mode set", "mode", update.Mode, "service", update.ServiceID)
	return nil
}

// Unload detaches the program, removes the pins and ends the agent. The state
// file stays: the next agent has the same services. The agent ends also when it
// fails, and with that error.
func (s *Server) Unload(context.Context) error {
	s.using.Lock()
	defer s.using.Unlock()
	if s.unloaded {
		return nil
	}
	s.unloaded = true
	s.endBackground()
	if err := s.datapath.Unload(); err != nil {
		err = fmt.Errorf("unload the data path: %w", err)
		s.stop(err)
		return err
	}
	s.options.Log.Info("data path unloaded")
	s.stop(errUnloaded)
	return nil
}
