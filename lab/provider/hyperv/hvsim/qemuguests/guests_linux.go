package qemuguests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-multierror"

	"l4lab/lab/provider/hyperv/hvsim"
	"l4lab/lab/provider/hyperv/hvsim/netnsguests"
	"l4lab/lab/provider/qemu/vm"
	"l4lab/topology"
)

// Guests implements hvsim.Guests: what it does not do itself the guests in
// namespaces do.
type Guests struct {
	*netnsguests.Guests
	accel vm.Accel
	log   *slog.Logger

	mu       sync.Mutex
	machines map[string]*guest
	closed   bool
}

var _ hvsim.Guests = (*Guests)(nil)

// New prepares the guests of one simulated host, once what an earlier instance
// with the same folder left is gone, QEMU's processes too; Close ends them. It
// needs root, QEMU and OVMF.
func New(ctx context.Context, o Options) (*Guests, error) {
	accel, _, err := vm.Probe(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("simulated guests: %w", err)
	}
	base, err := netnsguests.New(ctx, o.Options)
	if err != nil {
		return nil, err
	}
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	g := &Guests{Guests: base, accel: accel, log: log, machines: map[string]*guest{}}
	// What lies there is of machines that ended with the earlier instance.
	if err := os.RemoveAll(g.runDir("")); err != nil {
		return nil, errors.Join(fmt.Errorf("simulated guests: %w", err), g.Close(ctx))
	}
	return g, nil
}

// runDir is the folder of a machine's process. It has its socket, whose path has
// to be short, so that the name is the beginning of the machine's id.
func (g *Guests) runDir(id string) string { return g.Path("vm", id[:min(8, len(id))]) }

// knownFile remembers where a machine's disk is for the next instance: the
// model's machines outlive this one.
func (g *Guests) knownFile(id string) string { return g.Path("vmdisks", id) }

// usable says whether an id can be a file's name.
func usable(id string) bool {
	return id != "" && filepath.IsLocal(id) && !strings.ContainsRune(id, '/')
}

// lookup returns a machine that was ever turned on here, nil for every other.
func (g *Guests) lookup(id string) *guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.machines[id]; m != nil || !usable(id) {
		return m
	}
	dir, err := os.ReadFile(g.knownFile(id))
	if err != nil {
		return nil
	}
	m := &guest{guests: g, log: g.log, machine: hvsim.Machine{ID: id, Name: id, Dir: string(dir)}}
	g.machines[id] = m
	return m
}

// Start implements hvsim.Guests.
func (g *Guests) Start(ctx context.Context, m hvsim.Machine) error {
	if m.OS != topology.Linux || m.Image == "" {
		return g.Guests.Start(ctx, m)
	}
	if !usable(m.ID) || len(m.MAC) != 6 || m.Dir == "" {
		return fmt.Errorf("machine %s: id %q, MAC %q and folder %q are not usable", m.Name, m.ID, m.MAC, m.Dir)
	}
	var err error
	if m.Dir, err = filepath.Abs(m.Dir); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return errors.New("the simulated host has ended")
	}
	machine := g.machines[m.ID]
	if machine == nil {
		machine = &guest{guests: g}
		g.machines[m.ID] = machine
	}
	g.mu.Unlock()
	if err := machine.start(ctx, m); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return nil
}

// Stop implements hvsim.Guests. An orderly stop presses the power button and
// leaves the machine on when its system does not act on it.
func (g *Guests) Stop(ctx context.Context, id string, orderly bool) error {
	m := g.lookup(id)
	if m == nil {
		return g.Guests.Stop(ctx, id, orderly)
	}
	if err := m.stop(ctx, orderly); err != nil {
		return fmt.Errorf("machine %s: %w", m.machine.Name, err)
	}
	return nil
}

// State implements hvsim.Guests.
func (g *Guests) State(id string) hvsim.GuestState {
	if m := g.lookup(id); m != nil {
		return m.now()
	}
	return g.Guests.State(id)
}

// Remove implements hvsim.Guests.
func (g *Guests) Remove(ctx context.Context, id string) error {
	m := g.lookup(id)
	if m == nil {
		return g.Guests.Remove(ctx, id)
	}
	if err := m.remove(); err != nil {
		return fmt.Errorf("remove machine %s: %w", m.machine.Name, err)
	}
	g.mu.Lock()
	delete(g.machines, id)
	g.mu.Unlock()
	return g.Guests.Remove(ctx, id) // checkpoints of before it was first on
}

// Save implements hvsim.Guests.
func (g *Guests) Save(ctx context.Context, id, checkpoint string) error {
	m := g.lookup(id)
	if m == nil {
		return g.Guests.Save(ctx, id, checkpoint)
	}
	if err := m.save(ctx, checkpoint); err != nil {
		return fmt.Errorf("save checkpoint %s of %s: %w", checkpoint, m.machine.Name, err)
	}
	return nil
}

// Restore implements hvsim.Guests.
func (g *Guests) Restore(ctx context.Context, id, checkpoint string) error {
	m := g.lookup(id)
	if m == nil {
		return g.Guests.Restore(ctx, id, checkpoint)
	}
	if err := m.restore(ctx, checkpoint); err != nil {
		return fmt.Errorf("restore checkpoint %s of %s: %w", checkpoint, m.machine.Name, err)
	}
	return nil
}

// Close implements hvsim.Guests. The machines' disks stay where the model put them.
func (g *Guests) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	var machines []*guest
	for _, m := range g.machines {
		machines = append(machines, m)
	}
	g.mu.Unlock()
	var errs *multierror.Error
	for _, m := range machines {
		errs = multierror.Append(errs, m.stop(ctx, false))
	}
	return multierror.Append(errs, g.Guests.Close(ctx)).ErrorOrNil()
}
