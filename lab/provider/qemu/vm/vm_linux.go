package vm

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State is what a machine does.
type State string

// The states of a machine. Shutdown: the guest switched itself off. IOError:
// the host cannot write to its disk, which is full most likely; the guest waits
// and Continue tries again. InternalError: QEMU or KVM cannot run it. Gone: its
// process has ended.
const (
	Running       State = "running"
	Paused        State = "paused"
	Shutdown      State = "shutdown"
	Panicked      State = "panicked"
	IOError       State = "io-error"
	InternalError State = "internal-error"
	Gone          State = "gone"
)

// queryLimit is how long QEMU may take to answer one command; translating
// guest code may hold it up for seconds on a busy host.
const queryLimit = 15 * time.Second

// errEnded says that QEMU went away.
var errEnded = errors.New("QEMU has ended")

// VM is a machine that was started, by this process or an earlier one.
type VM struct {
	dir    string
	record record
}

// PID returns the pid that QEMU has or had.
func (v *VM) PID() int { return v.record.QEMU.PID }

// Alive says whether the machine's QEMU still runs.
func (v *VM) Alive() bool { return v.record.QEMU.Alive() }

// State asks what the machine does. A QEMU that is alive and does not answer
// is an error.
func (v *VM) State(ctx context.Context) (State, error) {
	var status string
	err := v.talk(ctx, "see what the virtual machine does", func(ctx context.Context, m *monitor) (err error) {
		status, err = m.status(ctx)
		return err
	})
	if errors.Is(err, errEnded) {
		// A process that is killed loses its sockets before it is dead.
		if gone, _ := v.record.QEMU.Await(ctx, queryLimit); gone {
			return Gone, nil
		}
	}
	return stateOf(status), err
}

// stateOf translates RunState (qapi/run-state.json in QEMU's sources).
func stateOf(status string) State {
	switch status {
	case "":
		return ""
	case "running":
		return Running
	case "shutdown":
		return Shutdown
	case "guest-panicked":
		return Panicked
	case "io-error":
		return IOError
	case "internal-error":
		return InternalError
	}
	return Paused
}

// Pause stops the guest's processors and its disks' writes.
func (v *VM) Pause(ctx context.Context) error { return v.do(ctx, "pause", "stop", nil) }

// Continue lets a paused guest run.
func (v *VM) Continue(ctx context.Context) error { return v.do(ctx, "continue", "cont", nil) }

// PowerDown presses the power button; what follows is up to the guest.
func (v *VM) PowerDown(ctx context.Context) error {
	return v.do(ctx, "press the power button of", "system_powerdown", nil)
}

// SetLink plugs or unplugs the cable of the guest's card.
func (v *VM) SetLink(ctx context.Context, up bool) error {
	return v.do(ctx, "set the link of", "set_link", map[string]any{"name": deviceNIC, "up": up})
}

// Eject takes the disc out of a CD drive, the disk of that number in Config.Disks,
// whatever the guest does with it, and lets go of its file. An empty drive stays so.
func (v *VM) Eject(ctx context.Context, disk int) error {
	return v.talk(ctx, "take the disc out of", func(ctx context.Context, m *monitor) error {
		nodes, err := m.nodes(ctx)
		node := nodes[deviceDisk(disk)]
		if err != nil || node == "" {
			return err
		}
		id := map[string]any{"id": deviceDisk(disk)}
		for _, step := range []struct {
			command   string
			arguments any
		}{
			{"blockdev-open-tray", map[string]any{"id": deviceDisk(disk), "force": true}},
			{"blockdev-remove-medium", id},
			{"blockdev-close-tray", id},
			{"blockdev-del", map[string]any{"node-name": node}},
		} {
			if err := m.execute(ctx, step.command, step.arguments, nil); err != nil {
				return fmt.Errorf("%s: %w", step.command, err)
			}
		}
		return nil
	})
}

// Screen writes a picture of the guest's screen (PNG) to a new file.
func (v *VM) Screen(ctx context.Context, path string) error {
	return v.do(ctx, "picture the screen of", "screendump", map[string]any{"filename": path, "format": "png"})
}

// Reset presses the reset button. A guest that had ended (Shutdown, Panicked,
// InternalError) boots; one that is paused stays paused, at its first instruction.
func (v *VM) Reset(ctx context.Context) error {
	return v.talk(ctx, "reset the virtual machine", func(ctx context.Context, m *monitor) error {
		status, err := m.status(ctx)
		if err != nil {
			return err
		}
		if err := m.execute(ctx, "system_reset", nil, nil); err != nil {
			return err
		}
		switch stateOf(status) {
		case Shutdown, Panicked, InternalError:
			return m.execute(ctx, "cont", nil, nil)
		}
		return nil
	})
}

func (v *VM) do(ctx context.Context, verb, command string, arguments any) error {
	return v.talk(ctx, verb+" the virtual machine", func(ctx context.Context, m *monitor) error {
		return m.execute(ctx, command, arguments, nil)
	})
}

// talk runs what needs a connection to QEMU and takes no time.
func (v *VM) talk(ctx context.Context, what string, work func(context.Context, *monitor) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, queryLimit, fmt.Errorf("QEMU (pid %d) did not answer within %s", v.PID(), queryLimit))
	defer cancel()
	return v.connect(ctx, what, work)
}

func (v *VM) connect(ctx context.Context, what string, work func(context.Context, *monitor) error) error {
	if !v.Alive() {
		return fmt.Errorf("%s: %s: %w (pid %d)", v.record.Name, what, errEnded, v.PID())
	}
	m, err := dial(ctx, socketFile(v.dir))
	if err == nil {
		defer m.Close()
		err = work(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", v.record.Name, what, err)
	}
	return nil
}

// status returns QEMU's run state.
func (m *monitor) status(ctx context.Context) (string, error) {
	var answer struct {
		Status string `json:"status"`
	}
	err := m.execute(ctx, "query-status", nil, &answer)
	return answer.Status, err
}

// awaitStatus waits until the run state is as wanted.
func (m *monitor) awaitStatus(ctx context.Context, wanted func(status string) bool) error {
	for {
		status, err := m.status(ctx)
		if err != nil || wanted(status) {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits a moment before QEMU is asked again.
func pause(ctx context.Context) error {
	const moment = 20 * time.Millisecond
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(moment):
		return nil
	}
}
