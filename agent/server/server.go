// Package server is the running agent: it reads the interface, loads and
// attaches the data path, programs the services, keeps neighbours and connections, and
// serves the API, until it is told to stop. What it leaves then goes on without it.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/capability"
	"l4lab/agent/conntrack"
	"l4lab/agent/datapath"
	"l4lab/agent/device"
	"l4lab/agent/events"
	"l4lab/agent/metrics"
	"l4lab/agent/neighbour"
	"l4lab/agent/service"
)

// Times of the agent.
const (
	// sweepEvery is how often dead connections are looked for.
	sweepEvery = 10 * time.Second
	// shutdownPatience is how long requests may go on once the agent stops.
	shutdownPatience = 3 * time.Second
)

// Options say what the agent does and where.
type Options struct {
	// Interface is the VIPs' network interface.
	Interface string
	// Addresses are the balancer's own, at most one of each family; of one that
	// is not among them, the interface's first.
	Addresses []netip.Addr
	// Wish is what is desired at the start. Follow, if not nil, runs besides the
	// agent and has it made otherwise through reload.
	Wish   Wish
	Follow func(ctx context.Context, reload func(context.Context, Wish) error)
	// Socket is where the API listens; SocketGroup may use it as well, "" is nobody else.
	Socket, SocketGroup string
	// StateFile keeps the desired services.
	StateFile string
	// PinDir, Sizes, Generic, Image and Profile are datapath.Options'.
	PinDir  string
	Sizes   datapath.Sizes
	Generic bool
	Image   string
	Profile datapath.Profile
	// Requirements are datapath.Options'; nil but in tests.
	Requirements []datapath.Requirement
	// Metrics is where Prometheus may scrape, ADDRESS:PORT, "" for nowhere. It must
	// be of this machine alone unless MetricsPublic.
	Metrics       string
	MetricsPublic bool
	// Version is the agent's own.
	Version string
	// Out gets the steps, in words for people; Log all else.
	Out io.Writer
	Log *slog.Logger
}

// errUnloaded ends Run after a request to unload.
var errUnloaded = errors.New("unloaded")

// Server is the agent while it runs; it is the api.Agent.
type Server struct {
	options   Options
	startedAt time.Time
	datapath  datapath.Datapath
	services  *service.Manager
	tracker   *neighbour.Tracker
	checks    checks
	events    *events.Hub
	metrics   *metrics.Server // nil when nobody asked for them
	sweeps    sweeps
	stop      context.CancelCauseFunc
	// background are the goroutines that use the maps; cancelBackground ends them.
	background       sync.WaitGroup
	cancelBackground context.CancelFunc

	metricsListener net.Listener

	// using is held for reading by every request, for writing by Unload.
	using    sync.RWMutex
	unloaded bool

	// mu guards what may change while the agent runs.
	mu     sync.Mutex
	wish   Wish
	device device.Device
	steps  []string
	// warnings are those of the start; see surroundings for the others.
	warnings []string
}

var _ api.Agent = (*Server)(nil)

// Run is the agent. It returns nil when ctx ends or the data path was
// unloaded on request; pins stay in the first case. An error at the first start
// leaves nothing behind; at a later one what was pinned stays and goes on forwarding.
// A wrong interface or address is device.ErrUnusable.
func Run(ctx context.Context, options Options) error {
	// First the socket: while another agent has it, nothing may be touched.
	listener, err := api.ListenGroup(options.Socket, options.SocketGroup)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &Server{options: options, startedAt: time.Now(), stop: stop, wish: options.Wish}
	if err := s.start(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	err = s.serve(ctx, listener)
	s.using.Lock()
	defer s.using.Unlock()
	if !s.unloaded {
		s.endBackground()
		err = errors.Join(err, s.services.Close(), s.datapath.Close())
	}
	return err
}

// start does all that comes before the first request. What can be wrong is
// found out first, and the maps, which an earlier agent's program may be
// forwarding with, are written last: a start that fails leaves it as it was.
func (s *Server) start(ctx context.Context) (err error) {
	d, err := device.Read(s.options.Interface, s.options.Addresses...)
	if err != nil {
		return err
	}
	s.device = d
	if err := s.listenForScrapes(); err != nil {
		return err
	}
	defer func() {
		if err != nil && s.metricsListener != nil {
			err = errors.Join(err, s.metricsListener.Close())
		}
	}()
	saved, err := service.ReadState(s.options.StateFile)
	if err != nil {
		return err
	}
	s.step(fmt.Sprintf("interface: %s, MTU %d, index %d, address %s, MAC %s", d.Name, d.MTU, d.Index, d.Addresses(), datapath.MAC(d.MAC)))
	s.step("loading: data path of " + platform)
	sizes := s.options.Sizes
	if sizes.Backends != 0 {
		sizes.Backends++ // id 0 is nobody's
	}
	s.datapath, err = datapath.Load(datapath.Options{
		Interface:    d.Name,
		Index:        d.Index,
		PinDir:       s.options.PinDir,
		Sizes:        sizes,
		Image:        s.options.Image,
		Profile:      s.options.Profile,
		Generic:      s.options.Generic,
		Requirements: s.options.Requirements,
		Step:         s.step,
	})
	if err != nil {
		return err
	}
	limits := s.datapath.Maps().Limits()
	s.step(fmt.Sprintf("room: %d services, %d backends, %d sources, %d connections",
		limits.Services, limits.Backends-1, limits.Sources, limits.Connections))
	background, cancel := context.WithCancel(ctx)
	s.cancelBackground = cancel
	defer func() {
		if err != nil {
			s.endBackground()
			err = errors.Join(err, s.leave())
		}
	}()
	if s.tracker, err = neighbour.New(neighbour.NewSystem(d.Index), s.datapath.Maps(), s.options.Log); err != nil {
		return err
	}
	s.inBackground(background, "following the neighbours", s.tracker.Run)
	sweeper := conntrack.NewSweeper(s.datapath.Maps(), datapath.Clock, s.options.Log)
	if s.datapath.TookOver() {
		// Connections to backends that an earlier agent removed, perhaps just before it
		// died, must not come to whoever gets those backends' ids.
		if _, err := sweeper.Sweep(ctx); err != nil {
			return fmt.Errorf("sweep the connections of before: %w", err)
		}
	}
	s.services, err = service.Open(ctx, service.Options{
		Store:       s.datapath.Maps(),
		NextHops:    s.tracker,
		Saved:       saved,
		Declared:    s.wish.Services,
		DefaultMode: s.wish.Mode,
		DrainAfter:  s.wish.DrainAfter,
		Own4:        d.Address4,
		Own6:        d.Address6,
		Admit:       capability.Here(s.options.Profile).Refuse,
		Log:         s.options.Log,
	})
	if err != nil {
		return err
	}
	s.step(fmt.Sprintf("services: %d in the maps", len(s.services.Services())))
	before, err := s.datapath.Maps().Config()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.datapath.Maps().PutConfig(before))
		}
	}()
	if err := s.configure(d); err != nil {
		return err
	}
	if err := s.datapath.Attach(); err != nil {
		return err
	}
	if err := s.services.Save(); err != nil {
		return err
	}
	s.warnOfOtherAddress(before, d)
	s.inBackground(background, "draining backends", s.services.Run)
	s.checks = s.newChecks(d)
	s.inBackground(background, "following the interface", func(ctx context.Context) error {
		return device.Watch(ctx, d, s.deviceChanged)
	})
	s.inBackground(background, "checking backends", s.checkBackends)
	s.events = events.New(events.Maps{Maps: s.datapath.Maps()}, datapath.Clock, s.options.Log)
	s.inBackground(background, "sending events", func(ctx context.Context) error {
		<-ctx.Done()
		return s.events.Close()
	})
	s.background.Go(func() {
		sweeper.Run(background, sweepEvery, func(inUse map[uint32]int) {
			s.sweeps.note(inUse)
			s.services.Swept(background, inUse)
		})
	})
	if s.metrics != nil {
		s.step("metrics: http://" + s.metricsListener.Addr().String() + "/metrics")
		s.inBackground(background, "serving the metrics", func(ctx context.Context) error { return s.metrics.Serve(ctx, s.metricsListener) })
	}
	for _, warning := range s.surroundings() {
		s.options.Log.Warn(warning)
	}
	if s.options.Follow != nil {
		s.background.Go(func() { s.options.Follow(background, s.reload) })
	}
	return nil
}

// leave undoes the loading when there was nothing before, else lets go of it.
func (s *Server) leave() error {
	if s.datapath.TookOver() {
		return s.datapath.Close()
	}
	return s.datapath.Unload()
}

// inBackground runs what must not end by itself: then the agent ends with its error.
func (s *Server) inBackground(ctx context.Context, what string, run func(context.Context) error) {
	s.background.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			s.stop(fmt.Errorf("%s: %w", what, err))
		}
	})
}

func (s *Server) endBackground() {
	s.cancelBackground()
	s.background.Wait()
}

// serve answers requests until ctx ends.
func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	server := http.Server{
		Handler:           api.Handler(s),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelWarn),
	}
	// Listeners of events wait for nothing else.
	server.RegisterOnShutdown(func() { _ = s.events.Close() })
	s.step("ready: API on " + s.options.Socket)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the API on %s: %w", s.options.Socket, err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	err := server.Shutdown(patience)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) || errors.Is(cause, errUnloaded) {
		cause = nil
	}
	return errors.Join(cause, err)
}

// configure writes the interface's facts and the defaults to the data path. An agent that
// was killed may have left events switched on, of which nobody hears: they are off.
func (s *Server) configure(d device.Device) error {
	s.mu.Lock()
	wish := s.wish
	s.mu.Unlock()
	c := datapath.Config{Address4: d.Address4, Address6: d.Address6, MTU: d.MTU, MAC: d.MAC}
	wish.on(&c)
	return s.datapath.Maps().PutConfig(c)
}

func (s *Server) warnOfOtherAddress(before datapath.Config, d device.Device) {
	if !s.datapath.TookOver() {
		return
	}
	for _, own := range []struct{ was, is netip.Addr }{{before.Address4, d.Address4}, {before.Address6, d.Address6}} {
		if own.was.IsValid() && !own.was.IsUnspecified() && own.was != own.is {
			is := "none"
			if own.is.IsValid() {
				is = own.is.String()
			}
			s.warn(fmt.Sprintf("the balancer's address was %s and is %s: SNAT connections of before are lost; --address keeps one", own.was, is))
		}
	}
}

// deviceChanged follows the interface's MTU and MAC.
func (s *Server) deviceChanged(d device.Device) {
	s.mu.Lock()
	s.device = d
	s.mu.Unlock()
	s.options.Log.Info("the interface changed", "interface", d.Name, "mtu", d.MTU, "mac", datapath.MAC(d.MAC).String())
	// The rest stays: somebody may listen to events.
	err := s.datapath.Maps().ChangeConfig(func(c *datapath.Config) {
		c.Address4, c.Address6, c.MTU, c.MAC = d.Address4, d.Address6, d.MTU, d.MAC
	})
	if err = errors.Join(err, s.checks.vip.follow(d)); err != nil {
		s.options.Log.Error("could not write what changed of the interface", "error", err)
	}
}

// surroundings are what is wrong on this machine now though the agent runs.
func (s *Server) surroundings() (warnings []string) {
	config, err := s.datapath.Maps().Config()
	if err != nil {
		return []string{err.Error()}
	}
	if warning := portOverlap(config.NATMin, config.NATMax); warning != "" {
		warnings = append(warnings, warning)
	}
	if a, err := s.datapath.Attachment(); err == nil && a.Mode == "generic" {
		warnings = append(warnings, s.options.Interface+" runs in XDP's generic mode, which is slow and sees packets above the MTU: switch GRO and LRO off")
	}
	return append(warnings, s.unchecked()...)
}

// step prints one step of the start and keeps it for Status.
func (s *Server) step(text string) {
	s.mu.Lock()
	s.steps = append(s.steps, text)
	s.mu.Unlock()
	// A reader that has gone does not stop the agent.
	_, _ = fmt.Fprintln(s.options.Out, text)
}

func (s *Server) warn(text string) {
	s.mu.Lock()
	s.warnings = append(s.warnings, text)
	s.mu.Unlock()
	s.options.Log.Warn(text)
}
