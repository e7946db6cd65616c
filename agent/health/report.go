package health

import (
	"context"
	"maps"
	"slices"
	"time"
)

// How long a report that failed waits before it is made again: doubled each time.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// tellLocked has the reporter told. Of several changes of a backend that it has
// not heard of yet, it hears the last.
func (c *Checker) tellLocked(k key, healthy bool) {
	delete(c.refused, k)
	c.pending[k] = healthy
	signal(c.report)
}

// reportChanges tells the reporter until ctx ends. It is one goroutine, so
// what is said last is what holds. What changes during a report is gathered for
// the next, and what was refused does not keep the rest waiting.
func (c *Checker) reportChanges(ctx context.Context) {
	wait := firstRetry
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.report:
		case <-again:
			again = nil
			c.takeRefusedUp()
		}
		switch left := c.reportPending(ctx); {
		case left == 0:
			wait, again = firstRetry, nil
		case again == nil:
			again = time.After(wait)
			wait = min(2*wait, lastRetry)
		}
	}
}

// takeRefusedUp has what was refused said again. SetServices and tellLocked have
// taken out what is void.
func (c *Checker) takeRefusedUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, healthy := range c.refused {
		c.pending[k] = healthy
	}
	clear(c.refused)
}

// reportPending tells all that is pending, and returns how much is refused by now.
func (c *Checker) reportPending(ctx context.Context) (left int) {
	c.mu.Lock()
	services := make(map[uint32][]Change)
	for k, healthy := range c.pending {
		services[k.service] = append(services[k.service], Change{k.backend, healthy})
	}
	clear(c.pending)
	c.mu.Unlock()
	for _, service := range slices.Sorted(maps.Keys(services)) {
		changes := services[service]
		slices.SortFunc(changes, func(a, b Change) int { return a.Backend.Compare(b.Backend) })
		if ctx.Err() != nil {
			break
		}
		if err := c.reporter.SetHealth(ctx, service, changes); err != nil && ctx.Err() == nil {
			c.log.Error("could not set the health of backends; trying again", "service", service, "error", err)
			c.keepRefused(service, changes)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.refused)
}

// keepRefused notes what was not taken, except what has changed or gone meanwhile.
func (c *Checker) keepRefused(service uint32, changes []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range changes {
		k := key{service, change.Backend}
		if _, newer := c.pending[k]; !newer && c.wanted[k] {
			c.refused[k] = change.Healthy
		}
	}
}
