package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/api"
)

var (
	be1 = netip.MustParseAddrPort("20.1.1.10:80")
	be2 = netip.MustParseAddrPort("20.1.1.20:80")
	vip = netip.MustParseAddrPort("40.1.1.1:80")
)

var errSick = errors.New("sick")

// fakeProber answers for backends, at once or after a time.
type fakeProber struct {
	mu      sync.Mutex
	errs    map[netip.AddrPort]error
	takes   time.Duration
	targets []Target
	times   map[netip.AddrPort][]time.Time
	running int
	most    int
}

func newFakeProber() *fakeProber {
	return &fakeProber{errs: make(map[netip.AddrPort]error), times: make(map[netip.AddrPort][]time.Time)}
}

func (f *fakeProber) Probe(ctx context.Context, t Target) error {
	f.mu.Lock()
	f.targets = append(f.targets, t)
	f.times[t.Backend] = append(f.times[t.Backend], time.Now())
	f.running++
	f.most = max(f.most, f.running)
	takes := f.takes
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	if takes > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(takes):
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs[t.Backend]
}

func (f *fakeProber) set(b netip.AddrPort, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[b] = err
}

func (f *fakeProber) slow(takes time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes = takes
}

func (f *fakeProber) count(b netip.AddrPort) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.times[b])
}

// fakeReporter notes what it is told.
type fakeReporter struct {
	mu    sync.Mutex
	told  []string
	fails int
	// full is a service whose changes are never taken.
	full uint32
	// takes is how long a call lasts.
	takes time.Duration
}

func (f *fakeReporter) SetHealth(ctx context.Context, service uint32, changes []Change) error {
	f.mu.Lock()
	takes := f.takes
	f.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails > 0 || service == f.full {
		f.fails--
		return errors.New("map full")
	}
	text := fmt.Sprint(service)
	for _, c := range changes {
		text += fmt.Sprintf(" %s=%t", c.Backend.Addr(), c.Healthy)
	}
	f.told = append(f.told, text)
	return nil
}

// take returns what it was told since the last call.
func (f *fakeReporter) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	told := f.told
	f.told = nil
	return told
}

// bench is a checker at work in a bubble of synctest.
type bench struct {
	*Checker
	t        *testing.T
	prober   *fakeProber
	vip      *fakeProber
	reporter *fakeReporter
	stop     context.CancelFunc
}

// inBubble runs a test with a checker whose time is synctest's. That the bubble ends shows
// that no goroutine is left: synctest fails a test that leaves some.
func inBubble(t *testing.T, concurrency int, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, prober: newFakeProber(), vip: newFakeProber(), reporter: &fakeReporter{}}
		b.Checker = New(Options{Direct: b.prober, VIP: b.vip, Reporter: b.reporter,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Concurrency: concurrency})
		ctx, cancel := context.WithCancel(t.Context())
		b.stop = cancel
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		synctest.Wait()
		test(b)
		cancel()
		begin := time.Now()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("Run ended %s after its context", waited)
		}
	})
}

func (b *bench) set(services ...api.Service) {
	b.t.Helper()
	if err := b.SetServices(services); err != nil {
		b.t.Fatal(err)
	}
}

// pass lets n intervals of the default length go by.
func (b *bench) pass(n int) {
	time.Sleep(time.Duration(n) * defaultInterval)
	synctest.Wait()
}

// expect compares what the reporter was told.
func (b *bench) expect(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.reporter.take(); fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("told was %q, want %q", got, want)
	}
}

// status returns what the snapshot has of a backend.
func (b *bench) status(backend netip.AddrPort) Status {
	b.t.Helper()
	for _, s := range b.Snapshot() {
		if s.Backend == backend {
			return s
		}
	}
	b.t.Fatalf("%s is not in the snapshot", backend)
	return Status{}
}

func svc(id uint32, backends ...netip.AddrPort) api.Service {
	s := api.Service{ID: id, Frontend: vip, Protocol: "tcp", Mode: "dsr", HealthCheck: &api.HealthCheck{Type: "tcp"}}
	for _, b := range backends {
		s.Backends = append(s.Backends, api.Backend{Address: b})
	}
	return s
}

var addrPort = netip.MustParseAddrPort
