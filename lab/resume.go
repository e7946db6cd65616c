package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"l4lab/lab/plan"
	"l4lab/lab/provider"
	"l4lab/lab/state"
	"l4lab/topology"
)

// resumeStep is the step's name in events.
const resumeStep = "set-up"

// resume has a lab that does not exist go on from the kept state of one like it, where
// its provider has one. What the lab then lacks, all of it where that did not work, is
// for the plan.
func (l *Lab) resume(ctx context.Context, t topology.Topology, o UpOptions) error {
	if _, err := l.options.Store.Load(l.name); !errors.Is(err, state.ErrNone) {
		return nil // it exists, or preparing says why it cannot be read
	}
	d, err := l.driver(o.Provider)
	if err != nil {
		return err
	}
	k, ok := d.Provider.(provider.SetUpKeeper)
	lab := provider.Lab{Topology: t, Dir: l.Dir()}
	if !ok || !k.HasSetUp(ctx, lab) {
		return nil
	}
	hashes, err := l.programHashes(d, t)
	if err != nil {
		return err
	}
	// Remembered first, so that a labctl that is killed leaves nothing unknown.
	now := state.State{Name: l.name, Provider: d.Name, Phase: state.Creating, Topology: t, Programs: hashes}
	for _, s := range plan.Build(plan.Wanted{Topology: t, Programs: hashes}, plan.Found{}) {
		now.Owned = append(now.Owned, s.ID)
	}
	if err := l.options.Store.Save(now); err != nil {
		return err
	}
	begin := time.Now()
	e := Event{Time: begin, Lab: l.name, Phase: "started", Step: resumeStep, Action: plan.Create, Reason: "from the kept state of a lab like this one"}
	l.options.Listen(e)
	err = k.ResumeSetUp(ctx, lab)
	e.Time, e.Phase, e.Seconds = time.Now(), "done", time.Since(begin).Seconds()
	if err == nil {
		l.options.Listen(e)
		return nil
	}
	e.Phase, e.Error = "failed", err.Error()
	l.options.Listen(e)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	if err := d.Destroy(clean, lab); err != nil {
		return fmt.Errorf("remove what was left: %w; `labctl down --name %s` tries again", err, l.name)
	}
	if ctx.Err() == nil {
		return nil
	}
	return errors.Join(context.Cause(ctx), l.options.Store.Remove(l.name))
}
