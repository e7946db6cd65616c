package health

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Checker checks backends. Its methods may be called concurrently.
type Checker struct {
	probers     [2]Prober // direct, through the VIP
	reporter    Reporter
	log         *slog.Logger
	concurrency int

	mu     sync.Mutex
	checks map[key]*check
	// wanted are the backends of all services, checked or not.
	wanted map[key]bool
	due    queue
	// epoch is when Run began; the zero time before.
	epoch time.Time
	// pending is what the reporter is still to be told, refused what it returned an
	// error for. No backend is in both.
	pending, refused map[key]bool
	// woken has a token when due's first may have changed, report when pending has.
	woken, report chan struct{}
}

// key is a backend of a service.
type key struct {
	service uint32
	backend netip.AddrPort
}

// settings are what SetServices can change of a check.
type settings struct {
	target            Target
	via               int // index into probers
	interval, timeout time.Duration
	rise, fall        int
	paused            bool
}

// check is the checks of one backend. When settings change, another one takes its
// place, so that a result which is under way does not count for what it did not ask.
type check struct {
	key
	settings
	status Status
	// lastPassed is the last conclusive result, of which status.Consecutive is the run.
	lastPassed bool
	due        time.Time
	place      int // in the queue
	// replaced ends the probe that runs, if one does.
	replaced context.CancelFunc
	over     bool
}

// New returns a checker that checks nothing yet.
func New(o Options) *Checker {
	c := &Checker{
		probers:     [2]Prober{o.Direct, o.VIP},
		reporter:    o.Reporter,
		log:         o.Log,
		concurrency: orDefault(o.Concurrency, defaultConcurrency),
		checks:      make(map[key]*check),
		pending:     make(map[key]bool),
		refused:     make(map[key]bool),
		woken:       make(chan struct{}, 1),
		report:      make(chan struct{}, 1),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.probers[direct] == nil {
		c.probers[direct] = Direct{}
	}
	if c.probers[throughVIP] == nil {
		c.probers[throughVIP] = noProber{}
	}
	return c
}

const (
	direct     = 0
	throughVIP = 1
)

// noProber stands for the one that a machine does not have.
type noProber struct{}

func (noProber) Probe(context.Context, Target) error {
	return fmt.Errorf("%w: this agent makes none through the VIP", ErrInconclusive)
}

// Run checks until ctx ends. When it returns, nothing of it runs any more. It
// is called once.
func (c *Checker) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { c.reportChanges(ctx) })
	c.start(time.Now())
	slots := make(chan struct{}, c.concurrency)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case slots <- struct{}{}:
		}
		next, err := c.next(ctx)
		if err != nil {
			return err
		}
		running.Go(func() {
			defer func() { <-slots }()
			c.run(ctx, next)
		})
	}
}

// start gives the checks their times: those that were set long before Run are
// not all due at once.
func (c *Checker) start(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch = now
	for _, k := range c.checks {
		c.scheduleLocked(k, now)
	}
}

// scheduleLocked queues a check for its next time, once Run has begun.
func (c *Checker) scheduleLocked(k *check, now time.Time) {
	if c.epoch.IsZero() || k.paused || k.over {
		return
	}
	k.due = after(now, c.epoch, k.interval, k.phase(k.interval))
	heap.Push(&c.due, k)
	if k.place == 0 {
		signal(c.woken)
	}
}

// next waits for the first check that is due and takes it.
func (c *Checker) next(ctx context.Context) (*check, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		c.mu.Lock()
		wait := time.Hour // with nothing to do, woken ends it
		if len(c.due) > 0 {
			wait = time.Until(c.due[0].due)
		}
		if wait <= 0 {
			k := heap.Pop(&c.due).(*check)
			c.mu.Unlock()
			return k, nil
		}
		c.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.woken:
		case <-timer.C:
		}
	}
}

// run makes one check and queues the next.
func (c *Checker) run(ctx context.Context, k *check) {
	probing, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	c.mu.Lock()
	if k.over {
		c.mu.Unlock()
		return
	}
	k.replaced = cancel
	begin := time.Now()
	if begin.Sub(k.due) > k.interval/10 {
		k.status.Late++
	}
	c.mu.Unlock()

	err := c.probers[k.via].Probe(probing, k.target)

	c.mu.Lock()
	defer c.mu.Unlock()
	k.replaced = nil
	if k.over || ctx.Err() != nil {
		return
	}
	end := time.Now()
	k.status.CheckedAt, k.status.Duration = begin, end.Sub(begin)
	c.recordLocked(k, err)
	c.scheduleLocked(k, end)
}

// recordLocked counts a result and changes the backend's health when it is time.
func (c *Checker) recordLocked(k *check, err error) {
	s := &k.status
	if errors.Is(err, ErrInconclusive) {
		if s.Result != Inconclusive {
			c.log.Warn("a health check could not be made", "service", k.service, "backend", k.backend, "error", err)
		}
		s.Result, s.Error = Inconclusive, err.Error()
		s.Unclear++
		return
	}
	passed := err == nil
	if s.Consecutive == 0 || passed != k.lastPassed {
		s.Consecutive = 0
		k.lastPassed = passed
	}
	s.Consecutive++
	needed := k.rise
	if passed {
		s.Result, s.Error = Passed, ""
		s.Passes++
	} else {
		s.Result, s.Error = Failed, err.Error()
		s.Failures++
		needed = k.fall
	}
	if passed == s.Healthy || s.Consecutive < needed {
		return
	}
	s.Healthy = passed
	if passed {
		c.log.Info("backend is healthy again", "service", k.service, "backend", k.backend, "passed", s.Consecutive)
	} else {
		c.log.Warn("backend quarantined", "service", k.service, "backend", k.backend, "failed", s.Consecutive, "error", err)
	}
	c.tellLocked(k.key, passed)
}

// signal leaves a token where there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
