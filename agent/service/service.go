// Package service turns desired services into the contents of the data path's
// maps. A Manager holds what is wanted, keeps it in a file, and writes only
// what differs from what the maps hold, in an order in which no packet meets
// half an update:
//
//	new backends -> their next hops asked for -> Maglev tables -> service entries
//	-> (only then) what gets no new flows any more is marked or removed
//
// A backend keeps its id, and a service its slot, through updates and restarts,
// since counters and connections refer to them. A backend that left its service keeps
// its id while connections have it: the sweep's findings come in through Swept.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
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
	PutBackends(map[uint32]datapath.Backend) error
	DeleteBackend(id uint32) error
	Slots() ([]uint32, error)
	Table(slot uint32) ([]uint32, error)
	PutTable(slot uint32, table []uint32) error
	PutTables(map[uint32][]uint32) error
	DeleteTable(slot uint32) error
	Sources(slot uint32) ([]netip.Prefix, error)
	PutSources(slot uint32, allowed []netip.Prefix) error
}

// NextHops is told which backends there are.
type NextHops interface {
	// Want adds backends, gives those that are new a moment to be resolved and
	// returns; that some are not is no error.
	Want(ctx context.Context, backends []netip.Addr) error
	// Drop says that there is no backend of that address any more.
	Drop(backend netip.Addr) error
}

// Options make a Manager.
type Options struct {
	Store    Store
	NextHops NextHops
	// Saved is what ReadState returned, and where the desired state is kept.
	Saved Saved
	// Declared, if not nil, are the services instead of those of the state file,
	// whose numbering goes on; a refusal names the field as services[2].mode.
	Declared []api.Service
	// DefaultMode is for services that name none; 0 means what the state file says, else DSR.
	DefaultMode datapath.Mode
	// DrainAfter bounds the draining of backends for which no deadline is given; 0 does not.
	DrainAfter time.Duration
	// Own4 and Own6 are the balancer's addresses, which can be neither frontend
	// nor backend; invalid where it has none of the family.
	Own4, Own6 netip.Addr
	// Admit, if not nil, refuses what this system cannot do; it is asked with the defaults filled in.
	Admit func(api.Service) error
	Log   *slog.Logger
}

// Manager is the one writer of services, backends and Maglev tables. Its
// methods may be called concurrently; updates are done one after the other.
type Manager struct {
	store      Store
	hops       NextHops
	own4, own6 netip.Addr
	admit      func(api.Service) error
	log        *slog.Logger
	// wake tells Run that a deadline may have changed.
	wake chan struct{}

	mu      sync.Mutex
	journal journal
	desired state
	actual  map[uint32]*programmed
	// holders says of which service the entry under a key is.
	holders map[datapath.ServiceKey]uint32
	// backendIDs and slots are the numbers in use.
	backendIDs numbers[backendOwner]
	slots      numbers[slotOwner]
	// reusedSlots went to another service since the last save.
	reusedSlots []uint32
	// hopUsers counts the backends of each address; hopsDue are still to be asked for.
	hopUsers map[netip.Addr]int
	hopsDue  []netip.Addr
	// leaving are the backends, by id, that go once they have no flows.
	leaving map[uint32]leaver
	// undeleted are the ids, and what they were, that could not be deleted yet.
	undeleted map[uint32]backendOwner
	// unhealthy are the backends that failed their checks, by service.
	unhealthy map[uint32]map[netip.AddrPort]bool
	// drainAfter is Options.DrainAfter.
	drainAfter time.Duration
	// changed is closed and replaced when a desired service is another one.
	changed chan struct{}
}

// Open reads what the maps hold and makes them as the saved state desires. No
// connection may have the id of a backend that is not there: see conntrack.Sweeper.
// Without a state file, the maps' services become the desired ones. A state that
// cannot be met with this balancer's address is refused before anything is written.
func Open(ctx context.Context, options Options) (*Manager, error) {
	saved := options.Saved
	m := &Manager{
		store:     options.Store,
		hops:      options.NextHops,
		own4:      options.Own4,
		own6:      options.Own6,
		admit:     options.Admit,
		log:       options.Log,
		wake:      make(chan struct{}, 1),
		journal:   journal{path: saved.path},
		desired:   saved.state,
		actual:    make(map[uint32]*programmed),
		holders:   make(map[datapath.ServiceKey]uint32),
		hopUsers:  make(map[netip.Addr]int),
		leaving:   make(map[uint32]leaver),
		undeleted: make(map[uint32]backendOwner),
		unhealthy: make(map[uint32]map[netip.AddrPort]bool),
		changed:   make(chan struct{}),
	}
	limits := m.store.Limits()
	m.backendIDs = newNumbers[backendOwner](1, limits.Backends)
	m.slots = newNumbers[slotOwner](0, limits.Services)
	m.drainAfter = options.DrainAfter
	if options.DefaultMode != 0 {
		m.desired.mode = options.DefaultMode.String()
	}
	if err := m.begins(options.Declared, saved); err != nil {
		return nil, err
	}
	if err := m.readActual(); err != nil {
		return nil, fmt.Errorf("read the services that the maps hold: %w", err)
	}
	m.takeOverNumbers(saved)
	if !saved.found && options.Declared == nil {
		m.adopt()
		if err := m.validateAll("the pinned maps"); err != nil {
			return nil, err
		}
	}
	m.takeOverHealth()
	if err := m.readTables(); err != nil {
		return nil, fmt.Errorf("read the services that the maps hold: %w", err)
	}
	if err := m.reconcile(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manager) takeOverNumbers(saved Saved) {
	m.backendIDs.next, m.slots.next = saved.state.nextBackend, saved.state.nextSlot
	if !saved.found {
		m.backendIDs.afterUsed()
		m.slots.afterUsed()
	}
	m.backendIDs.remember(saved.state.formerBackends)
	m.slots.remember(saved.state.formerSlots)
	for _, f := range m.backendIDs.former {
		m.backendIDs.hold(f.Number) // flows of before may have it
	}
}

// reconcile makes the maps as desired at start. Entries that nobody wants go
// first: they may hold the numbers that the others need.
func (m *Manager) reconcile(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(m.actual)) {
		if _, wanted := m.desired.services[id]; wanted {
			continue
		}
		if err := m.remove(id); err != nil {
			return err
		}
	}
	if err := m.converge(ctx, m.desired.ids()); err != nil {
		return fmt.Errorf("program the services of %s: %w", m.journal.path, err)
	}
	return nil
}

// Save writes the state file as it is after Open: with what was adopted, and the default mode.
func (m *Manager) Save() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saveAll()
}

// Close writes the state file anew and lets go of it. What is programmed stays.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.saveAll(), m.journal.close())
}

// Services returns the desired services, ordered by id, with their backends' health.
func (m *Manager) Services() []api.Service {
	m.mu.Lock()
	defer m.mu.Unlock()
	services := make([]api.Service, 0, len(m.desired.services))
	for _, id := range m.desired.ids() {
		services = append(services, m.withHealth(m.desired.services[id]))
	}
	return services
}

// Service returns one desired service, or api.ErrNotFound.
func (m *Manager) Service(id uint32) (api.Service, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.desired.services[id]
	if !ok {
		return api.Service{}, notFound(id)
	}
	return m.withHealth(s), nil
}

// Changed returns a channel that is closed once a desired service is another one
// than now. Take it before reading the services, and no change is missed.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
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
	for _, id := range m.desired.ids() {
		p := m.actual[id]
		if p == nil {
			continue
		}
		n := Numbers{ID: id, Slot: p.entry.Slot, Backends: make(map[netip.AddrPort]uint32, len(p.members))}
		for _, b := range m.desired.services[id].Backends {
			if member := p.members[b.Address]; member != nil {
				n.Backends[b.Address] = member.id
			}
		}
		list = append(list, n)
	}
	return list
}

func notFound(id uint32) error {
	return &api.Error{Field: "id", Message: fmt.Sprintf("there is no service %d", id), Code: http.StatusNotFound}
}
