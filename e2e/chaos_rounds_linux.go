package e2e

import (
	"fmt"
	"sync"
	"time"
)

// newPerRound is how many new connections each service gets in a round.
const newPerRound = 7

// rounds tell when clients have seen how the lab is: once every kept connection was
// asked, and new ones were opened. Its methods may be called concurrently.
type rounds struct {
	mu     sync.Mutex
	since  time.Duration
	opened map[uint32]int
	kept   []*keeper
}

// keeper is a client that has one connection after the other, and asks on it.
type keeper struct {
	rounds  *rounds
	service uint32
	// asking is when its last question began, or its last attempt to connect; waits
	// says that it is not answered.
	asking time.Duration
	waits  bool
}

// begin begins a round.
func (r *rounds) begin(now time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since, r.opened = now, map[uint32]int{}
}

// add adds a client of a service.
func (r *rounds) add(service uint32) *keeper {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := &keeper{rounds: r, service: service}
	r.kept = append(r.kept, k)
	return k
}

// opens notes that a connection, opened at a time, was answered or failed.
func (r *rounds) opens(service uint32, at time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at >= r.since && r.opened != nil {
		r.opened[service]++
	}
}

// asks notes that a question begins; the function returned, that it has ended.
func (k *keeper) asks(now time.Duration) (ended func()) {
	k.rounds.mu.Lock()
	defer k.rounds.mu.Unlock()
	k.asking, k.waits = now, true
	return func() {
		k.rounds.mu.Lock()
		defer k.rounds.mu.Unlock()
		k.waits = false
	}
}

// missing says what the round lacks of the services that are there. Who waits for
// a backend's answer since before it began, most likely for one that died, is not waited for.
func (r *rounds) missing(there func(service uint32) bool) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	services := map[uint32]bool{}
	for i, k := range r.kept {
		if !there(k.service) {
			continue
		}
		services[k.service] = true
		if since := k.asking >= r.since; since == k.waits {
			return fmt.Sprintf("the %d. kept connection, of service %d, is not asked yet", i+1, k.service)
		}
	}
	for service := range services {
		if n := r.opened[service]; n < newPerRound {
			return fmt.Sprintf("service %d got %d new connections", service, n)
		}
	}
	return ""
}
