package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/bpf"
)

// backends mirrors the map backends, and knows which ids an address has.
type backends struct {
	entries map[uint32]bpf.LBBackend
	ids     map[netip.Addr]map[uint32]bool
	macs    map[netip.Addr]MAC
}

// macUnknown is MAC_UNKNOWN of bpf/lib/types.h.
const macUnknown = 2

func (m *Maps) readBackendsLocked() error {
	m.backends = backends{
		entries: make(map[uint32]bpf.LBBackend), ids: make(map[netip.Addr]map[uint32]bool), macs: make(map[netip.Addr]MAC),
	}
	all, err := readArray[bpf.LBBackend](m.maps.Backends)
	if err != nil {
		return fmt.Errorf("read the map backends: %w", err)
	}
	for id, w := range all {
		if w.State != bpf.LBBackendStateBACKEND_GONE {
			m.backends.set(uint32(id), w)
		}
	}
	return nil
}

func (b *backends) set(id uint32, w bpf.LBBackend) {
	address := backendFromWire(w).Address.Addr()
	b.entries[id] = w
	if b.ids[address] == nil {
		b.ids[address] = make(map[uint32]bool)
	}
	b.ids[address][id] = true
	if w.MacSlot < macUnknown {
		b.macs[address] = w.Mac[w.MacSlot]
	}
}

func (b *backends) remove(id uint32) {
	w, ok := b.entries[id]
	if !ok {
		return
	}
	address := backendFromWire(w).Address.Addr()
	delete(b.entries, id)
	delete(b.ids[address], id)
	if len(b.ids[address]) == 0 {
		delete(b.ids, address)
	}
}

// Backends returns all backends by id.
func (m *Maps) Backends() (map[uint32]Backend, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	backends := make(map[uint32]Backend, len(m.backends.entries))
	for id, w := range m.backends.entries {
		backends[id] = backendFromWire(w)
	}
	return backends, nil
}

// PutBackend writes a backend under an id, with the MAC of its next hop if that
// is known. What the id has counted stays: see ClearBackendTraffic.
func (m *Maps) PutBackend(id uint32, b Backend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.putBackendLocked(id, m.backends.wire(id, b)); err != nil {
		return fmt.Errorf("write backend %d (%s) to the map backends: %w", id, b.Address, err)
	}
	return nil
}

// PutBackends does for many backends what PutBackend does for one, with one system call
// where there are batches. When it fails, some may be written.
func (m *Maps) PutBackends(backends map[uint32]Backend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := slices.Sorted(maps.Keys(backends))
	entries := make([]bpf.LBBackend, len(ids))
	for i, id := range ids {
		entries[i] = m.backends.wire(id, backends[id])
		m.counted.ids[id] = true
	}
	n, err := m.maps.Backends.BatchUpdate(ids, entries, nil)
	if err == nil && n == len(ids) {
		for i, id := range ids {
			m.backends.remove(id)
			m.backends.set(id, entries[i])
		}
		return nil
	}
	for i, id := range ids {
		if err := m.putBackendLocked(id, entries[i]); err != nil {
			return fmt.Errorf("write backend %d (%s) to the map backends: %w", id, backends[id].Address, err)
		}
	}
	return nil
}

// wire is a backend's entry with the MAC that is known of its next hop.
func (b *backends) wire(id uint32, backend Backend) bpf.LBBackend {
	w := backend.wire()
	has, exists := b.entries[id]
	if exists && backendFromWire(has).Address.Addr() == backend.Address.Addr() {
		w.Mac, w.MacSlot = has.Mac, has.MacSlot
	} else if mac, known := b.macs[backend.Address.Addr()]; known {
		w.Mac[0], w.MacSlot = mac, 0
	} else {
		w.MacSlot = macUnknown
	}
	return w
}

func (m *Maps) putBackendLocked(id uint32, w bpf.LBBackend) error {
	m.counted.ids[id] = true
	if err := m.maps.Backends.Put(id, w); err != nil {
		return err
	}
	m.backends.remove(id)
	m.backends.set(id, w)
	return nil
}

// DeleteBackend frees an id. Flows that have it are over at once: a next packet
// of theirs opens a new one.
func (m *Maps) DeleteBackend(id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.maps.Backends.Put(id, bpf.LBBackend{}); err != nil {
		return fmt.Errorf("delete backend %d from the map backends: %w", id, err)
	}
	m.backends.remove(id)
	return nil
}

// Neighbours returns the next hops' MACs by backend address.
func (m *Maps) Neighbours() (map[netip.Addr]MAC, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.backends.macs), nil
}

// PutNeighbour writes the MAC of the next hop towards a backend to all that have
// its address. A packet meets the old one or the new one, never half of each: the
// MAC is written where nobody looks, and then a single byte says to look there.
func (m *Maps) PutNeighbour(backend netip.Addr, mac MAC) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.backends.ids[backend] {
		w := m.backends.entries[id]
		if w.MacSlot < macUnknown && w.Mac[w.MacSlot] == mac {
			continue
		}
		other := uint8(0)
		if w.MacSlot == 0 {
			other = 1
		}
		w.Mac[other] = mac
		for _, slot := range []uint8{w.MacSlot, other} {
			w.MacSlot = slot
			if err := m.putBackendLocked(id, w); err != nil {
				return fmt.Errorf("write the MAC of %s to backend %d of the map backends: %w", backend, id, err)
			}
		}
	}
	m.backends.macs[backend] = mac
	return nil
}

// DeleteNeighbour says that the next hop towards a backend does not answer;
// there being none is no error.
func (m *Maps) DeleteNeighbour(backend netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.backends.ids[backend] {
		w := m.backends.entries[id]
		w.MacSlot = macUnknown
		if err := m.putBackendLocked(id, w); err != nil {
			return fmt.Errorf("take the MAC of %s from backend %d of the map backends: %w", backend, id, err)
		}
	}
	delete(m.backends.macs, backend)
	return nil
}
