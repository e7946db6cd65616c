package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/capability"
	"l4lab/agent/datapath"
	"l4lab/agent/events"
	"l4lab/agent/metrics"
	"l4lab/agent/trace"
)

// lossEvery is how often a listener is told what it does not get, if that has grown.
const lossEvery = 250 * time.Millisecond

// Events sends the flow events of a query until ctx ends, send fails, or the agent ends.
func (s *Server) Events(ctx context.Context, q api.EventQuery, send func(api.EventMessage) error) error {
	rate := q.Rate
	if rate == 0 {
		s.mu.Lock()
		rate = s.wish.EventRate
		s.mu.Unlock()
	}
	if rate == 0 {
		rate = api.DefaultEventRate
	}
	subscription, err := s.events.Subscribe(rate, func(e datapath.Event) bool {
		return (q.ServiceID == 0 || e.ServiceID == q.ServiceID) &&
			(len(q.Kinds) == 0 || slices.Contains(q.Kinds, api.EventKind(e.Kind.String())))
	})
	if errors.Is(err, events.ErrClosed) {
		return &api.Error{Message: err.Error(), Code: http.StatusServiceUnavailable}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err := subscription.Close(); err != nil {
			s.options.Log.Error("could not end a listener's events", "error", err)
		}
	}()
	told := api.EventLoss{}
	if err := send(api.EventMessage{Loss: &told}); err != nil {
		return err
	}
	ticker := time.NewTicker(lossEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-subscription.C:
			if !open {
				return subscription.Err()
			}
			event, err := s.describeEvent(e)
			if errors.Is(err, errUnloaded) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := send(api.EventMessage{Event: &event}); err != nil {
				return err
			}
		case <-ticker.C:
			var loss api.EventLoss
			loss.Suppressed, loss.Lost, loss.Missed, err = subscription.Loss()
			if errors.Is(err, events.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			if loss == told {
				continue
			}
			told = loss
			if err := send(api.EventMessage{Loss: &loss}); err != nil {
				return err
			}
		}
	}
}

func (s *Server) describeEvent(e datapath.Event) (api.FlowEvent, error) {
	event := api.FlowEvent{
		Time: time.Now().Add(e.Time - datapath.Clock()).Round(time.Millisecond), Kind: api.EventKind(e.Kind.String()), Protocol: e.Flow.Protocol.String(),
		Source: e.Flow.Source, Dest: e.Flow.Dest, ServiceID: e.ServiceID, Reason: e.Reason,
	}
	if e.Mode != 0 {
		event.Mode = e.Mode.String()
	}
	if e.BackendID == 0 {
		return event, nil
	}
	release, err := s.use()
	if err != nil {
		return event, fmt.Errorf("%w: %w", errUnloaded, err)
	}
	defer release()
	b, there, err := s.datapath.Maps().Backend(e.BackendID)
	if err != nil || !there {
		return event, err
	}
	event.Backend = b.Address
	if b.Address.Port() == 0 {
		event.Backend = netip.AddrPortFrom(b.Address.Addr(), e.Flow.Dest.Port())
	}
	return event, nil
}

// Trace says what the data path would do with a packet.
func (s *Server) Trace(_ context.Context, p api.TracePacket) (api.Trace, error) {
	release, err := s.use()
	if err != nil {
		return api.Trace{}, err
	}
	defer release()
	tables := &traceTables{Maps: s.datapath.Maps(), written: s.services.WrittenSlot}
	t, err := trace.Run(tables, p, datapath.Clock())
	t.TableUnread = tables.unread
	return t, err
}

// traceTables are the maps, and in the place of Maglev tables that the process may not read, which takes
// CAP_SYS_ADMIN, those that it wrote.
type traceTables struct {
	*datapath.Maps
	written func(slot, index uint32) (backend uint32, err error)
	unread  bool
}

// TableSlot is trace.Tables'.
func (t *traceTables) TableSlot(slot, index uint32) (backend uint32, err error) {
	backend, err = t.Maps.TableSlot(slot, index)
	if errors.Is(err, fs.ErrPermission) {
		t.unread = true
		return t.written(slot, index)
	}
	return backend, err
}

// Health says what the checks know of the backends.
func (s *Server) Health(context.Context) ([]api.BackendHealth, error) {
	var all []api.BackendHealth
	for _, c := range s.checks.checker.Snapshot() {
		h := api.BackendHealth{
			ServiceID: c.Service, Backend: c.Backend, Health: "healthy", Paused: c.Paused, Result: string(c.Result), Error: c.Error,
			Consecutive: c.Consecutive, CheckedAt: c.CheckedAt, Duration: c.Duration.Seconds(),
			Passes: c.Passes, Failures: c.Failures, Unclear: c.Unclear, Late: c.Late,
		}
		if !c.Healthy {
			h.Health = "quarantined"
		}
		all = append(all, h)
	}
	return all, nil
}

// Capabilities says what the data path can do on this system.
func (s *Server) Capabilities(context.Context) (api.Capabilities, error) {
	return capability.Report(capability.Here(s.options.Profile)), nil
}

// figures are what a scrape shows.
func (s *Server) figures() (metrics.Figures, error) {
	counters, err := s.Counters(context.Background())
	if err != nil {
		return metrics.Figures{}, err
	}
	release, err := s.use()
	if err != nil {
		return metrics.Figures{}, err
	}
	defer release()
	m := s.datapath.Maps()
	f := metrics.Figures{
		StartedAt: s.startedAt, Services: s.services.Services(), Counters: counters,
		Checks: s.checks.checker.Snapshot(), Sweeps: s.sweeps.read(),
		Build: metrics.Build{Version: s.options.Version, Profile: string(capability.Here(s.options.Profile)), Go: runtime.Version()},
	}
	var faults [4]error
	f.ICMP, faults[0] = m.ICMP()
	f.Loss, faults[1] = m.EventLoss()
	f.Rooms, faults[2] = m.Rooms()
	config, err := m.Config()
	f.Build.Layout, faults[3] = config.Layout, err
	return f, errors.Join(faults[:]...)
}

// sweeps is what the sweeps of the connections found.
type sweeps struct {
	mu   sync.Mutex
	last metrics.Sweeps
}

func (s *sweeps) note(inUse map[uint32]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Done++
	s.last.Last, s.last.Connections = time.Now(), 0
	for _, n := range inUse {
		s.last.Connections += uint64(n)
	}
}

func (s *sweeps) read() metrics.Sweeps {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// listenForScrapes makes the metrics' listener, nil when none is asked for.
func (s *Server) listenForScrapes() (err error) {
	if s.options.Metrics == "" {
		return nil
	}
	if s.metricsListener, err = metrics.Listen(s.options.Metrics, s.options.MetricsPublic); err != nil {
		return fmt.Errorf("--metrics: %w", err)
	}
	s.metrics = metrics.New(s.figures, s.options.Log)
	return nil
}
