// Package service turns desired services into the contents of the data path's
// maps. A Manager holds what is wanted, keeps it in a file, and writes only
// what differs from what the maps hold, in an order in which no packet meets
// half an update:
//
//	new backends -> their next hops asked for -> Maglev table -> service entry
//	-> (only then) what nobody uses any more is removed
//
// A backend keeps its id, and a service its slot, through updates and restarts,
// since counters and connections refer to them.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// Store is where services are written: datapath.Maps, or a fake.
type Store interface {
	Limits() datapath.Limits
	Services() (map[datapath.ServiceKey]datapath.Service, error)
	PutService(datapath.ServiceKey, datapath.Service) error
	DeleteService(datapath.ServiceKey) error
	ClearServiceTraffic(slot uint32) error
	Backends() (map[uint32]datapath.Backend, error)
	ClearBackendTraffic(id uint32) error
	PutBackend(id uint32, b datapath.Backend) error
	DeleteBackend(id uint32) error
	Slots() ([]uint32, error)
	Table(slot uint32) ([]uint32, error)
	PutTable(slot uint32, table []uint32) error
	DeleteTable(slot uint32) error
}

// NextHops is told which backends there are. Want gives the new ones a moment
// to be resolved and returns; that some are not is no error.
type NextHops interface {
	Want(ctx context.Context, backends []netip.Addr) error
}

// Options make a Manager.
type Options struct {
	Store    Store
	NextHops NextHops
	// Saved is what ReadState returned, and where the desired state is kept.
	Saved Saved
	// DefaultMode is for services that name none; 0 means what the state file says, else DSR.
	DefaultMode datapath.Mode
	// Own is the balancer's address, which can be neither frontend nor backend.
	Own netip.Addr
	Log *slog.Logger
}

// Manager is the one writer of services, backends and Maglev tables. Its
// methods may be called concurrently; updates are done one after the other.
type Manager struct {
	store     Store
	hops      NextHops
	stateFile string
	own       netip.Addr
	log       *slog.Logger

	mu      sync.Mutex
	desired state
	actual  map[uint32]programmed
	// backendIDs and slots are the numbers in use.
	backendIDs numbers[backendOwner]
	slots      numbers[slotOwner]
}

// programmed is what the maps hold of a service.
type programmed struct {
	key   datapath.ServiceKey
	entry datapath.Service
	// ids are the backends' by their addresses.
	ids map[netip.AddrPort]uint32
	// stale says that the table in the map may not be the one that ids give.
	stale bool
}

// Open reads what the maps hold and makes them as the saved state desires.
// Without a state file, the maps' services become the desired ones. A state that
// cannot be met with this balancer's address is refused before anything is written.
func Open(ctx context.Context, options Options) (*Manager, error) {
	saved := options.Saved
	m := &Manager{
		store:     options.Store,
		hops:      options.NextHops,
		stateFile: saved.path,
		own:       options.Own,
		log:       options.Log,
		desired:   saved.state.clone(),
	}
	limits := m.store.Limits()
	m.backendIDs = newNumbers[backendOwner](1, limits.Backends)
	m.slots = newNumbers[slotOwner](0, limits.Services)
	if err := m.validateAll("the state file " + m.stateFile); err != nil {
		return nil, err
	}
	if err := m.readActual(); err != nil {
		return nil, fmt.Errorf("read the services that the maps hold: %w", err)
	}
	m.backendIDs.next, m.slots.next = saved.state.NextBackend, saved.state.NextSlot
	m.backendIDs.remember(saved.state.FormerBackends)
	m.slots.remember(saved.state.FormerSlots)
	if !saved.found {
		m.adopt()
		if err := m.validateAll("the pinned maps"); err != nil {
			return nil, err
		}
	}
	if options.DefaultMode != 0 {
		m.desired.Mode = options.DefaultMode.String()
	}
	if err := m.reconcile(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Save writes the state file as it is after Open: with what was adopted, and the default mode.
func (m *Manager) Save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.save(m.desired)
}

// adopt makes what the maps hold the desired state.
func (m *Manager) adopt() {
	for id, p := range m.actual {
		if len(p.ids) == 0 {
			continue
		}
		backends := slices.SortedFunc(maps.Keys(p.ids), func(a, b netip.AddrPort) int {
			return int(p.ids[a]) - int(p.ids[b])
		})
		m.desired.Services[id] = api.Service{
			ID:        id,
			Frontend:  p.key.Frontend,
			Protocol:  p.key.Protocol.String(),
			Mode:      p.entry.Mode.String(),
			TableSize: p.entry.TableSize,
			Backends:  backends,
		}
		m.log.Info("service adopted from the pinned maps", "id", id, "frontend", p.key.Frontend)
	}
}

// reconcile makes the maps as desired at start. Entries that nobody wants go
// first: they may hold the numbers that the others need.
func (m *Manager) reconcile(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(m.actual)) {
		if _, wanted := m.desired.Services[id]; wanted {
			continue
		}
		if err := m.remove(id); err != nil {
			return err
		}
	}
	// All at once: for those that are silent it waits once, not for each service.
	var all []netip.AddrPort
	for _, s := range m.desired.Services {
		all = append(all, s.Backends...)
	}
	if err := m.wantHops(ctx, all); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(m.desired.Services)) {
		s := m.desired.Services[id]
		if err := m.program(ctx, s); err != nil {
			return fmt.Errorf("service %d (%s) of %s: %w", id, s.Frontend, m.stateFile, err)
		}
	}
	return m.wantHops(ctx, nil)
}

// Services returns the desired services, ordered by id.
func (m *Manager) Services() []api.Service {
	m.mu.Lock()
	defer m.mu.Unlock()
	services := make([]api.Service, 0, len(m.desired.Services))
	for _, id := range slices.Sorted(maps.Keys(m.desired.Services)) {
		services = append(services, m.desired.Services[id])
	}
	return services
}

// Service returns one desired service, or api.ErrNotFound.
func (m *Manager) Service(id uint32) (api.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.desired.Services[id]
	if !ok {
		return api.Service{}, notFound(id)
	}
	return s, nil
}

// Numbers says where a service's counters are.
type Numbers struct {
	ID, Slot uint32
	// Backends are their ids by address.
	Backends map[netip.AddrPort]uint32
}

// Numbers returns the slots and backend ids of all services, ordered by id.
func (m *Manager) Numbers() []Numbers {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Numbers, 0, len(m.actual))
	for _, id := range slices.Sorted(maps.Keys(m.actual)) {
		p := m.actual[id]
		list = append(list, Numbers{ID: id, Slot: p.entry.Slot, Backends: maps.Clone(p.ids)})
	}
	return list
}

// Put creates or replaces a service. A refusal is an *api.Error that names the
// field; then, and when the maps cannot be written, everything is as before.
func (m *Manager) Put(ctx context.Context, s api.Service) (api.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.complete(s)
	if err != nil {
		return api.Service{}, err
	}
	next := m.desired.clone()
	next.Services[s.ID] = s
	return s, m.change(ctx, next, s.ID)
}

// Delete removes a service, or is api.ErrNotFound.
func (m *Manager) Delete(ctx context.Context, id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.desired.Services[id]; !ok {
		return notFound(id)
	}
	next := m.desired.clone()
	delete(next.Services, id)
	return m.change(ctx, next, id)
}

// SetMode changes one service, or with id 0 all and the default. Flows that
// began go on as they began.
func (m *Manager) SetMode(ctx context.Context, mode string, id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mode == "" {
		return &api.Error{Field: "mode", Message: "missing: dsr or snat"}
	}
	if _, err := datapath.ParseMode(mode); err != nil {
		return &api.Error{Field: "mode", Message: err.Error()}
	}
	if _, ok := m.desired.Services[id]; id != 0 && !ok {
		return notFound(id)
	}
	next := m.desired.clone()
	var changed []uint32
	for _, sid := range slices.Sorted(maps.Keys(next.Services)) {
		s := next.Services[sid]
		if id != 0 && sid != id || s.Mode == mode {
			continue
		}
		s.Mode = mode
		if err := m.validate(s); err != nil {
			return ofService(sid, err)
		}
		next.Services[sid] = s
		changed = append(changed, sid)
	}
	if id == 0 {
		next.Mode = mode
	}
	return m.change(ctx, next, changed...)
}

// change saves the new desired state and then programs the services that it
// touches. When that fails it goes back to the old state, file and maps.
func (m *Manager) change(ctx context.Context, next state, touched ...uint32) error {
	previous := m.desired
	if err := m.save(next); err != nil {
		return err
	}
	m.desired = next
	err := m.apply(ctx, touched)
	if err == nil {
		// Again, now with the numbers that were given out. The services are
		// saved already, and in place: what fails here is no failed update.
		if err := m.save(m.desired); err != nil {
			m.log.Error("the update is in place and saved; which numbers it got could not be saved", "error", err)
		}
		return nil
	}
	m.desired = previous
	// The caller may have gone, which is no reason to leave half an update.
	undo := errors.Join(m.apply(context.WithoutCancel(ctx), touched), m.save(previous))
	if undo != nil {
		m.log.Error("an update failed and could not be undone", "error", err, "undo", undo)
		return errors.Join(err, fmt.Errorf("go back to the state before: %w", undo))
	}
	return err
}

func (m *Manager) apply(ctx context.Context, ids []uint32) error {
	for _, id := range ids {
		s, wanted := m.desired.Services[id]
		var err error
		if wanted {
			err = m.program(ctx, s)
		} else {
			err = m.remove(id)
		}
		if err != nil {
			return err
		}
	}
	return m.wantHops(ctx, nil)
}

// wantHops tells which backends there are, and more that are about to be.
func (m *Manager) wantHops(ctx context.Context, more []netip.AddrPort) error {
	var all []netip.Addr
	for _, p := range m.actual {
		for b := range p.ids {
			all = append(all, b.Addr())
		}
	}
	for _, b := range more {
		all = append(all, b.Addr())
	}
	slices.SortFunc(all, netip.Addr.Compare)
	if err := m.hops.Want(ctx, slices.Compact(all)); err != nil {
		return fmt.Errorf("find the next hops towards the backends: %w", err)
	}
	return nil
}

func notFound(id uint32) error {
	return &api.Error{Field: "id", Message: fmt.Sprintf("there is no service %d", id), Code: 404}
}

// ofService puts a service's number into a refusal, whose own text is what a
// client gets to read.
func ofService(id uint32, err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return fmt.Errorf("service %d: %w", id, err)
	}
	numbered := *refusal
	numbered.Message = fmt.Sprintf("service %d: %s", id, refusal.Message)
	return &numbered
}

func tableOf(backends map[netip.AddrPort]uint32, protocol datapath.Protocol, size uint32) ([]uint32, error) {
	list := make([]maglev.Backend, 0, len(backends))
	for address, id := range backends {
		list = append(list, maglev.Backend{ID: id, Address: address, Protocol: uint8(protocol), Weight: 1})
	}
	return maglev.Table(list, size)
}
