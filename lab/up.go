package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/engine"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// parallel is how many steps run side by side: most of a step is waiting for
// the kernel or for a process to start.
const parallel = 8

// settleLimit bounds removing what a failed first up left.
const settleLimit = time.Minute

// UpOptions say how to bring a lab up.
type UpOptions struct {
	// Provider is a driver's name; "" means the lab's own, or the default.
	Provider string
	// KeepOnFailure leaves a half-made lab for inspection.
	KeepOnFailure bool
}

// Plan says what Up would do, and does nothing.
func (l *Lab) Plan(ctx context.Context, t topology.Topology, o UpOptions) ([]plan.Step, error) {
	if err := l.Check(ctx, t, o); err != nil {
		return nil, err
	}
	w, err := l.prepare(ctx, t, o)
	if err != nil {
		return nil, err
	}
	return w.steps, nil
}

// Up creates the lab or converges it to the topology, and returns what it did.
// When it fails or the context ends it takes back what it did.
func (l *Lab) Up(ctx context.Context, t topology.Topology, o UpOptions) ([]plan.Step, error) {
	begin := time.Now()
	if err := l.Check(ctx, t, o); err != nil {
		return nil, err // before the lock makes a folder
	}
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if err := l.resume(ctx, t, o); err != nil {
		return nil, err
	}
	w, err := l.prepare(ctx, t, o)
	if err != nil {
		l.forget(w)
		return nil, err
	}
	if err := l.carryOut(ctx, w, o); err != nil {
		l.options.Listen(Event{Time: time.Now(), Lab: l.name, Phase: "failed", Seconds: time.Since(begin).Seconds(), Error: err.Error()})
		return w.steps, err
	}
	l.options.Listen(Event{Time: time.Now(), Lab: l.name, Phase: "up", Seconds: time.Since(begin).Seconds()})
	if k, ok := w.driver.Provider.(provider.SetUpKeeper); ok {
		if err := k.KeepSetUp(ctx, w.want); err != nil {
			l.warn(fmt.Sprintf("the lab is up, and its state could not be kept for the next one like it: %v", err))
		}
	}
	return w.steps, nil
}

// work is all that one Up needs to know.
type work struct {
	driver provider.Driver
	// want is the lab as it should be, was as it is remembered (zero for a new one).
	want, was provider.Lab
	old       *state.State
	// hashes are those of the programs that the nodes are to have.
	hashes map[topology.OS]string
	steps  []plan.Step
	// found is the lab as it is.
	found plan.Found
}

// fresh says that nothing of the lab existed, or nothing but what a first up
// left that was killed: a failure takes all of it away.
func (w work) fresh() bool {
	if w.old != nil {
		return w.old.Phase == state.Creating && !w.old.WasUp
	}
	return w.found.Switch == nil && len(w.found.Machines) == 0
}

// before is the hashes of the programs that the nodes have so far.
func (w work) before() map[topology.OS]string {
	before := maps.Clone(w.hashes)
	if w.old != nil {
		maps.Copy(before, w.old.Programs)
	}
	return before
}

// announced says that a service was there though the plan is to create it: the
// agent that announces it does not answer, and its programs go on without it.
func (w work) announced(service uint32) bool {
	return w.old != nil && w.old.Phase == state.Up && w.had(service)
}

// Check says what makes an Up impossible before the lab is looked at, such as an
// unknown provider or one that lacks something. Up begins with it.
func (l *Lab) Check(ctx context.Context, t topology.Topology, o UpOptions) error {
	if faults := topology.Validate(t); len(faults) > 0 {
		return faults
	}
	if was, err := l.options.Store.Load(l.name); err == nil && o.Provider == "" {
		o.Provider = was.Provider
	}
	d, err := l.driver(o.Provider)
	if err != nil {
		return err
	}
	if d.MaxMTU > 0 && t.Switch.MTU > d.MaxMTU {
		return topology.Faults{{Path: "switch.mtu", Message: fmt.Sprintf("%d is too large for provider %s: at most %d, since native XDP takes no more on its interfaces", t.Switch.MTU, d.Name, d.MaxMTU)}}
	}
	return provider.CheckFatal(d.Name, d.Check(ctx, provider.Lab{Topology: t, Dir: l.Dir()}))
}

func (l *Lab) prepare(ctx context.Context, t topology.Topology, o UpOptions) (work, error) {
	var w work
	old, err := l.options.Store.Load(l.name)
	switch {
	case err == nil:
		w.old = &old
		w.was = provider.Lab{Topology: old.Topology, Dir: l.Dir()}
		if o.Provider == "" {
			o.Provider = old.Provider
		}
		if o.Provider != old.Provider {
			return w, fmt.Errorf("lab %s is up with provider %s and cannot move to %s; `labctl down --name %s` first", l.name, old.Provider, o.Provider, l.name)
		}
	case !errors.Is(err, state.ErrNone):
		return w, err
	}
	if w.driver, err = l.driver(o.Provider); err != nil {
		return w, err
	}
	w.want = provider.Lab{Topology: t, Dir: l.Dir()}
	if w.hashes, err = l.programHashes(w.driver, t); err != nil {
		return w, err
	}
	if w.found.Actual, err = w.driver.Observe(ctx, w.want); err != nil {
		return w, fmt.Errorf("look at lab %s: %w", l.name, err)
	}
	if services, answered := servicesOf(ctx, w); answered {
		w.found.Services = services
	} else if w.old != nil {
		w.found.Remembered = plan.ServicesAmong(w.old.Owned)
	}
	w.steps = plan.Build(plan.Wanted{Topology: t, Programs: w.hashes}, w.found)
	return w, nil
}

// servicesOf asks the agent, when there is one, what it announces. Without an answer the
// services are set again.
func servicesOf(ctx context.Context, w work) (services []api.Service, answered bool) {
	lb := w.want.Topology.LoadBalancer()
	if w.found.Machines[lb].Facts.Agent.Spec == "" {
		return nil, false
	}
	agent, err := agentOf(w.driver, w.want)
	if err != nil {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit(w.driver))
	defer cancel()
	services, err = agent.Services(ctx)
	return services, err == nil
}

// carryOut runs the plan, remembering first what it is about to make.
func (l *Lab) carryOut(ctx context.Context, w work, o UpOptions) error {
	changes := plan.Changes(w.steps)
	unchanged := len(changes) == 0 && w.old != nil && w.old.Phase == state.Up && len(topology.Diff(w.old.Topology, w.want.Topology)) == 0
	if unchanged {
		return nil
	}
	now := state.State{Name: l.name, Provider: w.driver.Name, Phase: state.Creating, Topology: w.want.Topology, Programs: w.hashes}
	if w.old != nil {
		now.WasUp = w.old.WasUp || w.old.Phase == state.Up
		now.Owned = append(now.Owned, w.old.Owned...)
	}
	for _, s := range w.steps {
		now.Owned = append(now.Owned, s.ID)
	}
	if err := l.options.Store.Save(now); err != nil {
		return err
	}
	byID := map[string]plan.Step{}
	var steps []engine.Step
	for _, s := range changes {
		byID[s.ID] = s
		step, err := l.bind(w, s)
		if err != nil {
			return err
		}
		steps = append(steps, step)
	}
	err := engine.Run(ctx, steps, engine.Options{
		Parallel: parallel, KeepOnFailure: o.KeepOnFailure,
		Listen: func(e engine.Event) { l.options.Listen(l.event(e, byID[e.Step])) },
	})
	if err != nil {
		return l.settle(ctx, w, o, err)
	}
	now.Phase, now.WasUp, now.Owned = state.Up, true, nil
	for _, s := range w.steps {
		if s.Action != plan.Remove {
			now.Owned = append(now.Owned, s.ID)
		}
	}
	return l.options.Store.Save(now)
}

// settle leaves the state as true as possible after a failure.
func (l *Lab) settle(ctx context.Context, w work, o UpOptions, cause error) error {
	switch {
	case o.KeepOnFailure:
		return fmt.Errorf("%w\nwhat was made is kept; `labctl down --name %s` removes it", cause, l.name)
	case w.fresh():
		// Each step took its own back; what several share goes now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
		defer cancel()
		if err := w.driver.Destroy(ctx, w.want); err != nil {
			return fmt.Errorf("%w\nremove what was left: %w; `labctl down --name %s` tries again", cause, err, l.name)
		}
		if err := l.options.Store.Remove(l.name); err != nil {
			return fmt.Errorf("%w\n%w", cause, err)
		}
	case w.old != nil:
		if err := l.options.Store.Save(*w.old); err != nil {
			return fmt.Errorf("%w\n%w", cause, err)
		}
	}
	return cause
}

// forget removes the folder that the lock made, when there is nothing to remember.
func (l *Lab) forget(w work) {
	if w.old != nil {
		return
	}
	if _, err := l.options.Store.Load(l.name); errors.Is(err, state.ErrNone) {
		removeIfBare(l.Dir())
	}
}

// removeIfBare removes a lab's folder that holds the lock alone.
func removeIfBare(dir string) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != ".labctl" {
			return
		}
	}
	if err == nil {
		os.RemoveAll(dir)
	}
}

func (l *Lab) event(e engine.Event, s plan.Step) Event {
	out := Event{Time: e.Time, Lab: l.name, Phase: string(e.Phase), Step: e.Step, Action: s.Action, Reason: s.Reason, Seconds: e.Took.Seconds()}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	return out
}
