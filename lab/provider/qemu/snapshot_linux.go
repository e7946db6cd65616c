package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/guest"
	"l4lab/lab/guest/keys"
	"l4lab/lab/provider"
	"l4lab/lab/provider/qemu/image"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/lab/state"
)

// snapshot is what all nodes of a lab were at one moment. Its folder holds the
// guests' memory; their disks stay where they were frozen.
type snapshot struct {
	Name  string    `json:"name"`
	Taken time.Time `json:"taken"`
	// QEMU is the version that wrote the memory, Accel how the guests ran: what
	// reads it must be the same.
	QEMU  string          `json:"qemu"`
	Accel string          `json:"accel"`
	Nodes map[string]kept `json:"nodes"`
}

// kept is one node of a snapshot.
type kept struct {
	// Design is the hash of what the machine was made from.
	Design string `json:"design"`
	// Disk is the frozen disk, Memory the file with the guest's memory.
	Disk   string `json:"disk"`
	Memory string `json:"memory"`
}

const (
	snapshotFile = "snapshot.json"
	// partPrefix begins the name of a folder that is being written.
	partPrefix = ".new-"
)

func snapshotsDir(lab provider.Lab) string { return filepath.Join(lab.Dir, "snapshots") }

func readSnapshot(dir string) (snapshot, error) {
	var s snapshot
	data, err := os.ReadFile(filepath.Join(dir, snapshotFile))
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// SaveSnapshot implements provider.Keeper. All machines stand still meanwhile.
func (p *Provider) SaveSnapshot(ctx context.Context, lab provider.Lab, name string) error {
	dir := filepath.Join(snapshotsDir(lab), name)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("snapshot %s of lab %s: %w; remove it, or take another name", name, lab.Topology.Name, fs.ErrExist)
	}
	return p.save(ctx, lab, name, dir, false)
}

// save writes a snapshot into a folder, which appears whole or not at all. One that
// is to outlive the lab has disks and keys of its own.
func (p *Provider) save(ctx context.Context, lab provider.Lab, name, dir string, outlives bool) (err error) {
	version, err := p.version(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), partPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = multierror.Append(err, os.RemoveAll(part)).ErrorOrNil()
		}
	}()
	nodes := lab.Topology.NodeNames()
	s := snapshot{Name: name, Taken: time.Now(), QEMU: version, Nodes: map[string]kept{}}
	machines := map[string]*vm.VM{}
	for _, node := range nodes {
		v, err := vm.Open(state.NodeDir(lab.Dir, node))
		if err == nil && !v.Alive() {
			err = errors.New("it does not run")
		}
		if err != nil {
			return fmt.Errorf("%s: keep its state: %w; `labctl up` starts it", node, err)
		}
		machines[node] = v
		if err := p.hangUp(ctx, lab, node); err != nil {
			return fmt.Errorf("%s: keep its state: %w", node, err)
		}
	}
	if err := each(nodes, func(node string) error { return machines[node].Pause(ctx) }); err != nil {
		return multierror.Append(err, p.goOn(ctx, machines))
	}
	var mu sync.Mutex
	err = each(nodes, func(node string) error {
		k, accel, err := p.freeze(ctx, lab, node, machines[node], filepath.Join(part, node+".memory"))
		if err != nil {
			return err
		}
		if outlives {
			// A second name: the machine goes on with the first one.
			if err := os.Link(k.Disk, filepath.Join(part, node+".qcow2")); err != nil {
				return fmt.Errorf("%s: keep its disk: %w", node, err)
			}
			k.Disk = filepath.Join(dir, node+".qcow2")
		}
		k.Memory = filepath.Join(dir, node+".memory")
		mu.Lock()
		defer mu.Unlock()
		s.Nodes[node], s.Accel = k, accel
		return nil
	})
	if err := multierror.Append(err, p.goOn(ctx, machines)).ErrorOrNil(); err != nil {
		return err
	}
	if outlives {
		if err := copyKeys(filepath.Join(lab.Dir, keys.Folder), filepath.Join(part, keys.Folder)); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := state.WriteFile(filepath.Join(part, snapshotFile), data, 0o600); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

// freeze writes a paused machine's memory, and moves it onto a new overlay.
func (p *Provider) freeze(ctx context.Context, lab provider.Lab, node string, v *vm.VM, memory string) (kept, string, error) {
	dir := state.NodeDir(lab.Dir, node)
	r, err := readRecord(dir)
	if err != nil {
		return kept{}, "", err
	}
	f, err := os.OpenFile(memory, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return kept{}, "", err
	}
	frozen := r.Disk
	r.Disk = nextDisk(dir)
	// Remembered first: a machine that was moved and is not written down would
	// be started from the frozen disk.
	err = v.Save(ctx, f, []vm.Overlay{{Disk: systemDisk, Path: filepath.Join(dir, r.Disk)}})
	if closing := f.Close(); err == nil {
		err = closing
	}
	if _, moved := os.Stat(filepath.Join(dir, r.Disk)); moved == nil {
		err = multierror.Append(err, r.write(dir)).ErrorOrNil()
	}
	return kept{Design: r.Design, Disk: filepath.Join(dir, frozen)}, r.Accel, err
}

// nextDisk is the name of a disk that a machine does not have yet.
func nextDisk(dir string) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("disk-%d.qcow2", n)
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
}

// goOn has machines that were paused go on, also when the caller's time is over.
func (p *Provider) goOn(ctx context.Context, machines map[string]*vm.VM) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	var names []string
	for name := range machines {
		names = append(names, name)
	}
	return each(names, func(name string) error { return machines[name].Continue(ctx) })
}

// each does something for all nodes side by side and returns all errors.
func each(nodes []string, do func(node string) error) error {
	var mu sync.Mutex
	var errs *multierror.Error
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Go(func() {
			if err := do(node); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = multierror.Append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs.ErrorOrNil()
}

// RestoreSnapshot implements provider.Keeper: all machines stop, and go on together
// from where they were.
func (p *Provider) RestoreSnapshot(ctx context.Context, lab provider.Lab, name string) error {
	s, err := readSnapshot(filepath.Join(snapshotsDir(lab), name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %s has no snapshot %s; `labctl snapshot list` has them: %w", lab.Topology.Name, name, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("read snapshot %s: %w", name, err)
	}
	err = p.goOnFrom(ctx, lab, s, func(b *build) error { return b.end(ctx) })
	if err != nil {
		return fmt.Errorf("snapshot %s: %w; `labctl up --name %s` mends the lab", name, err, lab.Topology.Name)
	}
	return nil
}

// goOnFrom has all nodes of a lab go on together from a kept state, once makeRoom has
// been there for each. What does not fit is found before anything is changed.
func (p *Provider) goOnFrom(ctx context.Context, lab provider.Lab, s snapshot, makeRoom func(b *build) error) error {
	nodes := lab.Topology.NodeNames()
	builds := map[string]*build{}
	for _, node := range nodes {
		b, err := p.prepare(ctx, lab, node)
		if err == nil {
			err = b.fits(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		builds[node] = b
	}
	machines := map[string]*vm.VM{}
	var mu sync.Mutex
	err := each(nodes, func(node string) error {
		b := builds[node]
		if err := makeRoom(b); err != nil {
			return err
		}
		v, err := b.load(ctx, s.Nodes[node])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		machines[node] = v
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.goOn(ctx, machines); err != nil {
		return err
	}
	return each(nodes, func(node string) error { return builds[node].settle(ctx, machines[node]) })
}

// fits says why a node cannot go on from a snapshot, nil when it can.
func (b *build) fits(ctx context.Context, s snapshot) error {
	k, there := s.Nodes[b.name]
	if !there {
		return errors.New("it is not in it")
	}
	version, err := b.version(ctx)
	if err != nil {
		return err
	}
	accel, err := b.acceleration()
	switch {
	case err != nil:
		return err
	case k.Design != b.design.hash():
		return errors.New("the machine has been made from something else since: another image, memory, address, key or eBPF files")
	case s.QEMU != version:
		return fmt.Errorf("it was taken by QEMU %s, and this is %s", s.QEMU, version)
	case s.Accel != string(accel):
		return fmt.Errorf("it was taken with %s, and guests run with %s now", s.Accel, accel)
	}
	for _, path := range []string{k.Disk, k.Memory} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the machine has been made anew since, and its disk of then is gone: %w; remove the snapshot", err)
		}
	}
	return nil
}

// load starts the machine from a kept state, paused.
func (b *build) load(ctx context.Context, k kept) (*vm.VM, error) {
	memory, err := os.Open(k.Memory)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	disk := nextDisk(b.dir)
	if err := image.Overlay(ctx, filepath.Join(b.dir, disk), k.Disk); err != nil {
		return nil, err
	}
	return b.launch(ctx, disk, memory)
}

// settle has a machine that goes on from a kept state answer, and sets its clock, which
// stood still.
func (b *build) settle(ctx context.Context, v *vm.VM) error {
	if b.design.windows != nil {
		return b.settleWindows(ctx, v)
	}
	if err := b.await(ctx, v, b.o.Limits.Revive); err != nil {
		return err
	}
	g, err := b.guest(b.lab, b.name)
	if err != nil {
		return err
	}
	if err := g.Run(ctx, guest.Command{Argv: []string{"date", "--utc", "--set", time.Now().UTC().Format("2006-01-02 15:04:05.000")}}); err != nil {
		return fmt.Errorf("%s: set its clock: %w", b.name, err)
	}
	return b.noteReady()
}

// Snapshots implements provider.Keeper.
func (p *Provider) Snapshots(lab provider.Lab) ([]provider.Snapshot, error) {
	entries, err := os.ReadDir(snapshotsDir(lab))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	list := []provider.Snapshot{}
	for _, e := range entries {
		s, err := readSnapshot(filepath.Join(snapshotsDir(lab), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // one that is being written
		}
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", e.Name(), err)
		}
		of := provider.Snapshot{Name: s.Name, Taken: s.Taken}
		for _, k := range s.Nodes {
			if st, err := os.Stat(k.Memory); err == nil {
				of.Bytes += st.Size()
			}
		}
		list = append(list, of)
	}
	slices.SortFunc(list, func(a, b provider.Snapshot) int { return cmp.Or(a.Taken.Compare(b.Taken), cmp.Compare(a.Name, b.Name)) })
	return list, nil
}

// RemoveSnapshot implements provider.Keeper. The frozen disks stay: later ones lie on them.
func (p *Provider) RemoveSnapshot(lab provider.Lab, name string) error {
	dir := filepath.Join(snapshotsDir(lab), name)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("lab %s has no snapshot %s: %w", lab.Topology.Name, name, err)
	}
	return os.RemoveAll(dir)
}
