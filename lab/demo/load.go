package demo

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// load is connections that come and go from the client all the time: each is
// opened, asked once and closed.
type load struct {
	w      *walk
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu       sync.Mutex
	attempts []attempt
	changed  chan struct{} // closed and replaced with each attempt
}

// attempt is one connection of a load.
type attempt struct {
	port       uint16
	begin, end time.Time
	backend    string // who answered
	err        error
}

const (
	// loadWorkers open loadRate connections a second in sum, or as many as they can.
	loadWorkers = 4
	loadRate    = 200
	// loadLimit bounds waiting for more connections, or for something under load.
	loadLimit = 30 * time.Second
)

// startLoad begins; rate 0 is as fast as the workers can.
func (w *walk) startLoad(ctx context.Context, workers, rate int) *load {
	whole := ctx // what has begun comes to its end when the load is stopped
	ctx, cancel := context.WithCancel(ctx)
	l := &load{w: w, cancel: cancel, changed: make(chan struct{})}
	var tick <-chan time.Time
	if rate > 0 {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		tick = ticker.C
		context.AfterFunc(ctx, ticker.Stop)
	}
	for range workers {
		l.wait.Go(func() {
			for ctx.Err() == nil {
				if tick != nil {
					select {
					case <-tick:
					case <-ctx.Done():
						return
					}
				}
				l.attempt(whole)
			}
		})
	}
	return l
}

func (l *load) attempt(ctx context.Context) {
	a := attempt{begin: time.Now()}
	var got answer
	got, a.port, a.err = l.w.once(ctx, "/whoami")
	a.backend, a.end = got.backend, time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
	close(l.changed)
	l.changed = make(chan struct{})
}

// until waits for the attempts to fulfil a condition.
func (l *load) until(ctx context.Context, what string, condition func([]attempt) bool) error {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	for {
		l.mu.Lock()
		attempts, changed := l.attempts, l.changed
		l.mu.Unlock()
		if condition(attempts) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("under load, %s did not happen within %s: %w", what, loadLimit, context.Cause(ctx))
		}
	}
}

// more waits for so many connections more.
func (l *load) more(ctx context.Context, n int) error {
	l.mu.Lock()
	n += len(l.attempts)
	l.mu.Unlock()
	return l.until(ctx, fmt.Sprintf("a count of %d connections", n), func(a []attempt) bool { return len(a) >= n })
}

// stop ends the load and returns all its attempts.
func (l *load) stop() []attempt {
	l.cancel()
	l.wait.Wait()
	return l.attempts
}

// failed are the attempts that failed.
func failed(attempts []attempt) (list []attempt) {
	for _, a := range attempts {
		if a.err != nil {
			list = append(list, a)
		}
	}
	return list
}

// kept are connections that stay open, with a request every now and then.
type kept struct{ open []*conversation }

// keptCount is how many connections are kept open under load.
const keptCount = 12

// keep opens connections, some of them to the backend named.
func (w *walk) keep(ctx context.Context, backend string) (*kept, error) {
	k := &kept{}
	for i := range keptCount {
		var suits func(uint16) bool
		if backend != "" && i%4 == 0 {
			suits = func(port uint16) bool { return w.lookup(port) == backend }
		}
		c, _, err := w.converse(ctx, suits)
		if err == nil {
			k.open = append(k.open, c)
			_, err = c.get("/whoami", false)
		}
		if err != nil {
			k.close()
			return nil, err
		}
	}
	return k, nil
}

// ask asks on all of them, and returns for each backend how many go on and broke.
func (k *kept) ask() (on, broken map[string]int) {
	on, broken = map[string]int{}, map[string]int{}
	for _, c := range k.open {
		if _, err := c.get("/whoami", false); err != nil {
			broken[c.backend]++
		} else {
			on[c.backend]++
		}
	}
	return on, broken
}

func (k *kept) close() {
	for _, c := range k.open {
		c.close()
	}
}

// sum adds counts up.
func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}
