package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// saveLimit is how long writing a guest's memory may take.
const saveLimit = 5 * time.Minute

// Overlay is where a disk is written to from now on.
type Overlay struct {
	// Disk is the disk's place in Config.Disks.
	Disk int
	// Path is the overlay's, a qcow2 image that is made; nothing may be there.
	Path string
}

// Save writes the guest's state to a file, from where it stands in it, and
// freezes its disks: each writable one needs an overlay, which takes what is
// written from now on. The guest is paused first and stays so; Continue lets it
// go on. After an error it is paused too and the file worth nothing, and the
// disks may be on their overlays already.
func (v *VM) Save(ctx context.Context, state *os.File, overlays []Overlay) error {
	ctx, cancel := context.WithTimeoutCause(ctx, saveLimit, fmt.Errorf("not done within %s", saveLimit))
	defer cancel()
	err := v.connect(ctx, "save the virtual machine", func(ctx context.Context, m *monitor) error {
		if err := v.checkOverlays(overlays); err != nil {
			return err
		}
		status, err := m.status(ctx)
		if err != nil {
			return err
		}
		if state := stateOf(status); state != Running && state != Paused {
			return fmt.Errorf("it is %s: what was saved could not go on", state)
		}
		// All disks are still after this, nothing is under way.
		if err := m.execute(ctx, "stop", nil, nil); err != nil {
			return err
		}
		// First the disks: once the memory is written, QEMU holds its images
		// inactive, as being for whoever goes on from there.
		if err := m.freeze(ctx, overlays); err != nil {
			return err
		}
		return m.migrate(ctx, state)
	})
	if err != nil && ctx.Err() != nil {
		// QEMU goes on writing when its client is gone.
		return errors.Join(err, v.do(context.WithoutCancel(ctx), "stop saving", "migrate_cancel", nil))
	}
	return err
}

// Freeze has what is written to the disks go to overlays from one moment on, as
// Save does, while the guest runs on: what is frozen is as after a power cut.
func (v *VM) Freeze(ctx context.Context, overlays []Overlay) error {
	return v.talk(ctx, "freeze the disks of the virtual machine", func(ctx context.Context, m *monitor) error {
		if err := v.checkOverlays(overlays); err != nil {
			return err
		}
		return m.freeze(ctx, overlays)
	})
}

func (v *VM) checkOverlays(overlays []Overlay) error {
	var disks []int
	for _, o := range overlays {
		disks = append(disks, o.Disk)
		if !filepath.IsAbs(o.Path) {
			return fmt.Errorf("the overlay %q is no absolute path", o.Path)
		}
		if _, err := os.Lstat(o.Path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make the overlay %s: %w", o.Path, errors.Join(err, fs.ErrExist))
		}
	}
	slices.Sort(disks)
	if !slices.Equal(disks, v.record.Writable) {
		return fmt.Errorf("there are overlays for the disks %v, and the guest writes to the disks %v", disks, v.record.Writable)
	}
	return nil
}

// freeze puts a new overlay on each disk, on all of them or on none.
func (m *monitor) freeze(ctx context.Context, overlays []Overlay) error {
	if len(overlays) == 0 {
		return nil
	}
	nodes, err := m.nodes(ctx)
	if err != nil {
		return err
	}
	var actions []any
	for _, o := range overlays {
		node, ok := nodes[deviceDisk(o.Disk)]
		if !ok {
			return fmt.Errorf("QEMU knows no disk %d", o.Disk)
		}
		actions = append(actions, map[string]any{"type": "blockdev-snapshot-sync", "data": map[string]any{
			"node-name":          node,
			"snapshot-file":      o.Path,
			"snapshot-node-name": nextNode(node),
			"format":             "qcow2",
		}})
	}
	if err := m.execute(ctx, "transaction", map[string]any{"actions": actions}, nil); err != nil {
		return fmt.Errorf("freeze the disks: %w", err)
	}
	return nil
}

// nodes returns the block node that each device writes to now: after a Save
// it is no longer the one that the machine was started with.
func (m *monitor) nodes(ctx context.Context) (map[string]string, error) {
	var devices []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := m.execute(ctx, "query-block", nil, &devices); err != nil {
		return nil, err
	}
	nodes := map[string]string{}
	for _, d := range devices {
		// "disk0", or "/machine/peripheral/disk0/virtio-backend".
		for part := range strings.SplitSeq(d.QDev, "/") {
			if strings.HasPrefix(part, "disk") {
				nodes[part] = d.Inserted.Node
			}
		}
	}
	return nodes, nil
}

// nextNode names the node above disk0-3: disk0-4.
func nextNode(node string) string {
	device, number, _ := strings.Cut(node, "-")
	var n int
	_, _ = fmt.Sscan(number, &n)
	return fmt.Sprintf("%s-%d", device, n+1)
}

// migrate writes memory and devices to a file.
func (m *monitor) migrate(ctx context.Context, state *os.File) error {
	// By default it is held back to 128 MB/s, for the sake of a network.
	const unlimited = 1 << 40
	if err := m.execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": unlimited}, nil); err != nil {
		return err
	}
	if err := m.execute(ctx, "getfd", map[string]any{"fdname": "state"}, nil, state); err != nil {
		return err
	}
	if err := m.execute(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	for {
		var answer struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := m.execute(ctx, "query-migrate", nil, &answer); err != nil {
			return err
		}
		switch answer.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("write the state: %s: %s", answer.Status, strings.TrimSpace(answer.Desc+" (is the disk full?)"))
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}
