package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// The methods of this file look one thing up, as the data path does of a packet, and in the
// map itself, not in what Maps mirrors.

// MayBeOurs is the data path's first look at a destination: false is certain, true
// may be the chance of two addresses with one bit of the map vip_filter.
func (m *Maps) MayBeOurs(a netip.Addr) (bool, error) {
	bit := addressBit(a)
	var word uint64
	if err := m.maps.VipFilter.Lookup(bit/64, &word); err != nil {
		return false, fmt.Errorf("read word %d of the map vip_filter: %w", bit/64, err)
	}
	return word>>(bit%64)&1 != 0, nil
}

// Service reads one service; ok is false when the key has none.
func (m *Maps) Service(key ServiceKey) (s Service, ok bool, err error) {
	var w bpf.LBService
	err = m.maps.Services.Lookup(key.wire(), &w)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Service{}, false, nil
	}
	if err != nil {
		return Service{}, false, fmt.Errorf("read service %s from the map services: %w", key, err)
	}
	return serviceFromWire(w), true, nil
}

// Backend reads one backend; ok is false when the id is free.
func (m *Maps) Backend(id uint32) (b Backend, ok bool, err error) {
	var w bpf.LBBackend
	err = m.maps.Backends.Lookup(id, &w)
	if errors.Is(err, ebpf.ErrKeyNotExist) { // beyond the array's end
		return Backend{}, false, nil
	}
	if err != nil {
		return Backend{}, false, fmt.Errorf("read backend %d from the map backends: %w", id, err)
	}
	return backendFromWire(w), w.State != bpf.LBBackendStateBACKEND_GONE, nil
}

// TableSlot reads one slot of a service's Maglev table; 0 is nobody.
func (m *Maps) TableSlot(slot, index uint32) (backend uint32, err error) {
	var inner *ebpf.Map
	err = m.maps.Maglev.Lookup(slot, &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read slot %d of the map maglev: %w", slot, err)
	}
	defer inner.Close()
	var pair uint64
	err = inner.Lookup(index/2, &pair)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	return uint32(pair >> (index % 2 * 32)), explain(fmt.Sprintf("read index %d of the Maglev table of slot %d", index, slot), err)
}

// SourceAllowed says whether the ranges of a slot have an address in them.
func (m *Maps) SourceAllowed(slot uint32, source netip.Addr) (bool, error) {
	key, _ := sourceToWire(slot, netip.PrefixFrom(source, source.BitLen()))
	// The data path asks for all 128 bits, whatever the family.
	key.PrefixLength = slotBits + 128
	var value uint32
	err := m.maps.Sources.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, explain(fmt.Sprintf("look %s of slot %d up in the map sources", source, slot), err)
}

// Affinity is where a client's flows to a service go.
type Affinity struct {
	BackendID uint32
	// LastSeen is a time of Clock.
	LastSeen time.Duration
}

// Affinity reads where the flows of a client go under a slot's affinity; ok is false
// when that is not remembered.
func (m *Maps) Affinity(client netip.Addr, slot uint32) (a Affinity, ok bool, err error) {
	var w bpf.LBAffinity
	err = m.maps.Affinities.Lookup(affinityKey(client, slot), &w)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Affinity{}, false, nil
	}
	if err != nil {
		return Affinity{}, false, fmt.Errorf("read %s of slot %d from the map affinities: %w", client, slot, err)
	}
	return Affinity{BackendID: w.BackendId, LastSeen: time.Duration(w.LastSeenNs)}, true, nil
}

// PutAffinity sends a client's flows to a backend.
func (m *Maps) PutAffinity(client netip.Addr, slot uint32, a Affinity) error {
	return explain(fmt.Sprintf("write %s of slot %d to the map affinities", client, slot),
		m.maps.Affinities.Put(affinityKey(client, slot), bpf.LBAffinity{BackendId: a.BackendID, LastSeenNs: uint64(a.LastSeen)}))
}

func affinityKey(client netip.Addr, slot uint32) bpf.LBAffinityKey {
	return bpf.LBAffinityKey{Client: addrToWire(client), ServiceSlot: slot}
}
