package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// Down removes everything that the lab owns, and says whether there was
// anything. It works from the remembered state and, where that is damaged or
// gone, from the ownership marks on the things themselves.
func (l *Lab) Down(ctx context.Context) (removed bool, err error) {
	begin := time.Now()
	if there, err := l.exists(ctx); err != nil || !there {
		return false, err
	}
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return false, err
	}
	defer lock.Release()
	drivers, pl, err := l.remembered()
	if err != nil {
		return false, err
	}
	var errs *multierror.Error
	for _, d := range drivers {
		if err := provider.CheckRemoval(d.Name, d.Check(ctx, pl)); err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		errs = multierror.Append(errs, d.Destroy(ctx, pl))
	}
	if err := errs.ErrorOrNil(); err != nil {
		return true, fmt.Errorf("lab %s is not wholly removed; run `labctl down --name %s` again: %w", l.name, l.name, err)
	}
	if err := l.options.Store.Remove(l.name); err != nil {
		return true, err
	}
	l.options.Listen(Event{Time: time.Now(), Lab: l.name, Phase: "down", Seconds: time.Since(begin).Seconds()})
	return true, nil
}

// exists says whether anything of the lab is there.
func (l *Lab) exists(ctx context.Context) (bool, error) {
	if _, err := os.Stat(l.Dir()); err == nil {
		return true, nil // whether it is a lab's, the lock says
	}
	for _, d := range l.options.Drivers {
		pl := provider.Lab{Topology: topology.Topology{Name: l.name}, Dir: l.Dir()}
		actual, err := d.Observe(ctx, pl)
		if err != nil {
			if missing := provider.CheckRemoval(d.Name, d.Check(ctx, pl)); missing != nil {
				return false, missing
			}
			return false, fmt.Errorf("look at lab %s: %w", l.name, err)
		}
		if actual.Switch != nil || len(actual.Machines) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// remembered returns whose lab it is; of a damaged or missing state every
// provider is asked to remove what bears the lab's mark.
func (l *Lab) remembered() ([]provider.Driver, provider.Lab, error) {
	pl := provider.Lab{Topology: topology.Topology{Name: l.name}, Dir: l.Dir()}
	st, err := l.options.Store.Load(l.name)
	switch {
	case errors.Is(err, state.ErrNone):
		return l.seeing(pl, false), pl, nil
	case err != nil:
		l.warn(err.Error())
		return l.seeing(pl, true), pl, nil
	}
	pl.Topology = st.Topology
	d, err := l.driver(st.Provider)
	if err != nil {
		return nil, pl, fmt.Errorf("lab %s: %w", l.name, err)
	}
	st.Phase = state.Removing
	if err := l.options.Store.Save(st); err != nil {
		return nil, pl, err
	}
	return []provider.Driver{d}, pl, nil
}

// seeing returns the providers that can look for a lab by its name and folder
// alone; aloud, what the others cannot look at is told.
func (l *Lab) seeing(pl provider.Lab, aloud bool) []provider.Driver {
	var drivers []provider.Driver
	for _, d := range l.options.Drivers {
		if b, ok := d.Provider.(provider.Blind); ok {
			if unseen := b.Unseen(pl); unseen != "" {
				if aloud {
					l.warn(unseen)
				}
				continue
			}
		}
		drivers = append(drivers, d)
	}
	return drivers
}

func (l *Lab) warn(text string) {
	l.options.Listen(Event{Time: time.Now(), Lab: l.name, Phase: "warning", Error: text})
}
