package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"l4lab/lab/provider"
	"l4lab/lab/state"
)

// ErrNoSnapshots: the lab's provider keeps no state of machines.
var ErrNoSnapshots = errors.New("this provider keeps no snapshots")

// SaveSnapshot keeps what all nodes of the lab are, memory and disks, under a name,
// and what the lab was to be at that moment.
func (l *Lab) SaveSnapshot(ctx context.Context, name string) error {
	return l.keeping(ctx, func(k provider.Keeper, r running) error {
		data, err := json.Marshal(r.state)
		if err != nil {
			return err
		}
		if err := k.SaveSnapshot(ctx, r.lab, name); err != nil {
			return err
		}
		return state.WriteFile(l.snapshotFile(name), data, 0o600)
	})
}

// RestoreSnapshot has all nodes go on from a kept state. The lab is to be again what it
// was to be then, its services' modes for one.
func (l *Lab) RestoreSnapshot(ctx context.Context, name string) error {
	return l.keeping(ctx, func(k provider.Keeper, r running) error {
		if err := k.RestoreSnapshot(ctx, r.lab, name); err != nil {
			return err
		}
		data, err := os.ReadFile(l.snapshotFile(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was saved by a labctl that was killed before it had written this down
		}
		was := r.state
		if err == nil {
			err = json.Unmarshal(data, &was)
		}
		if err != nil {
			return fmt.Errorf("find out what lab %s was to be: %w; `labctl up FILE` says it anew", l.name, err)
		}
		return l.options.Store.Save(was)
	})
}

// RemoveSnapshot forgets a kept state.
func (l *Lab) RemoveSnapshot(ctx context.Context, name string) error {
	return l.keeping(ctx, func(k provider.Keeper, r running) error {
		if err := k.RemoveSnapshot(r.lab, name); err != nil {
			return err
		}
		if err := os.Remove(l.snapshotFile(name)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// snapshotFile is where stands what the lab was to be when a snapshot was taken.
func (l *Lab) snapshotFile(name string) string {
	return filepath.Join(l.Dir(), "snapshot-"+name+".json")
}

// Snapshots lists the kept states, the oldest first.
func (l *Lab) Snapshots() ([]provider.Snapshot, error) {
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	k, err := r.keeper()
	if err != nil {
		return nil, err
	}
	return k.Snapshots(r.lab)
}

func (r running) keeper() (provider.Keeper, error) {
	k, ok := r.driver.Provider.(provider.Keeper)
	if !ok {
		return nil, fmt.Errorf("lab %s: %w: %s; virtual machines have them (--provider qemu)", r.state.Name, ErrNoSnapshots, r.driver.Name)
	}
	return k, nil
}

// keeping does something with the lab's snapshots while nobody else changes the lab.
func (l *Lab) keeping(ctx context.Context, do func(provider.Keeper, running) error) error {
	if _, err := l.load(); err != nil {
		return err // before the lock makes a folder
	}
	lock, err := l.options.Store.Lock(ctx, l.name)
	if err != nil {
		return err
	}
	defer lock.Release()
	r, err := l.load()
	if err != nil {
		return err
	}
	k, err := r.keeper()
	if err != nil {
		return err
	}
	if r.state.Phase != state.Up {
		return fmt.Errorf("lab %s is not wholly up (%s); `labctl up --name %s` first", l.name, r.state.Phase, l.name)
	}
	return do(k, r)
}
