package lab

import (
	"context"
	"fmt"

	"l4lab/lab/plan"
	"l4lab/topology"
)

// MACs returns the addresses that the lab's machines, the client included, have
// on the switch, by name. A machine that is missing has none.
func (l *Lab) MACs(ctx context.Context) (map[string]string, error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	actual, err := r.driver.Observe(ctx, r.lab)
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", l.name, err)
	}
	macs := map[string]string{}
	for name, m := range actual.Machines {
		if len(m.MAC) > 0 {
			macs[name] = m.MAC.String()
		}
	}
	return macs, nil
}

// StopPage ends a backend's web server, as a fault would: nothing else changes,
// and what the balancer sends there is refused. StartPage or the next Up mends it.
func (l *Lab) StopPage(ctx context.Context, backend string) error {
	return l.page(ctx, backend, func(_, remove verb) verb { return remove })
}

// StartPage has a backend's web server run and answer again.
func (l *Lab) StartPage(ctx context.Context, backend string) error {
	return l.page(ctx, backend, func(ensure, _ verb) verb { return ensure })
}

func (l *Lab) page(ctx context.Context, backend string, choose func(ensure, remove verb) verb) error {
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return err
	}
	defer lock.Release()
	r, err := l.load()
	if err != nil {
		l.forget(work{})
		return err
	}
	if r.state.Topology.Nodes[backend].Role != topology.RoleBackend {
		return fmt.Errorf("lab %s has no backend %q", l.name, backend)
	}
	ensure, remove, err := l.verbs(r.driver, plan.Step{Kind: plan.Page, Machine: backend}, r.state.Programs)
	if err != nil {
		return err
	}
	return choose(ensure, remove)(ctx, r.lab)
}
