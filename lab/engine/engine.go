// Package engine runs steps along their dependencies, side by side up to a
// limit, and takes them back when one fails or the context ends: last done,
// first undone, the step that failed half-way included.
//
// It knows nothing of labs. What it does comes out as a stream of events;
// progress on a terminal, logs and JSON are listeners to the same stream.
package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Step is one piece of work.
type Step struct {
	// ID is unique in a run: "page/be1".
	ID string
	// Needs are IDs of steps that must have succeeded first. An ID that is not
	// part of the run counts as done.
	Needs []string
	Do    func(ctx context.Context) error
	// Undo takes Do back, also one that failed half-way; nil when there is
	// nothing to take back.
	Undo func(ctx context.Context) error
}

// Phase is where a step stands.
type Phase string

// The phases that events report.
const (
	Started    Phase = "started"
	Done       Phase = "done"
	Failed     Phase = "failed"
	Undone     Phase = "undone"
	UndoFailed Phase = "undo-failed"
)

// Event is one thing that happened to a step.
type Event struct {
	Time  time.Time
	Step  string
	Phase Phase
	// Took is how long the phase lasted, 0 for Started.
	Took time.Duration
	Err  error
}

// Options bound a run.
type Options struct {
	// Parallel is how many steps run at once; 0 means 1.
	Parallel int
	// KeepOnFailure leaves what was done where it is.
	KeepOnFailure bool
	// UndoTimeout bounds the way back as a whole; 0 means a minute.
	UndoTimeout time.Duration
	// Listen receives every event, one at a time.
	Listen func(Event)
}

// ErrCycle is matched by the error about steps that need each other.
var ErrCycle = errors.New("steps need each other in a circle")

// Run does all steps or, unless told to keep, undoes what it did and returns
// every error met on both ways. When the context ends, its cause is among them.
func Run(ctx context.Context, steps []Step, o Options) error {
	if err := check(steps); err != nil {
		return err
	}
	r := &run{options: o, listen: o.Listen}
	if r.listen == nil {
		r.listen = func(Event) {}
	}
	err := r.forward(ctx, steps)
	if err == nil || o.KeepOnFailure {
		return err
	}
	return r.back(ctx, err)
}

type run struct {
	options Options
	listen  func(Event)
	// touched are the steps whose Do began, in the order in which they ended.
	touched []Step
}

type outcome struct {
	index int
	took  time.Duration
	err   error
}

func (r *run) forward(ctx context.Context, steps []Step) error {
	waiting, dependents := dependencies(steps)
	var ready []int
	for i := range steps {
		if waiting[i] == 0 {
			ready = append(ready, i)
		}
	}
	limit := max(r.options.Parallel, 1)
	outcomes := make(chan outcome)
	var wg sync.WaitGroup
	defer wg.Wait()
	var errs *multierror.Error
	running := 0
	for {
		stopped := errs.ErrorOrNil() != nil || ctx.Err() != nil
		for !stopped && len(ready) > 0 && running < limit {
			i := ready[0]
			ready = ready[1:]
			running++
			r.listen(Event{Time: time.Now(), Step: steps[i].ID, Phase: Started})
			wg.Go(func() {
				begin := time.Now()
				err := steps[i].Do(ctx)
				outcomes <- outcome{i, time.Since(begin), err}
			})
		}
		if running == 0 {
			break
		}
		o := <-outcomes
		running--
		r.touched = append(r.touched, steps[o.index])
		e := Event{Time: time.Now(), Step: steps[o.index].ID, Phase: Done, Took: o.took, Err: o.err}
		if o.err != nil {
			e.Phase = Failed
			errs = multierror.Append(errs, o.err)
		} else {
			for _, d := range dependents[o.index] {
				if waiting[d]--; waiting[d] == 0 {
					ready = append(ready, d)
				}
			}
		}
		r.listen(e)
	}
	if ctx.Err() != nil {
		errs = multierror.Append(errs, context.Cause(ctx))
	}
	return flat(errs)
}

func (r *run) back(ctx context.Context, cause error) error {
	timeout := r.options.UndoTimeout
	if timeout == 0 {
		timeout = time.Minute
	}
	// The way back must not be cut off by what ended the way there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	errs := multierror.Append(nil, cause)
	for i := len(r.touched) - 1; i >= 0; i-- {
		s := r.touched[i]
		if s.Undo == nil {
			continue
		}
		begin := time.Now()
		err := s.Undo(ctx)
		e := Event{Time: time.Now(), Step: s.ID, Phase: Undone, Took: time.Since(begin), Err: err}
		if err != nil {
			e.Phase = UndoFailed
			errs = multierror.Append(errs, fmt.Errorf("undo %s: %w", s.ID, err))
		}
		r.listen(e)
	}
	return flat(errs)
}

// check refuses duplicate IDs and cycles before anything is done.
func check(steps []Step) error {
	seen := make(map[string]bool, len(steps))
	for _, s := range steps {
		if seen[s.ID] {
			return fmt.Errorf("step %s stands twice in one run", s.ID)
		}
		seen[s.ID] = true
	}
	waiting, dependents := dependencies(steps)
	var ready []int
	for i := range steps {
		if waiting[i] == 0 {
			ready = append(ready, i)
		}
	}
	done := 0
	for ; len(ready) > 0; done++ {
		i := ready[0]
		ready = ready[1:]
		for _, d := range dependents[i] {
			if waiting[d]--; waiting[d] == 0 {
				ready = append(ready, d)
			}
		}
	}
	if done == len(steps) {
		return nil
	}
	var stuck []string
	for i, s := range steps {
		if waiting[i] > 0 {
			stuck = append(stuck, s.ID)
		}
	}
	return fmt.Errorf("%w: %s", ErrCycle, strings.Join(stuck, ", "))
}

// dependencies returns for each step how many others it waits for, and who waits for it.
func dependencies(steps []Step) (waiting []int, dependents [][]int) {
	index := make(map[string]int, len(steps))
	for i, s := range steps {
		index[s.ID] = i
	}
	waiting, dependents = make([]int, len(steps)), make([][]int, len(steps))
	for i, s := range steps {
		for _, need := range s.Needs {
			if j, ok := index[need]; ok {
				waiting[i]++
				dependents[j] = append(dependents[j], i)
			}
		}
	}
	return waiting, dependents
}

// flat returns a single error as itself and several as a list.
func flat(errs *multierror.Error) error {
	if errs == nil || errs.Len() == 0 {
		return nil
	}
	if errs.Len() == 1 {
		return errs.Errors[0]
	}
	errs.ErrorFormat = func(list []error) string {
		lines := make([]string, len(list))
		for i, err := range list {
			lines[i] = err.Error()
		}
		return strings.Join(lines, "\n")
	}
	return errs
}
