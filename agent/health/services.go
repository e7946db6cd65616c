package health

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"l4lab/agent/api"
)

// SetServices says what is to be checked from now on. Backends that stay keep
// their health and their results in a row; the latter begin anew when the check asks
// something else. A backend whose service has lost its check is released, if
// it was quarantined.
//
// Backend.Health is what the caller believes. Where the Checker knows better it
// reports it again, so that what was lost on the way, or in a restart, comes right.
//
// The error names the services whose check Validate refuses; they are not
// checked, and their backends' health stays what it is.
func (c *Checker) SetServices(services []api.Service) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.checks
	c.checks = make(map[key]*check, len(before))
	c.wanted = make(map[key]bool, len(before))
	var faults []error
	for _, s := range services {
		if err := Validate(s); err != nil {
			faults = append(faults, fmt.Errorf("service %d: %w", s.ID, err))
			continue
		}
		for _, b := range s.Backends {
			k := key{s.ID, b.Address}
			c.wanted[k] = true
			c.setLocked(k, before[k], s, b)
		}
	}
	for k, old := range before {
		if c.checks[k] != old {
			c.endLocked(old)
		}
	}
	gone := func(k key, _ bool) bool { return !c.wanted[k] }
	maps.DeleteFunc(c.pending, gone)
	maps.DeleteFunc(c.refused, gone)
	return errors.Join(faults...)
}

// setLocked brings one backend where its service wants it; old is its check
// until now, or nil.
func (c *Checker) setLocked(k key, old *check, s api.Service, b api.Backend) {
	believed := b.Health != quarantined
	if s.HealthCheck == nil {
		if !believed || old != nil && !old.status.Healthy {
			c.tellLocked(k, true)
		}
		return
	}
	want := settingsOf(s, b)
	now := old
	if old == nil || old.settings != want {
		now = successor(k, old, want)
		if old == nil {
			now.status.Healthy = believed
		}
		c.scheduleLocked(now, time.Now())
	}
	c.checks[k] = now
	// What is pending stays so although it may be believed already: the belief may be
	// older than a report that is under way.
	if now.status.Healthy != believed {
		c.tellLocked(k, now.status.Healthy)
	}
}

// successor is the check that takes over from old, which may be nil.
func successor(k key, old *check, want settings) *check {
	n := &check{key: k, settings: want, place: notQueued}
	if old != nil {
		n.status, n.lastPassed = old.status, old.lastPassed
		if old.target != want.target || old.via != want.via || old.paused {
			n.status.Consecutive = 0
		}
	}
	n.status.Service, n.status.Backend, n.status.Paused = k.service, k.backend, want.paused
	return n
}

// endLocked makes sure that nothing of a check counts any more.
func (c *Checker) endLocked(k *check) {
	k.over = true
	c.due.remove(k)
	if k.replaced != nil {
		k.replaced()
	}
}

func settingsOf(s api.Service, b api.Backend) settings {
	h := s.HealthCheck
	want := settings{
		target:   targetOf(s, b.Address),
		interval: intervalOf(h),
		timeout:  timeoutOf(h),
		rise:     orDefault(h.Rise, defaultRise),
		fall:     orDefault(h.Fall, defaultFall),
		paused:   b.State == stateMaintenance,
	}
	if h.Via == viaVIP && s.Mode != modeSNAT {
		want.via = throughVIP
	}
	return want
}

// Snapshot returns what is known of every backend that is checked, ordered by
// service and backend.
func (c *Checker) Snapshot() []Status {
	c.mu.Lock()
	all := make([]Status, 0, len(c.checks))
	for k := range maps.Values(c.checks) {
		all = append(all, k.status)
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Backend.Compare(b.Backend))
	})
	return all
}
