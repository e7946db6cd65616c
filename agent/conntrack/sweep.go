package conntrack

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"l4lab/agent/datapath"
)

// OrphanGrace is how long a way back may be without its flow. The LRU evicts
// the two halves one by one, and the data path restores either from the other:
// a flow that speaks again within this time goes on with the port that it had.
const OrphanGrace = 5 * time.Minute

// Sweeper removes expired flows and, with them, their ways back; and what has
// a backend that is not there any more, which the data path takes for unknown.
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

// Run sweeps at an interval until ctx ends, and after each sweep calls swept with
// the number of flows that each backend id has.
func (s *Sweeper) Run(ctx context.Context, every time.Duration, swept func(inUse map[uint32]int)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		found, err := s.Sweep(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("the sweep of the connections failed", "error", err)
			continue
		}
		if found.Expired+found.Cut+found.Orphans > 0 {
			s.log.Debug("connections swept", "flows", found.Flows, "expired", found.Expired, "cut", found.Cut, "orphans", found.Orphans)
		}
		swept(found.InUse)
	}
}

// sweep is one walk through the tables, and what it goes by.
type sweep struct {
	*Sweeper
	config   datapath.Config
	backends map[uint32]datapath.Backend
	now      time.Duration
	found    Swept
}

// Sweep goes through all tables once, which takes seconds where there are millions of flows; it ends with ctx.
func (s *Sweeper) Sweep(ctx context.Context) (Swept, error) {
	config, err := s.table.Config()
	if err != nil {
		return Swept{}, err
	}
	w := sweep{Sweeper: s, config: config, now: s.clock(), found: Swept{InUse: make(map[uint32]int)}}
	if w.backends, err = s.table.Backends(); err != nil {
		return Swept{}, err
	}
	if err := w.flows(ctx); err != nil {
		return Swept{}, err
	}
	if err := w.waysBack(ctx); err != nil {
		return Swept{}, err
	}
	return w.found, nil
}

// flows removes the flows that are dead. It does not do so under the walk, which may then
// begin anew.
func (w *sweep) flows(ctx context.Context) error {
	var dead, homeless []datapath.FlowConn
	for f, err := range w.table.Conns() {
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
		w.found.Flows++
		if _, there := w.backends[f.Conn.BackendID]; !there {
			homeless = append(homeless, f)
		} else if expired(f, w.config.Lifetimes, w.now) {
			dead = append(dead, f)
		} else {
			w.found.InUse[f.Conn.BackendID]++
		}
	}
	if len(homeless) > 0 {
		// A backend that came meanwhile is there now; one that is not has gone.
		now, err := w.table.Backends()
		if err != nil {
			return err
		}
		w.backends = now
	}
	for _, f := range homeless {
		cut, err := w.cut(f.Flow)
		if err != nil {
			return err
		}
		if cut {
			w.found.Cut++
		} else {
			w.found.InUse[f.Conn.BackendID]++
		}
	}
	for _, f := range dead {
		if err := ctx.Err(); err != nil {
			return err
		}
		gone, err := w.expire(f.Flow)
		if err != nil {
			return err
		}
		if gone {
			w.found.Expired++
		} else {
			w.found.InUse[f.Conn.BackendID]++
		}
	}
	return nil
}

// cut removes a flow if its backend is still not there.
func (w *sweep) cut(flow datapath.Flow) (bool, error) {
	c, ok, err := w.table.Conn(flow)
	if err != nil || !ok {
		return !ok, err
	}
	if _, there := w.backends[c.BackendID]; there {
		return false, nil
	}
	return true, w.table.DeleteConn(flow)
}

// expire removes a flow if it is still expired.
func (w *sweep) expire(flow datapath.Flow) (bool, error) {
	now := w.clock()
	c, ok, err := w.table.Conn(flow)
	if err != nil || !ok {
		return !ok, err
	}
	f := datapath.FlowConn{Flow: flow, Conn: c}
	if !expired(f, w.config.Lifetimes, now) {
		return false, nil
	}
	if err := w.table.DeleteConn(flow); err != nil {
		return false, err
	}
	b, there := w.backends[c.BackendID]
	if c.Mode != datapath.SNAT || !there {
		return true, nil
	}
	return true, w.dropWayBack(wayBack(f, b, w.config), flow)
}

// dropWayBack removes the way back of a flow that is gone, unless the flow was
// opened anew meanwhile or another one has the port.
func (w *sweep) dropWayBack(reply, flow datapath.Flow) error {
	n, ok, err := w.table.NAT(reply)
	if err != nil || !ok || clientFlow(datapath.FlowNAT{Flow: reply, NAT: n}) != flow {
		return err
	}
	if _, reopened, err := w.table.Conn(flow); err != nil || reopened {
		return err
	}
	return w.table.DeleteNAT(reply)
}

// waysBack removes the ways back that had no flow for OrphanGrace, and at once
// those to backends that are not there.
func (w *sweep) waysBack(ctx context.Context) error {
	orphans := make(map[datapath.Flow]time.Duration)
	var dead, homeless []datapath.FlowNAT
	for n, err := range w.table.NATs() {
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
		if _, there := w.backends[n.NAT.BackendID]; !there {
			homeless = append(homeless, n)
			continue
		}
		belongs, err := w.belongs(n)
		if err != nil {
			return err
		}
		if belongs {
			continue
		}
		since, known := w.orphans[n.Flow]
		if !known {
			since = w.now
		}
		orphans[n.Flow] = since
		if w.now-since >= OrphanGrace {
			dead = append(dead, n)
		} else {
			w.found.InUse[n.NAT.BackendID]++ // its next packet restores the flow
		}
	}
	w.Sweeper.orphans = orphans
	for _, n := range dead {
		belongs, err := w.belongs(n)
		if err != nil {
			return err
		}
		if belongs {
			continue
		}
		if err := w.removeOrphan(n); err != nil {
			return err
		}
	}
	return w.cutWaysBack(homeless)
}

func (w *sweep) cutWaysBack(homeless []datapath.FlowNAT) error {
	if len(homeless) == 0 {
		return nil
	}
	backends, err := w.table.Backends()
	if err != nil {
		return err
	}
	for _, n := range homeless {
		if _, there := backends[n.NAT.BackendID]; there {
			w.found.InUse[n.NAT.BackendID]++
			continue
		}
		if err := w.removeOrphan(n); err != nil {
			return err
		}
	}
	return nil
}

func (w *sweep) removeOrphan(n datapath.FlowNAT) error {
	if err := w.table.DeleteNAT(n.Flow); err != nil {
		return err
	}
	delete(w.orphans, n.Flow)
	w.found.Orphans++
	return nil
}

// belongs says whether the flow of a way back is remembered, with this way back.
func (w *sweep) belongs(n datapath.FlowNAT) (bool, error) {
	flow := clientFlow(n)
	c, ok, err := w.table.Conn(flow)
	if err != nil || !ok || c.Mode != datapath.SNAT {
		return false, err
	}
	b, there := w.backends[c.BackendID]
	return there && endpoint(b, flow) == n.Flow.Source && c.NATPort == n.Flow.Dest.Port(), nil
}
