package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"sync"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// Maps are the data path's maps, typed. Methods may be called concurrently. What
// stands in several places, such as a VIP in its filter or a next hop's MAC in all
// backends behind it, is kept right by the methods that change it.
type Maps struct {
	maps bpf.LBMaps
	// table is what a Maglev table is made from; its size is set for each.
	table ebpf.MapSpec
	// tableSize is Limits.TableSize.
	tableSize uint32
	// keeper, if not nil, keeps the tables alive.
	keeper *tableKeeper
	// dropReasons names the entries of the map drops. It parses the object, so only when asked.
	dropReasons func() ([]string, error)

	entries entryCounts

	// mu guards what follows, which mirrors the maps.
	mu       sync.Mutex
	counted  counted
	config   Config
	vips     vips
	backends backends
	sources  map[uint32]map[netip.Prefix]bool
}

// stagesMap is not among mapNames: each agent brings its own programs (see datapath_linux.go).
const stagesMap = bpf.LBMapStages

// layoutVersion is LAYOUT_VERSION of bpf/lib/types.h.
const layoutVersion = uint32(bpf.LBLayoutLAYOUT_VERSION)

// mapNames are the maps' names in the program, which are the pins' names too.
var mapNames = namesOf(reflect.TypeFor[bpf.LBMaps]())

func namesOf(maps reflect.Type) (names []string) {
	for i := range maps.NumField() {
		if name := maps.Field(i).Tag.Get("ebpf"); name != "" && name != stagesMap {
			names = append(names, name)
		}
	}
	return names
}

// newMaps takes the maps by their names, and reads what it mirrors.
func newMaps(byName map[string]*ebpf.Map, table ebpf.MapSpec, tableSize uint32) (*Maps, error) {
	table.Key, table.Value = nil, nil // else each table comes with type information of its own
	m := &Maps{table: table, tableSize: tableSize, dropReasons: sync.OnceValues(bpf.DropReasons), counted: newCounted()}
	fields := reflect.ValueOf(&m.maps).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Tag.Get("ebpf")
		if name == "" || name == stagesMap {
			continue
		}
		found, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("the program has no map %q", name)
		}
		fields.Field(i).Set(reflect.ValueOf(found))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m, errors.Join(m.readConfigLocked(), m.readVIPsLocked(), m.readBackendsLocked(), m.readSourcesLocked())
}

func (m *Maps) close() error { return m.maps.Close() }

// Limits returns the sizes of the maps.
func (m *Maps) Limits() Limits {
	return Limits{
		Services:    min(m.maps.Services.MaxEntries()/2, m.maps.Maglev.MaxEntries(), m.maps.ServiceStats.MaxEntries()),
		Backends:    min(m.maps.Backends.MaxEntries(), m.maps.BackendStats.MaxEntries()),
		Sources:     m.maps.Sources.MaxEntries(),
		Connections: m.maps.Flows4.MaxEntries(),
		TableSize:   m.tableSize,
	}
}

// PutConfig writes the interface's facts and the lifetimes. A balancer without
// them passes every packet.
func (m *Maps) PutConfig(c Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.putConfigLocked(c)
}

// ChangeConfig changes what PutConfig wrote; nobody else does so meanwhile.
func (m *Maps) ChangeConfig(change func(*Config)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.config
	change(&c)
	return m.putConfigLocked(c)
}

func (m *Maps) putConfigLocked(c Config) error {
	c.Layout = layoutVersion
	was := m.config
	for _, own := range c.own() {
		if err := m.vips.admit(m, own); err != nil {
			return err
		}
	}
	if err := m.maps.Config.Put(uint32(0), c.wire()); err != nil {
		faults := []error{fmt.Errorf("write the map config: %w", err)}
		for _, own := range c.own() {
			faults = append(faults, m.vips.dismiss(m, own))
		}
		return errors.Join(faults...)
	}
	m.config = c
	var faults []error
	for _, own := range was.own() {
		faults = append(faults, m.vips.dismiss(m, own))
	}
	return errors.Join(faults...)
}

// Config returns what PutConfig wrote, this agent or an earlier one; its
// addresses are invalid when nobody did.
func (m *Maps) Config() (Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.config, nil
}

func (m *Maps) readConfigLocked() error {
	var w bpf.LBLbConfig
	if err := m.maps.Config.Lookup(uint32(0), &w); err != nil {
		return fmt.Errorf("read the map config: %w", err)
	}
	m.config = configFromWire(w)
	if l := m.config.Layout; l != 0 && l != layoutVersion {
		return fmt.Errorf("the map config is of layout %d, this agent's is %d: %w", l, layoutVersion, ErrOtherLayout)
	}
	return nil
}

// Services reads all services.
func (m *Maps) Services() (map[ServiceKey]Service, error) {
	services := make(map[ServiceKey]Service)
	var key bpf.LBServiceKey
	var value bpf.LBService
	all := m.maps.Services.Iterate()
	for all.Next(&key, &value) {
		if !isVIPEntry(key) {
			services[serviceKeyFromWire(key)] = serviceFromWire(value)
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the map services: %w", err)
	}
	return services, nil
}

// PutService creates or replaces a service in one write. A VIP that is new is
// made known before it.
func (m *Maps) PutService(key ServiceKey, s Service) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.vips.services[key]
	if !known {
		if err := m.vips.addVIP(m, key.Frontend.Addr()); err != nil {
			return m.full(m.maps.Services, fmt.Sprintf("make %s a VIP", key.Frontend.Addr()), err)
		}
	}
	m.counted.slots[s.Slot] = true
	if err := m.maps.Services.Put(key.wire(), s.wire()); err != nil {
		err = m.full(m.maps.Services, fmt.Sprintf("write service %s to the map services", key), err)
		if !known {
			err = errors.Join(err, m.vips.removeVIP(m, key.Frontend.Addr()))
		}
		return err
	}
	m.vips.services[key] = true
	return nil
}

// DeleteService removes a service, and its VIP when no other has it; there being
// none is no error.
func (m *Maps) DeleteService(key ServiceKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := absentIsFine(m.maps.Services.Delete(key.wire())); err != nil {
		return fmt.Errorf("delete service %s from the map services: %w", key, err)
	}
	if !m.vips.services[key] {
		return nil
	}
	delete(m.vips.services, key)
	return m.vips.removeVIP(m, key.Frontend.Addr())
}

// full explains the error of a write to a map that may have no room.
func (m *Maps) full(of *ebpf.Map, what string, err error) error {
	if err == nil {
		return nil
	}
	if isFull(err) {
		info, _ := of.Info()
		name := ""
		if info != nil {
			name = " " + info.Name
		}
		return fmt.Errorf("%s: %w: the map%s holds %d entries", what, ErrFull, name, of.MaxEntries())
	}
	return fmt.Errorf("%s: %w", what, err)
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
