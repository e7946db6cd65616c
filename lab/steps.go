package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"

	"l4lab/agent/api"
	"l4lab/lab/engine"
	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/role"
	"l4lab/topology"
)

// verb does a thing to the lab that a topology describes.
type verb func(ctx context.Context, lab provider.Lab) error

// bind gives a planned step its hands. Undo is the same verb with what was
// there before, or the removal of what was not.
func (l *Lab) bind(w work, s plan.Step) (engine.Step, error) {
	ensure, remove, err := l.verbs(w.driver, s, w.hashes)
	if err != nil {
		return engine.Step{}, err
	}
	// What comes back comes back with the program that it had.
	ensureBefore, _, err := l.verbs(w.driver, s, w.before())
	if err != nil {
		return engine.Step{}, err
	}
	step := engine.Step{ID: s.ID, Needs: s.Needs}
	forth := func(ctx context.Context) error { return ensure(ctx, w.want) }
	back := func(ctx context.Context) error { return ensureBefore(ctx, w.was) }
	gone := func(ctx context.Context) error { return remove(ctx, w.want) }
	if s.Kind == plan.Node {
		back = func(ctx context.Context) error { return l.restore(ctx, w, s.Machine) }
	}
	switch s.Action {
	case plan.Create:
		step.Do, step.Undo = forth, gone
		switch {
		case s.Kind == plan.Switch && !w.fresh():
			step.Undo = nil // the switch goes with the whole lab alone
		case s.Kind == plan.Service && w.announced(s.Service) && !w.comesBack(s):
			step.Undo = back
		}
	case plan.Change:
		step.Do, step.Undo = forth, back
	case plan.Remove:
		step.Do, step.Undo = gone, back
		if s.Kind == plan.Service && !w.had(s.Service) {
			step.Undo = nil // nobody remembers what it was: an up was killed that was to remove it
		}
	}
	if s.Action != plan.Create && (w.old == nil || w.fresh() || w.restored(s)) {
		step.Undo = nil
	}
	return step, nil
}

// had says that the lab's former topology has a service.
func (w work) had(service uint32) bool {
	return slices.ContainsFunc(w.was.Topology.Services, func(s topology.Service) bool { return s.ID == service })
}

// restored says that a step's subject comes back with its machine. Before the
// machine has its old address again, nothing that stands on it could answer.
func (w work) restored(s plan.Step) bool {
	if s.Kind == plan.Node || s.Kind == plan.Switch || s.Kind == plan.Service {
		return false
	}
	return slices.ContainsFunc(w.steps, func(n plan.Step) bool {
		return n.Kind == plan.Node && n.Machine == s.Machine && n.Action == plan.Change
	})
}

// comesBack says that a service that is created comes back by another step's
// undo: by that of its removal, when it gave its frontend to another one, or with
// the balancer that announced it, when that was another machine.
func (w work) comesBack(s plan.Step) bool {
	if w.was.Topology.LoadBalancer() != w.want.Topology.LoadBalancer() {
		return true
	}
	return slices.ContainsFunc(w.steps, func(r plan.Step) bool {
		return r.Kind == plan.Service && r.Action == plan.Remove && r.Service == s.Service
	})
}

// restore makes a machine again what it was, with all that stands on it: what
// came back before was swept away when its link or address came back.
func (l *Lab) restore(ctx context.Context, w work, machine string) error {
	t := w.was.Topology
	if _, known := t.Address(machine); !known {
		return nil // it is left over from a run that was killed
	}
	steps := []plan.Step{{Kind: plan.Node}}
	switch t.Nodes[machine].Role {
	case topology.RoleLoadBalancer:
		steps = append(steps, plan.Step{Kind: plan.Agent})
		for _, s := range t.Services {
			steps = append(steps, plan.Step{Kind: plan.Service, Service: s.ID})
		}
	case topology.RoleBackend:
		steps = append(steps, plan.Step{Kind: plan.VIPs}, plan.Step{Kind: plan.Decap}, plan.Step{Kind: plan.Page})
	default:
		steps = append(steps, plan.Step{Kind: plan.Routes})
	}
	var errs *multierror.Error
	for _, s := range steps {
		s.Machine = machine
		ensure, _, err := l.verbs(w.driver, s, w.before())
		if err == nil {
			err = ensure(ctx, w.was)
		}
		errs = multierror.Append(errs, err)
	}
	return errs.ErrorOrNil()
}

// verbs returns how a step's subject is brought about, by the programs of these
// hashes, and removed.
func (l *Lab) verbs(d provider.Driver, s plan.Step, hashes map[topology.OS]string) (ensure, remove verb, err error) {
	switch s.Kind {
	case plan.Switch:
		return d.EnsureSwitch, func(ctx context.Context, lab provider.Lab) error { return d.Destroy(ctx, lab) }, nil
	case plan.Node:
		return func(ctx context.Context, lab provider.Lab) error { return d.EnsureNode(ctx, lab, s.Machine) },
			func(ctx context.Context, lab provider.Lab) error { return d.RemoveNode(ctx, lab, s.Machine) }, nil
	case plan.Service:
		return func(ctx context.Context, lab provider.Lab) error { return l.putService(ctx, d, lab, s.Service) },
			func(ctx context.Context, lab provider.Lab) error { return l.deleteService(ctx, d, lab, s.Service) }, nil
	}
	on := func(fn func(ctx context.Context, sys role.System, t topology.Topology) error) verb {
		return func(ctx context.Context, lab provider.Lab) error {
			m, err := d.Machine(lab, s.Machine)
			if err != nil {
				return err
			}
			return fn(ctx, m.System, lab.Topology)
		}
	}
	gone := func(subject role.Subject) verb {
		return on(func(ctx context.Context, sys role.System, _ topology.Topology) error { return sys.Remove(ctx, subject) })
	}
	switch s.Kind {
	case plan.VIPs:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
				return sys.EnsureVIPs(ctx, role.VIPsOf(t, s.Machine))
			}), on(func(ctx context.Context, sys role.System, _ topology.Topology) error {
				return sys.EnsureVIPs(ctx, []netip.Addr{})
			}), nil
	case plan.Routes:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
				return sys.EnsureRoutes(ctx, role.RoutesOf(t))
			}), on(func(ctx context.Context, sys role.System, _ topology.Topology) error {
				return sys.EnsureRoutes(ctx, nil)
			}), nil
	case plan.Agent:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
			n := t.Nodes[s.Machine]
			return sys.EnsureAgent(ctx, role.Agent{Address: n.Address, Program: l.program(d, t, n.OS), Hash: hashes[n.OS]})
		}), gone(role.SubjectAgent), nil
	case plan.Decap:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
			n := t.Nodes[s.Machine]
			return sys.EnsureDecap(ctx, role.Decap{
				Hook: role.HookOf(n.OS), Address: n.Address, Balancer: t.Nodes[t.LoadBalancer()].Address,
				Program: l.program(d, t, n.OS), Hash: hashes[n.OS],
			})
		}), gone(role.SubjectDecap), nil
	case plan.Page:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
			p := role.PageOf(t, s.Machine)
			p.Program, p.Hash = l.program(d, t, p.OS), hashes[p.OS]
			return sys.EnsurePage(ctx, p)
		}), gone(role.SubjectPage), nil
	}
	return nil, nil, fmt.Errorf("step %s: nothing known to do for kind %q", s.ID, s.Kind)
}

// answerLimit is how long an interrupted up still waits for the agent's answer.
const answerLimit = 5 * time.Second

// toItsEnd returns a context for a request that changes something at the agent:
// it outlives an interruption by answerLimit. A request that is cut off may
// still be carried out, and then after the undo that was to take it back.
func toItsEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() != nil {
		return ctx, func() {}
	}
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(answerLimit)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(context.Cause(ctx))
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel(nil) }
}

func (l *Lab) putService(ctx context.Context, d provider.Driver, lab provider.Lab, id uint32) error {
	t := lab.Topology
	for _, s := range t.Services {
		if s.ID != id {
			continue
		}
		agent, err := agentOf(d, lab)
		if err != nil {
			return err
		}
		ctx, done := toItsEnd(ctx)
		defer done()
		if _, err := agent.PutService(ctx, plan.ServiceOf(t, s)); err != nil {
			lb := t.LoadBalancer()
			return fmt.Errorf("%s (%s): set service %d (%s): %w", lb, t.Nodes[lb].Address, id, s.Frontend(), err)
		}
		return nil
	}
	return fmt.Errorf("service %d is not in the topology", id)
}

func (l *Lab) deleteService(ctx context.Context, d provider.Driver, lab provider.Lab, id uint32) error {
	agent, err := agentOf(d, lab)
	if err != nil {
		return err
	}
	ctx, done := toItsEnd(ctx)
	defer done()
	if err := agent.DeleteService(ctx, id); err != nil && !errors.Is(err, api.ErrNotFound) {
		lb := lab.Topology.LoadBalancer()
		return fmt.Errorf("%s (%s): delete service %d: %w", lb, lab.Topology.Nodes[lb].Address, id, err)
	}
	return nil
}
