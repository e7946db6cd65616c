package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// memory is how long the past is kept: longer than any connection is judged back.
const memory = time.Minute

// Seen is one thing that a client saw of a connection, between two times: a
// new one that was answered or not, or an established one that was asked again.
// An established one that fails is judged from the last time that it was well: what broke
// it may have been in between.
type Seen struct {
	Service  uint32
	From, To time.Duration
	// New is a connection that was just opened.
	New bool
	// Local is the client's address and port, to find it elsewhere.
	Local string
	// Backend is who answered, or who did before; "" when nobody has.
	Backend string
	// Mode is how the backend was reached, "" where its answer does not show it.
	Mode string
	// Err is why it failed, nil when it did not.
	Err error
	// Wrong is what no time allows, such as another backend's answer.
	Wrong string
}

// Timeline is what was allowed when. Its methods may be called concurrently.
type Timeline struct {
	choose Choose

	mu     sync.Mutex
	epochs []epoch
}

// epoch begins at a time and lasts until the next begins.
type epoch struct {
	from    time.Duration
	allowed Allowance
	settled bool
}

// NewTimeline begins at time 0. With choose, a new connection may fail only where
// the backend that it was given to has trouble; with nil, where any has.
func NewTimeline(a Allowance, choose Choose) *Timeline {
	return &Timeline{choose: choose, epochs: []epoch{{allowed: a, settled: true}}}
}

// Begin notes that an action begins; it must be told before anything is done.
func (t *Timeline) Begin(now time.Duration, a Allowance) { t.add(epoch{now, a, false}) }

// Settle notes that the action holds.
func (t *Timeline) Settle(now time.Duration, a Allowance) { t.add(epoch{now, a, true}) }

func (t *Timeline) add(e epoch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.epochs) > 1 && t.epochs[1].from < e.from-memory {
		t.epochs = t.epochs[1:]
	}
	t.epochs = append(t.epochs, e)
}

// Has says whether a service is there, and surely so, now.
func (t *Timeline) Has(service uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epochs[len(t.epochs)-1].allowed[service].BreakAll == ""
}

// Judge returns what is wrong with what was seen, "" when nothing is: some moment
// between its two times must allow it.
func (t *Timeline) Judge(s Seen) string {
	if s.Wrong != "" {
		return s.Wrong
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var last Allowed
	for i, e := range t.epochs {
		ended := i+1 < len(t.epochs) && t.epochs[i+1].from < s.From
		if ended || e.from > s.To {
			continue
		}
		last = e.allowed[s.Service]
		if last.allows(s, t.choose) {
			return ""
		}
	}
	return last.complaint(s, t.choose)
}

func (of Allowed) allows(s Seen, choose Choose) bool {
	switch {
	case !s.New && s.Err == nil:
		return true
	case !s.New:
		return of.BreakAll != "" || of.Break[s.Backend] != ""
	case s.Err != nil && of.RefuseAll != "":
		return true
	case s.Err != nil:
		way := wayOf(s.Err)
		return slices.ContainsFunc(of.given(s.Service, s.Local, choose), func(name string) bool { return of.Refuse[name].Ways[way] })
	}
	return of.New[s.Backend] && (s.Mode == "" || of.Modes[s.Mode])
}

func (of Allowed) complaint(s Seen, choose Choose) string {
	switch {
	case !s.New:
		return fmt.Sprintf("an established connection to %s failed, and nothing was done to it: %v", s.Backend, s.Err)
	case s.Err != nil:
		return of.complaintOfFailure(s, choose)
	case !of.New[s.Backend]:
		return fmt.Sprintf("%s answered a new connection; only these may: %s", s.Backend, names(of.New))
	}
	return fmt.Sprintf("%s was reached by %s; new connections take %s", s.Backend, s.Mode, names(of.Modes))
}

func (of Allowed) complaintOfFailure(s Seen, choose Choose) string {
	given := of.given(s.Service, s.Local, choose)
	var troubles []string
	for _, name := range given {
		if r, bad := of.Refuse[name]; bad {
			troubles = append(troubles, name+" "+r.Why)
		}
	}
	to := strings.Join(given, ", ")
	if len(troubles) == 0 {
		return fmt.Sprintf("a new connection failed, and all that it could be given to were well (%s): %v", to, s.Err)
	}
	return fmt.Sprintf("a new connection failed otherwise than it may (%s): it could be given to %s, and %s: %v",
		wayOf(s.Err), to, strings.Join(troubles, ", "), s.Err)
}
