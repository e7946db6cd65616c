package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"l4lab/agent/health"
)

// ErrNotLoopback: whoever reaches the address would read the metrics.
var ErrNotLoopback = errors.New("not a loopback address")

// ErrNoAddress: it is none to listen on.
var ErrNoAddress = errors.New("is no ADDRESS:PORT")

// Listen listens on ADDRESS:PORT, which must be of this machine alone unless public.
// There is neither encryption nor a password.
func Listen(address string, public bool) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q %w, such as 127.0.0.1:9100", address, ErrNoAddress)
	}
	if !public && !at.Addr().Unmap().IsLoopback() {
		return nil, fmt.Errorf("%s: %w: whoever reaches it may read the metrics; --metrics-public permits that", address, ErrNotLoopback)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for scrapes: %w", err)
	}
	return listener, nil
}

// Server answers scrapes on GET /metrics.
type Server struct {
	registry  *prometheus.Registry
	durations *prometheus.HistogramVec
	log       *slog.Logger
}

// New returns a server of the figures, of the process and of Go's runtime.
func New(read func() (Figures, error), log *slog.Logger) (*Server, error) {
	s := &Server{
		registry: prometheus.NewRegistry(),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "health_check_duration_seconds", Help: "How long checks took, by way and result.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // to 8 s
		}, []string{"via", "result"}),
		log: log,
	}
	for _, c := range []prometheus.Collector{
		NewCollector(read), s.durations,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := s.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return s, nil
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		ErrorLog: errorLog, ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4, Timeout: 30 * time.Second,
	}))
	server := http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, ErrorLog: errorLog}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve the metrics on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	// A scrape that runs may be waiting for what ends only after this.
	return errors.Join(server.Close(), ctx.Err())
}

// Timed is a prober whose checks' durations are shown, under the name of its way.
func (s *Server) Timed(prober health.Prober, via string) health.Prober {
	return timed{prober, via, s.durations}
}

type timed struct {
	health.Prober
	via       string
	durations *prometheus.HistogramVec
}

// Probe is health.Prober's.
func (t timed) Probe(ctx context.Context, target health.Target) error {
	begin := time.Now()
	err := t.Prober.Probe(ctx, target)
	result := "passed"
	switch {
	case errors.Is(err, health.ErrInconclusive):
		result = "inconclusive"
	case err != nil:
		result = "failed"
	}
	t.durations.WithLabelValues(t.via, result).Observe(time.Since(begin).Seconds())
	return err
}
