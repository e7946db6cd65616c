// Package health has the agent check the backends of its services and say which
// are to be quarantined: no new flows go to those until they answer again.
//
// A Checker is told the services (SetServices), asks each backend at the
// service's interval through a Prober, and tells a Reporter what changed: after
// Fall failures in a row a backend is quarantined, after Rise successes in a
// row it is back.
//
//   - A backend is healthy until it has failed: a service that was just made serves
//     at once. One that comes with the Health "quarantined" begins so, which is how an agent
//     that takes over keeps the quarantine of the one before.
//   - A backend in maintenance is not asked, and its health stays what it was. A
//     draining one is asked: its flows still live there.
//   - The Checker reports every backend as it is, the last one too. That a service
//     without a healthy backend goes on with its sick ones is the policy of
//     Eligible, which whoever fills the tables applies.
//   - A check that says nothing of the backend, such as one for which this machine
//     had no socket (ErrInconclusive), counts neither way.
//   - The checks of a service are spread over its interval and stay where they are
//     in it (schedule.go): they do not come in bursts.
//
// Checks are direct, to the backend's own address, or through the VIP, which
// package health/path does: encapsulated, as the data path would send a client's
// packet. In SNAT a client's packets go to the backend's own address, so there
// the two are the same, and checks are direct.
package health

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// ErrInconclusive marks the errors of a Prober that say nothing of the backend.
var ErrInconclusive = errors.New("the check could not be made")

// Prober makes one check.
type Prober interface {
	// Probe returns nil when the backend is well, and else what was attempted and
	// what came back. It returns when ctx, which has a deadline, ends.
	Probe(ctx context.Context, t Target) error
}

// Reporter takes the health of backends: the agent's services, or a fake.
type Reporter interface {
	// SetHealth takes the changes of one service, ordered by backend. They come
	// together because each costs a table. It must do no harm to say again what was
	// said. What returns an error is said again later, unless the service has gone.
	// It is never called from within SetServices.
	SetHealth(ctx context.Context, service uint32, changes []Change) error
}

// Change is one backend's new health.
type Change struct {
	Backend netip.AddrPort
	Healthy bool
}

// Options are what a Checker needs.
type Options struct {
	// Direct makes the checks of backends' own addresses; nil means a Direct.
	Direct Prober
	// VIP makes those through the VIP. Nil leaves them inconclusive.
	VIP      Prober
	Reporter Reporter
	// Log hears of quarantines and returns; nil means nobody does.
	Log *slog.Logger
	// Concurrency is how many checks may run at a time; 0 means 256. When as many wait
	// for their timeouts, others begin late, each in its turn.
	Concurrency int
}

const defaultConcurrency = 256

// Result is how the last check of a backend ended.
type Result string

// The results of a check; "" means that there was none yet.
const (
	Passed       Result = "passed"
	Failed       Result = "failed"
	Inconclusive Result = "inconclusive"
)

// Status is what is known of one backend that is checked.
type Status struct {
	Service uint32         `json:"service"`
	Backend netip.AddrPort `json:"backend"`
	Healthy bool           `json:"healthy"`
	// Paused: it is in maintenance and not asked.
	Paused bool   `json:"paused,omitempty"`
	Result Result `json:"result"`
	// Error is the last check's, "" if it passed.
	Error string `json:"error,omitempty"`
	// Consecutive counts the results in a row that are as the last conclusive one.
	Consecutive int `json:"consecutive"`
	// CheckedAt is when the last check began, Duration how long it took.
	CheckedAt time.Time     `json:"checkedAt"`
	Duration  time.Duration `json:"duration"`
	// Passes, Failures and Unclear count results since the backend was first seen; Late counts
	// checks that began more than a tenth of the interval after their time.
	Passes   uint64 `json:"passes"`
	Failures uint64 `json:"failures"`
	Unclear  uint64 `json:"unclear"`
	Late     uint64 `json:"late"`
}
