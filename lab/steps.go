package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

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
	ensure, remove, err := l.verbs(w, s)
	if err != nil {
		return engine.Step{}, err
	}
	step := engine.Step{ID: s.ID, Needs: s.Needs}
	forth := func(ctx context.Context) error { return ensure(ctx, w.want) }
	back := func(ctx context.Context) error { return ensure(ctx, w.was) }
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
		case s.Kind == plan.Service && w.announced(s.Service):
			step.Undo = back
		}
	case plan.Change:
		step.Do = forth
		if w.old != nil {
			step.Undo = back
		}
	case plan.Remove:
		step.Do = gone
		if w.old != nil {
			step.Undo = back
		}
	}
	return step, nil
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
		ensure, _, err := l.verbs(w, s)
		if err == nil {
			err = ensure(ctx, w.was)
		}
		errs = multierror.Append(errs, err)
	}
	return errs.ErrorOrNil()
}

// verbs returns how a step's subject is brought about and removed.
func (l *Lab) verbs(w work, s plan.Step) (ensure, remove verb, err error) {
	d := w.driver
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
			return sys.EnsureAgent(ctx, role.Agent{Address: t.Nodes[s.Machine].Address, Program: l.options.Program, Hash: w.hash})
		}), gone(role.SubjectAgent), nil
	case plan.Decap:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
			n := t.Nodes[s.Machine]
			return sys.EnsureDecap(ctx, role.Decap{
				Hook: role.HookOf(n.OS), Address: n.Address, Balancer: t.Nodes[t.LoadBalancer()].Address,
				Program: l.options.Program, Hash: w.hash,
			})
		}), gone(role.SubjectDecap), nil
	case plan.Page:
		return on(func(ctx context.Context, sys role.System, t topology.Topology) error {
			p := role.PageOf(t, s.Machine)
			p.Program, p.Hash = l.options.Program, w.hash
			return sys.EnsurePage(ctx, p)
		}), gone(role.SubjectPage), nil
	}
	return nil, nil, fmt.Errorf("step %s: nothing known to do for kind %q", s.ID, s.Kind)
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
	if err := agent.DeleteService(ctx, id); err != nil && !errors.Is(err, api.ErrNotFound) {
		lb := lab.Topology.LoadBalancer()
		return fmt.Errorf("%s (%s): delete service %d: %w", lb, lab.Topology.Nodes[lb].Address, id, err)
	}
	return nil
}
