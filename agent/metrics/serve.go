package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"l4lab/agent/health"
	"l4lab/agent/metrics/exposition"
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

// The bounds of scraping.
const (
	scrapesAtOnce = 4
	scrapeLimit   = 30 * time.Second
)

// Server answers scrapes on GET /metrics.
type Server struct {
	read      func() (Figures, error)
	durations *exposition.Distribution
	slots     chan struct{}
	log       *slog.Logger
}

// New returns a server of the figures, of the process and of Go's runtime.
func New(read func() (Figures, error), log *slog.Logger) *Server {
	var bounds []float64
	for bound := 0.0005; bound < 10; bound *= 2 { // to 8 s
		bounds = append(bounds, bound)
	}
	return &Server{
		read: read,
		durations: exposition.NewDistribution(namespace+"_health_check_duration_seconds", "How long checks took, by way and result.",
			bounds, "via", "result"),
		slots: make(chan struct{}, scrapesAtOnce),
		log:   log,
	}
}

// page is what a scrape shows.
func (s *Server) page() (*exposition.Page, error) {
	figures, err := s.read()
	if err != nil {
		return nil, err
	}
	page := &exposition.Page{}
	show(figures, page)
	s.durations.Show(page)
	goRuntime(page)
	process{page}.show()
	return page, nil
}

// ServeHTTP answers one scrape.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		http.Error(w, fmt.Sprintf("%d scrapes are being answered already; try again later", scrapesAtOnce), http.StatusServiceUnavailable)
		return
	}
	page, err := s.page()
	var text bytes.Buffer
	if err == nil {
		err = page.Write(&text)
	}
	if err != nil {
		s.log.Warn("a scrape failed", "error", err)
		http.Error(w, "the metrics cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", exposition.ContentType)
	if err := send(w, r, text.Bytes()); err != nil {
		s.log.Debug("a scrape was not taken", "error", err)
	}
}

// send compresses for those who ask for it, as Prometheus does.
func send(w http.ResponseWriter, r *http.Request, text []byte) error {
	w.Header().Set("Vary", "Accept-Encoding")
	if !acceptsGzip(r.Header.Get("Accept-Encoding")) {
		_, err := w.Write(text)
		return err
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	_, err := packed.Write(text)
	return errors.Join(err, packed.Close())
}

// acceptsGzip reads an Accept-Encoding (RFC 9110, 12.5.3): "gzip" with any weight but 0.
func acceptsGzip(header string) bool {
	for offer := range strings.SplitSeq(header, ",") {
		coding, weight, _ := strings.Cut(offer, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		value, weighed := strings.CutPrefix(strings.TrimSpace(weight), "q=")
		q, err := strconv.ParseFloat(value, 64)
		return !weighed || err == nil && q > 0
	}
	return false
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", http.TimeoutHandler(s, scrapeLimit, fmt.Sprintf("the metrics could not be read within %s", scrapeLimit)))
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
	durations *exposition.Distribution
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
	// The labels are as many as they were declared.
	_ = t.durations.Observe(time.Since(begin).Seconds(), t.via, result)
	return err
}
