package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"l4lab/lab/engine"
)

// journal notes what was done, in order.
type journal struct {
	mu      sync.Mutex
	entries []string
}

func (j *journal) note(format string, a ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, fmt.Sprintf(format, a...))
}

func (j *journal) list() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries)
}

// step returns one that notes "do ID" and "undo ID" and succeeds at both.
func (j *journal) step(id string, needs ...string) engine.Step {
	return engine.Step{
		ID: id, Needs: needs,
		Do:   func(context.Context) error { j.note("do %s", id); return nil },
		Undo: func(context.Context) error { j.note("undo %s", id); return nil },
	}
}

// failing is a step that notes and then fails.
func (j *journal) failing(id string, err error, needs ...string) engine.Step {
	s := j.step(id, needs...)
	s.Do = func(context.Context) error { j.note("do %s", id); return err }
	return s
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("happened:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestRunOneAtATime(t *testing.T) {
	bad := errors.New("out of order")
	cases := []struct {
		name  string
		steps func(j *journal) []engine.Step
		keep  bool
		want  []string
		err   string
	}{
		{
			name:  "no steps are done at once",
			steps: func(*journal) []engine.Step { return nil },
		},
		{
			name: "a step waits for what it needs, wherever that stands in the list",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("roof", "walls"), j.step("walls", "floor"), j.step("floor")}
			},
			want: []string{"do floor", "do walls", "do roof"},
		},
		{
			name: "a need outside the run counts as done",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("walls", "floor"), j.step("roof", "walls", "sky")}
			},
			want: []string{"do walls", "do roof"},
		},
		{
			name: "what was done is undone last in first out, the failed step included",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("floor"), j.step("walls", "floor"), j.failing("roof", bad, "walls"), j.step("flag", "roof")}
			},
			want: []string{"do floor", "do walls", "do roof", "undo roof", "undo walls", "undo floor"},
			err:  "out of order",
		},
		{
			name: "a step without undo is passed over on the way back",
			steps: func(j *journal) []engine.Step {
				quiet := j.step("walls", "floor")
				quiet.Undo = nil
				return []engine.Step{j.step("floor"), quiet, j.failing("roof", bad, "walls")}
			},
			want: []string{"do floor", "do walls", "do roof", "undo roof", "undo floor"},
			err:  "out of order",
		},
		{
			name: "keep on failure leaves all where it is",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("floor"), j.failing("walls", bad, "floor"), j.step("roof", "walls")}
			},
			keep: true,
			want: []string{"do floor", "do walls"},
			err:  "out of order",
		},
		{
			name: "a failing undo stops no other, and all errors are told",
			steps: func(j *journal) []engine.Step {
				sticky := j.step("walls", "floor")
				sticky.Undo = func(context.Context) error { j.note("undo walls"); return errors.New("stuck") }
				return []engine.Step{j.step("floor"), sticky, j.failing("roof", bad, "walls")}
			},
			want: []string{"do floor", "do walls", "do roof", "undo roof", "undo walls", "undo floor"},
			err:  "out of order\nundo walls: stuck",
		},
		{
			name: "an id that stands twice is refused before anything is done",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("floor"), j.step("walls"), j.step("floor")}
			},
			err: "step floor stands twice in one run",
		},
		{
			name: "a circle is refused before anything is done, and who is in it is named",
			steps: func(j *journal) []engine.Step {
				return []engine.Step{j.step("floor"), j.step("hen", "egg", "floor"), j.step("egg", "hen")}
			},
			err: engine.ErrCycle.Error() + ": hen, egg",
		},
		{
			name:  "a step that needs itself is a circle",
			steps: func(j *journal) []engine.Step { return []engine.Step{j.step("snake", "snake")} },
			err:   engine.ErrCycle.Error() + ": snake",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var j journal
			err := engine.Run(t.Context(), c.steps(&j), engine.Options{KeepOnFailure: c.keep})
			equal(t, j.list(), c.want)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.err {
				t.Errorf("error %q, want %q", got, c.err)
			}
			if strings.HasPrefix(c.err, engine.ErrCycle.Error()) != errors.Is(err, engine.ErrCycle) {
				t.Errorf("errors.Is(err, ErrCycle) is %v for %v", errors.Is(err, engine.ErrCycle), err)
			}
			if c.err != "" && strings.HasPrefix(c.err, bad.Error()) && !errors.Is(err, bad) {
				t.Errorf("the step's own error is lost in %v", err)
			}
		})
	}
}

// gates lets a test hold each step until it says go.
type gates struct {
	began chan string
	open  map[string]chan error
}

func newGates(ids ...string) *gates {
	g := &gates{began: make(chan string, len(ids)), open: map[string]chan error{}}
	for _, id := range ids {
		g.open[id] = make(chan error)
	}
	return g
}

func (g *gates) step(j *journal, id string, needs ...string) engine.Step {
	s := j.step(id, needs...)
	s.Do = func(context.Context) error {
		g.began <- id
		err := <-g.open[id]
		j.note("do %s", id)
		return err
	}
	return s
}

// next returns who began, or fails when nobody does.
func (g *gates) next(t *testing.T) string {
	t.Helper()
	select {
	case id := <-g.began:
		return id
	case <-time.After(10 * time.Second):
		t.Fatal("no further step began")
	}
	return ""
}

func start(ctx context.Context, steps []engine.Step, o engine.Options) <-chan error {
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx, steps, o) }()
	return done
}

func ended(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the run did not end")
	}
	return nil
}

func TestParallelIsALimit(t *testing.T) {
	var j journal
	ids := []string{"a", "b", "c", "d", "e"}
	g := newGates(ids...)
	var steps []engine.Step
	for _, id := range ids {
		steps = append(steps, g.step(&j, id))
	}
	done := start(t.Context(), steps, engine.Options{Parallel: 2})
	running := map[string]bool{g.next(t): true, g.next(t): true}
	for finished := 0; finished < len(ids); finished++ {
		// Two run and none ends by itself: a third may begin only now.
		if len(g.began) != 0 {
			t.Fatalf("%s began though %v run", <-g.began, running)
		}
		for id := range running {
			delete(running, id)
			g.open[id] <- nil
			break
		}
		if finished+2 < len(ids) {
			running[g.next(t)] = true
		}
	}
	if err := ended(t, done); err != nil {
		t.Error(err)
	}
	if n := len(j.list()); n != len(ids) {
		t.Errorf("%d steps were done, want %d", n, len(ids))
	}
}

func TestStepsThatNeedNothingRunSideBySide(t *testing.T) {
	var j journal
	g := newGates("a", "b", "after")
	done := start(t.Context(), []engine.Step{g.step(&j, "a"), g.step(&j, "b"), g.step(&j, "after", "a", "b")}, engine.Options{Parallel: 8})
	first, second := g.next(t), g.next(t)
	if first == "after" || second == "after" {
		t.Fatal("a step began before what it needs had ended")
	}
	g.open["b"] <- nil
	g.open["a"] <- nil
	if id, done := g.next(t), len(j.list()); id != "after" || done != 2 {
		t.Fatalf("%s began when %d of its two needs had ended", id, done)
	}
	g.open["after"] <- nil
	if err := ended(t, done); err != nil {
		t.Error(err)
	}
}

func TestFailureLetsRunningStepsEndAndStartsNoNewOnes(t *testing.T) {
	var j journal
	g := newGates("bad", "slow", "worse", "never", "waiting")
	heard := make(chan engine.Event, 20)
	done := start(t.Context(), []engine.Step{
		g.step(&j, "bad"), g.step(&j, "slow"), g.step(&j, "worse"), g.step(&j, "never"), g.step(&j, "waiting", "slow"),
	}, engine.Options{Parallel: 3, Listen: func(e engine.Event) { heard <- e }})
	for range 3 {
		g.next(t)
	}
	for _, end := range []struct {
		id  string
		err error
	}{{"bad", errors.New("first")}, {"worse", errors.New("second")}, {"slow", nil}} {
		g.open[end.id] <- end.err
		for e := range heard { // until the run knows
			if e.Step == end.id && e.Phase != engine.Started {
				break
			}
		}
	}
	err := ended(t, done)
	if err == nil || err.Error() != "first\nsecond" {
		t.Errorf("error %q, want both of them", err)
	}
	if len(g.began) != 0 {
		t.Errorf("%s began after the failure", <-g.began)
	}
	equal(t, j.list(), []string{"do bad", "do worse", "do slow", "undo slow", "undo worse", "undo bad"})
}

func TestEndOfContext(t *testing.T) {
	interrupted := errors.New("interrupted by the user")
	cases := []struct {
		name string
		// answer is what the running step returns when the context ends.
		answer func(ctx context.Context) error
		keep   bool
		want   []string
	}{
		{
			name:   "a step that heeds it is undone with the others",
			answer: func(ctx context.Context) error { return fmt.Errorf("wait for it: %w", ctx.Err()) },
			want:   []string{"do floor", "undo walls", "undo floor"},
		},
		{
			name:   "a step that ended well meanwhile is undone too",
			answer: func(context.Context) error { return nil },
			want:   []string{"do floor", "undo walls", "undo floor"},
		},
		{
			name:   "keep on failure keeps",
			answer: func(context.Context) error { return nil },
			keep:   true,
			want:   []string{"do floor"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			var j journal
			walls := j.step("walls", "floor")
			walls.Do = func(ctx context.Context) error {
				cancel(interrupted)
				<-ctx.Done()
				return c.answer(ctx)
			}
			walls.Undo = func(ctx context.Context) error {
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("the way back has a dead context: %w", err)
				}
				if _, bounded := ctx.Deadline(); !bounded {
					return errors.New("the way back has no deadline")
				}
				j.note("undo walls")
				return nil
			}
			err := engine.Run(ctx, []engine.Step{j.step("floor"), walls, j.step("roof", "walls"), j.step("shed")}, engine.Options{KeepOnFailure: c.keep})
			if !errors.Is(err, interrupted) {
				t.Errorf("error %v, want the context's cause in it", err)
			}
			got := slices.DeleteFunc(j.list(), func(s string) bool { return strings.HasSuffix(s, " shed") })
			equal(t, got, c.want)
		})
	}
}

func TestContextThatEndedBeforehandStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("not today")
	cancel(cause)
	var j journal
	if err := engine.Run(ctx, []engine.Step{j.step("floor")}, engine.Options{}); !errors.Is(err, cause) {
		t.Errorf("error %v, want %v", err, cause)
	}
	equal(t, j.list(), nil)
}

func TestWayBackIsBounded(t *testing.T) {
	var j journal
	stuck := j.failing("stuck", errors.New("half-way"))
	stuck.Undo = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	done := start(t.Context(), []engine.Step{stuck}, engine.Options{UndoTimeout: time.Millisecond})
	if err := ended(t, done); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "undo stuck: ") {
		t.Errorf("error %v, want the undo's deadline", err)
	}
}

func TestEvents(t *testing.T) {
	var j journal
	bad := errors.New("no nails")
	sticky := j.step("walls", "floor")
	sticky.Undo = func(context.Context) error { return errors.New("stuck") }
	var events []string
	busy := make(chan struct{}, 1)
	err := engine.Run(t.Context(), []engine.Step{j.step("floor"), sticky, j.failing("roof", bad, "walls"), j.step("flag", "roof")}, engine.Options{
		Parallel: 4,
		Listen: func(e engine.Event) {
			select {
			case busy <- struct{}{}:
			default:
				t.Error("two events at once")
			}
			line := e.Step + " " + string(e.Phase)
			if e.Err != nil {
				line += ": " + e.Err.Error()
			}
			if e.Time.IsZero() || (e.Phase == engine.Started) != (e.Took == 0) {
				t.Errorf("%s: time %v, took %v", line, e.Time, e.Took)
			}
			events = append(events, line)
			<-busy
		},
	})
	if !errors.Is(err, bad) {
		t.Error(err)
	}
	equal(t, events, []string{
		"floor started", "floor done", "walls started", "walls done", "roof started", "roof failed: no nails",
		"roof undone", "walls undo-failed: stuck", "floor undone",
	})
}
