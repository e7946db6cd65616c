package conntrack

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"l4lab/agent/datapath"
)

// OrphanGrace is how long a way back may be without its flow. The LRU evicts
// the two halves one by one, and the data path restores either from the other:
// a flow that speaks again within this time goes on with the port that it had.
const OrphanGrace = 5 * time.Minute

// Sweeper removes expired flows and, with them, their ways back.
//
// The data path runs meanwhile, and there is no way to delete an entry only if
// it is still the one that was read. So each is read again right before it is
// deleted. What remains is a window of one system call, a few microseconds: a
// packet of the flow in it, after a silence as long as the flow's lifetime, is
// forgotten again. In DSR the next packet opens the flow anew, to the backend
// that the table names; in SNAT its way back may be gone as well, and the port
// is kept if the client's own was in use.
type Sweeper struct {
	table Table
	clock func() time.Duration
	log   *slog.Logger
	// orphans are the ways back without a flow, and since when.
	orphans map[datapath.Flow]time.Duration
}

// NewSweeper returns a sweeper; clock is datapath.Clock but in tests.
func NewSweeper(table Table, clock func() time.Duration, log *slog.Logger) *Sweeper {
	return &Sweeper{table: table, clock: clock, log: log, orphans: make(map[datapath.Flow]time.Duration)}
}

// Run sweeps at an interval until ctx ends, and after each sweep calls inUse with
// the addresses of the backends that living flows go to.
func (s *Sweeper) Run(ctx context.Context, every time.Duration, inUse func(map[netip.Addr]bool)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		swept, backends, err := s.Sweep()
		if err != nil {
			s.log.Error("the sweep of the connections failed", "error", err)
			continue
		}
		if swept.Expired+swept.Orphans > 0 {
			s.log.Debug("connections swept", "flows", swept.Flows, "expired", swept.Expired, "orphans", swept.Orphans)
		}
		inUse(backends)
	}
}

// Sweep goes through both tables once. It returns the backends that living flows go to.
func (s *Sweeper) Sweep() (Swept, map[netip.Addr]bool, error) {
	var swept Swept
	backends := make(map[netip.Addr]bool)
	config, err := s.table.Config()
	if err != nil {
		return swept, nil, err
	}
	now := s.clock()
	var dead []datapath.FlowConn // not deleted under the walk, which may then begin anew
	for f, err := range s.table.Conns() {
		if err != nil {
			return swept, nil, err
		}
		swept.Flows++
		if expired(f, config.Lifetimes, now) {
			dead = append(dead, f)
		} else {
			backends[f.Conn.Backend.Addr()] = true
		}
	}
	for _, f := range dead {
		gone, err := s.expire(f.Flow, config)
		if err != nil {
			return swept, nil, err
		}
		if gone {
			swept.Expired++
		} else {
			backends[f.Conn.Backend.Addr()] = true
		}
	}
	swept.Orphans, err = s.sweepOrphans(now)
	return swept, backends, err
}

// expire removes a flow if it is still expired.
func (s *Sweeper) expire(flow datapath.Flow, config datapath.Config) (bool, error) {
	now := s.clock()
	c, ok, err := s.table.Conn(flow)
	if err != nil || !ok {
		return ok, err
	}
	f := datapath.FlowConn{Flow: flow, Conn: c}
	if !expired(f, config.Lifetimes, now) {
		return false, nil
	}
	if err := s.table.DeleteConn(flow); err != nil {
		return false, err
	}
	if c.Mode != datapath.SNAT {
		return true, nil
	}
	return true, s.dropWayBack(wayBack(f, config), flow)
}

// dropWayBack removes the way back of a flow that is gone, unless the flow was
// opened anew meanwhile or another one has the port.
func (s *Sweeper) dropWayBack(reply, flow datapath.Flow) error {
	n, ok, err := s.table.NAT(reply)
	if err != nil || !ok || clientFlow(datapath.FlowNAT{Flow: reply, NAT: n}) != flow {
		return err
	}
	if _, reopened, err := s.table.Conn(flow); err != nil || reopened {
		return err
	}
	return s.table.DeleteNAT(reply)
}

// sweepOrphans removes the ways back that had no flow for OrphanGrace.
func (s *Sweeper) sweepOrphans(now time.Duration) (int, error) {
	orphans := make(map[datapath.Flow]time.Duration)
	var dead []datapath.FlowNAT
	for n, err := range s.table.NATs() {
		if err != nil {
			return 0, err
		}
		belongs, err := s.belongs(n)
		if err != nil {
			return 0, err
		}
		if belongs {
			continue
		}
		since, known := s.orphans[n.Flow]
		if !known {
			since = now
		}
		orphans[n.Flow] = since
		if now-since >= OrphanGrace {
			dead = append(dead, n)
		}
	}
	s.orphans = orphans
	removed := 0
	for _, n := range dead {
		if belongs, err := s.belongs(n); err != nil || belongs {
			if err != nil {
				return removed, err
			}
			continue
		}
		if err := s.table.DeleteNAT(n.Flow); err != nil {
			return removed, err
		}
		delete(s.orphans, n.Flow)
		removed++
	}
	return removed, nil
}

// belongs says whether the flow of a way back is remembered, with this way back.
func (s *Sweeper) belongs(n datapath.FlowNAT) (bool, error) {
	c, ok, err := s.table.Conn(clientFlow(n))
	if err != nil || !ok {
		return false, err
	}
	return c.Mode == datapath.SNAT && c.Backend == n.Flow.Source && c.NATPort == n.Flow.Dest.Port(), nil
}
