package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/topology"
)

// loadSteps are changes while connections come and go all the time.
func (w *walk) loadSteps() []planned {
	list := []planned{{key: "mode-load", title: "The mode is switched to and fro under load", run: w.modeUnderLoad}}
	if len(w.service.Backends) < 2 {
		return list
	}
	return append(list,
		planned{key: "kill", title: fmt.Sprintf("%s's web server dies under load", w.victim()), command: w.checkedCommand(), run: w.killUnderLoad},
		planned{
			key: "drain", title: fmt.Sprintf("%s is drained under load", w.drained()),
			command: fmt.Sprintf("service drain --id %d --backend %s", w.service.ID, w.address(w.drained())), run: w.drainUnderLoad,
		},
	)
}

// victim is whose web server is stopped, drained who is drained.
func (w *walk) victim() string  { return w.service.Backends[1] }
func (w *walk) drained() string { return w.service.Backends[0] }

// checkedCommand is the demo's line with a health check.
func (w *walk) checkedCommand() string {
	return w.updateCommand() + " --check=http --check-interval=300ms --check-timeout=300ms"
}

// between is how many connections a load makes between two changes: fewer where
// each begins with a command over WinRM.
func (w *walk) between() int {
	if w.far {
		return 15
	}
	return 60
}

func (w *walk) modeUnderLoad(ctx context.Context) error {
	open, err := w.keep(ctx, "")
	if err != nil {
		return err
	}
	defer open.close()
	l := w.startLoad(ctx, loadWorkers, loadRate)
	defer l.stop()
	broken := 0
	for _, mode := range []topology.Mode{topology.SNAT, topology.DSR, topology.SNAT, topology.DSR} {
		if err := l.more(ctx, w.between()); err != nil {
			return err
		}
		if err := w.lab.Mode(ctx, 0, mode); err != nil {
			return err
		}
		_, now := open.ask()
		broken = max(broken, sum(now))
	}
	if err := l.more(ctx, w.between()); err != nil {
		return err
	}
	attempts := l.stop()
	lost := failed(attempts)
	w.check(len(lost) == 0, "%d connections opened meanwhile, %d failed%s", len(attempts), len(lost), firstOf(lost))
	w.check(broken == 0, "%d connections open all the while, %d broke", keptCount, broken)
	w.figure("connections opened while the mode was switched four times", float64(len(attempts)), "connections", fmt.Sprintf("%d failed", len(lost)))
	w.here("Four switches, %d new connections and %d old ones: %d lost.", len(attempts), keptCount, len(lost)+broken)
	return nil
}

// firstOf is the first failure in words.
func firstOf(lost []attempt) string {
	if len(lost) == 0 {
		return ""
	}
	return fmt.Sprintf("; the first: %v", lost[0].err)
}

// killUnderLoad stops a web server, so that the backend refuses connections, until
// health checks have quarantined it, and has it come back.
func (w *walk) killUnderLoad(ctx context.Context) (err error) {
	victim := w.victim()
	if err := w.operate(ctx, w.checkedCommand()); err != nil {
		return err
	}
	defer func() { // as it was, without checks
		if restoreErr := w.operate(ctx, w.updateCommand()); err == nil {
			err = restoreErr
		}
	}()
	if err := w.awaitChecked(ctx); err != nil {
		return err
	}
	open, err := w.keep(ctx, victim)
	if err != nil {
		return err
	}
	defer open.close()
	l := w.startLoad(ctx, loadWorkers, loadRate)
	defer l.stop()
	if err := l.more(ctx, w.between()); err != nil {
		return err
	}
	death := time.Now()
	if err := w.lab.StopPage(ctx, victim); err != nil {
		return err
	}
	if err := w.awaitQuarantine(ctx, victim); err != nil {
		return err
	}
	quarantine := time.Now()
	on, broken := open.ask()
	if err := l.more(ctx, w.between()); err != nil {
		return err
	}
	revival := time.Now()
	if err := w.lab.StartPage(ctx, victim); err != nil {
		return err
	}
	err = l.until(ctx, fmt.Sprintf("an answer from %s", victim), func(all []attempt) bool {
		return slices.ContainsFunc(all, func(a attempt) bool { return a.begin.After(revival) && a.backend == victim })
	})
	if err != nil {
		return err
	}
	back := time.Now()
	attempts := l.stop()
	w.judgeKill(attempts, quarantine, on, broken)
	w.check(true, "%s is quarantined after %.1f s, and gets connections again %.1f s after its server was started", victim, quarantine.Sub(death).Seconds(), back.Sub(revival).Seconds())
	w.figure("time until a dead backend got no new connections", quarantine.Sub(death).Seconds(), "s", "health checks every 300 ms, three failures in a row")
	w.figure("time until it got connections again", back.Sub(revival).Seconds(), "s", "from the start of its web server, two checks in a row that pass")
	return nil
}

// judgeKill says whose connections failed, by the Maglev table with all backends.
func (w *walk) judgeKill(attempts []attempt, quarantine time.Time, on, broken map[string]int) {
	victim := w.victim()
	var foreign, late []attempt
	lost := failed(attempts)
	for _, a := range lost {
		if w.lookup(a.port) != victim {
			foreign = append(foreign, a)
		}
		if a.begin.After(quarantine) {
			late = append(late, a)
		}
	}
	w.check(len(foreign) == 0, "%d of %d new connections failed, %d of them another backend's%s", len(lost), len(attempts), len(foreign), firstOf(foreign))
	w.check(len(late) == 0, "%d failed once it was quarantined%s", len(late), firstOf(late))
	w.here("Of %d connections opened meanwhile %d failed, %d of them on another backend than %s.", len(attempts), len(lost), len(foreign), victim)
	own := broken[victim] + on[victim]
	w.check(sum(broken) == broken[victim] && own > 0, "of %d connections that were open, %s's %d broke and %d others did", sum(on)+sum(broken), victim, broken[victim], sum(broken)-broken[victim])
}

// awaitChecked waits until each backend has passed a check.
func (w *walk) awaitChecked(ctx context.Context) error {
	return w.await(ctx, "each backend passes a check", func(ctx context.Context) (bool, error) {
		all, err := w.agent.Health(ctx)
		passed := func(b string) bool {
			return slices.ContainsFunc(all, func(h api.BackendHealth) bool {
				return h.ServiceID == w.service.ID && h.Backend == w.address(b) && h.Result == "passed"
			})
		}
		// Nothing mends a backend meanwhile: one that was given up is not waited for.
		for _, h := range all {
			if h.ServiceID == w.service.ID && h.Health == "quarantined" {
				return false, fmt.Errorf("%s is quarantined: %s", h.Backend, h.Error)
			}
		}
		return !slices.ContainsFunc(w.service.Backends, func(b string) bool { return !passed(b) }), err
	})
}

// awaitQuarantine waits until a backend gets no new connections: the service says
// so once the data path has it, the checks themselves a little sooner.
func (w *walk) awaitQuarantine(ctx context.Context, backend string) error {
	return w.await(ctx, backend+" is quarantined", func(ctx context.Context) (bool, error) {
		s, err := w.agent.Service(ctx, w.service.ID)
		return slices.ContainsFunc(s.Backends, func(b api.Backend) bool {
			return b.Address == w.address(backend) && b.Health == "quarantined"
		}), err
	})
}

// await asks the agent until it says so.
func (w *walk) await(ctx context.Context, what string, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, loadLimit)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		ok, err := holds(ctx)
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: not within %s: %w", what, loadLimit, context.Cause(ctx))
		}
	}
}

func (w *walk) drainUnderLoad(ctx context.Context) (err error) {
	drained := w.drained()
	open, err := w.keep(ctx, drained)
	if err != nil {
		return err
	}
	defer open.close()
	l := w.startLoad(ctx, loadWorkers, loadRate)
	defer l.stop()
	if err := l.more(ctx, w.between()); err != nil {
		return err
	}
	if err := w.operate(ctx, w.step.Command); err != nil {
		return err
	}
	defer func() { // active again
		if restoreErr := w.operate(ctx, w.updateCommand()); err == nil {
			err = restoreErr
		}
	}()
	since := time.Now()
	if err := l.more(ctx, 2*w.between()); err != nil {
		return err
	}
	on, broken := open.ask()
	attempts := l.stop()
	lost, fresh := failed(attempts), 0
	for _, a := range attempts {
		if a.begin.After(since) && a.backend == drained {
			fresh++
		}
	}
	w.check(len(lost) == 0, "%d connections opened meanwhile, %d failed%s", len(attempts), len(lost), firstOf(lost))
	w.check(fresh == 0, "%s gets %d new ones", drained, fresh)
	w.check(sum(broken) == 0 && on[drained] > 0, "of %d connections that were open, %d broke; %d go on with %s", sum(on)+sum(broken), sum(broken), on[drained], drained)
	w.figure("connections opened while a backend was drained", float64(len(attempts)), "connections", fmt.Sprintf("%d failed", len(lost)))
	w.here("%d connections, old and new: %d lost. %s keeps %d that it had and gets %d new ones.", len(attempts)+keptCount, len(lost)+sum(broken), drained, on[drained], fresh)
	return nil
}
