package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// Maps are the data path's maps, typed. Methods may be called concurrently;
// each is one system call or a walk over one map.
type Maps struct {
	maps bpf.LBMaps
	// table is what a Maglev table is made from; its size is set for each.
	table ebpf.MapSpec
	// tableSize is Limits.TableSize.
	tableSize uint32
	// dropReasons names the entries of the map drops. It parses the object, so only when asked.
	dropReasons func() ([]string, error)
}

// mapNames are the maps' names in the program, which are the pins' names too.
var mapNames = [...]string{
	bpf.LBMapConfig, bpf.LBMapServices, bpf.LBMapBackends, bpf.LBMapMaglev, bpf.LBMapNeighbours,
	bpf.LBMapConntrack, bpf.LBMapNat, bpf.LBMapServiceStats, bpf.LBMapBackendStats, bpf.LBMapDrops,
}

// newMaps takes the maps by their names.
func newMaps(byName map[string]*ebpf.Map, table ebpf.MapSpec, tableSize uint32) (*Maps, error) {
	m := &Maps{table: table, tableSize: tableSize, dropReasons: sync.OnceValues(bpf.DropReasons)}
	for name, field := range map[string]**ebpf.Map{
		bpf.LBMapConfig:       &m.maps.Config,
		bpf.LBMapServices:     &m.maps.Services,
		bpf.LBMapBackends:     &m.maps.Backends,
		bpf.LBMapMaglev:       &m.maps.Maglev,
		bpf.LBMapNeighbours:   &m.maps.Neighbours,
		bpf.LBMapConntrack:    &m.maps.Conntrack,
		bpf.LBMapNat:          &m.maps.Nat,
		bpf.LBMapServiceStats: &m.maps.ServiceStats,
		bpf.LBMapBackendStats: &m.maps.BackendStats,
		bpf.LBMapDrops:        &m.maps.Drops,
	} {
		found, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("the program has no map %q", name)
		}
		*field = found
	}
	return m, nil
}

func (m *Maps) close() error { return m.maps.Close() }

// Limits returns the sizes of the maps.
func (m *Maps) Limits() Limits {
	return Limits{
		Services:  min(m.maps.Services.MaxEntries(), m.maps.Maglev.MaxEntries(), m.maps.ServiceStats.MaxEntries()),
		Backends:  min(m.maps.Backends.MaxEntries(), m.maps.BackendStats.MaxEntries()),
		TableSize: m.tableSize,
	}
}

// PutConfig writes the interface's facts and the lifetimes. A balancer without
// them, its address 0, passes every packet.
func (m *Maps) PutConfig(c Config) error {
	return explain("write the map config", m.maps.Config.Put(uint32(0), c.wire()))
}

// Config reads what PutConfig wrote; its Address is 0.0.0.0 when nobody did.
func (m *Maps) Config() (Config, error) {
	var w bpf.LBLbConfig
	if err := m.maps.Config.Lookup(uint32(0), &w); err != nil {
		return Config{}, fmt.Errorf("read the map config: %w", err)
	}
	return configFromWire(w), nil
}

// Services reads all services.
func (m *Maps) Services() (map[ServiceKey]Service, error) {
	services := make(map[ServiceKey]Service)
	var key bpf.LBServiceKey
	var value bpf.LBService
	all := m.maps.Services.Iterate()
	for all.Next(&key, &value) {
		services[serviceKeyFromWire(key)] = serviceFromWire(value)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the map services: %w", err)
	}
	return services, nil
}

// PutService creates or replaces a service in one write.
func (m *Maps) PutService(key ServiceKey, s Service) error {
	return explain(fmt.Sprintf("write service %s to the map services", key),
		m.maps.Services.Put(key.wire(), s.wire()))
}

// DeleteService removes a service; there being none is no error.
func (m *Maps) DeleteService(key ServiceKey) error {
	return explain(fmt.Sprintf("delete service %s from the map services", key),
		absentIsFine(m.maps.Services.Delete(key.wire())))
}

// Backends reads all backends by id.
func (m *Maps) Backends() (map[uint32]Backend, error) {
	all, err := readArray[bpf.LBBackend](m.maps.Backends)
	if err != nil {
		return nil, fmt.Errorf("read the map backends: %w", err)
	}
	backends := make(map[uint32]Backend)
	for id, w := range all {
		if w.Address != 0 {
			backends[uint32(id)] = backendFromWire(w)
		}
	}
	return backends, nil
}

// PutBackend writes a backend under an id. What the id has counted stays:
// see ClearBackendTraffic.
func (m *Maps) PutBackend(id uint32, b Backend) error {
	return explain(fmt.Sprintf("write backend %d (%s) to the map backends", id, b.Address),
		m.maps.Backends.Put(id, b.wire()))
}

// DeleteBackend frees an id. Flows that go to the backend live on: their
// conntrack entries have its address.
func (m *Maps) DeleteBackend(id uint32) error {
	return explain(fmt.Sprintf("delete backend %d from the map backends", id),
		m.maps.Backends.Put(id, bpf.LBBackend{}))
}

// Neighbours reads the next hops' MACs by backend address.
func (m *Maps) Neighbours() (map[netip.Addr]MAC, error) {
	neighbours := make(map[netip.Addr]MAC)
	var key uint32
	var value bpf.LBNeighbour
	all := m.maps.Neighbours.Iterate()
	for all.Next(&key, &value) {
		neighbours[addrFromWire(key)] = value.Mac
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the map neighbours: %w", err)
	}
	return neighbours, nil
}

// PutNeighbour writes the MAC of the next hop towards a backend.
func (m *Maps) PutNeighbour(backend netip.Addr, mac MAC) error {
	return explain(fmt.Sprintf("write %s to the map neighbours", backend),
		m.maps.Neighbours.Put(addrToWire(backend), bpf.LBNeighbour{Mac: mac}))
}

// DeleteNeighbour removes a backend's; there being none is no error.
func (m *Maps) DeleteNeighbour(backend netip.Addr) error {
	return explain(fmt.Sprintf("delete %s from the map neighbours", backend),
		absentIsFine(m.maps.Neighbours.Delete(addrToWire(backend))))
}

func absentIsFine(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// explain says what was attempted; nil stays nil.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func isPermission(err error) bool { return errors.Is(err, fs.ErrPermission) }
