package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// counted are the slots and ids under which packets may have been counted: all, unless
// the maps are known to have been empty.
type counted struct {
	maybeAll   bool
	slots, ids map[uint32]bool
}

func newCounted() counted {
	return counted{maybeAll: true, slots: make(map[uint32]bool), ids: make(map[uint32]bool)}
}

// ServiceTraffic returns the totals of a service's slot.
func (m *Maps) ServiceTraffic(slot uint32) (Traffic, error) {
	t, err := traffic(m.maps.ServiceStats, slot)
	if err != nil {
		return t, fmt.Errorf("read slot %d of the map service_stats: %w", slot, err)
	}
	return t, nil
}

// ClearServiceTraffic sets a slot's totals to 0, for a new service in it.
func (m *Maps) ClearServiceTraffic(slot uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.counted.maybeAll && !m.counted.slots[slot] {
		return nil
	}
	return explain(fmt.Sprintf("clear slot %d of the map service_stats", slot),
		m.clearTraffic(m.maps.ServiceStats, slot))
}

// ClearBackendTraffic sets a backend id's totals to 0, for another backend under it.
func (m *Maps) ClearBackendTraffic(id uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.counted.maybeAll && !m.counted.ids[id] {
		return nil
	}
	return explain(fmt.Sprintf("clear backend %d in the map backend_stats", id),
		m.clearTraffic(m.maps.BackendStats, id))
}

// BackendTraffic returns the totals of a backend.
func (m *Maps) BackendTraffic(id uint32) (Traffic, error) {
	t, err := traffic(m.maps.BackendStats, id)
	if err != nil {
		return t, fmt.Errorf("read backend %d of the map backend_stats: %w", id, err)
	}
	return t, nil
}

// Drops returns the number of dropped packets by reason, every reason included.
func (m *Maps) Drops() (map[string]uint64, error) {
	reasons, err := m.dropReasons()
	if err != nil {
		return nil, err
	}
	drops := make(map[string]uint64, len(reasons))
	for i, reason := range reasons {
		if i == int(bpf.LBDropReasonDROP_NONE) {
			continue
		}
		var perCPU []uint64
		if err := m.maps.Drops.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read reason %s of the map drops: %w", reason, err)
		}
		for _, n := range perCPU {
			drops[reason] += n
		}
	}
	return drops, nil
}

// icmpDeeds are the names of the entries of icmp_packets (enum icmp_deed).
var icmpDeeds = [bpf.LBIcmpDeedICMP_DEED_MAX]string{"echo_answered", "error_to_backend", "error_to_client", "too_big_sent"}

// ICMP returns what was done about ICMP, by deed, in packets.
func (m *Maps) ICMP() (map[string]uint64, error) {
	deeds := make(map[string]uint64, len(icmpDeeds))
	for i, deed := range icmpDeeds {
		var perCPU []uint64
		if err := m.maps.IcmpPackets.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read %s of the map icmp_packets: %w", deed, err)
		}
		deeds[deed] = 0
		for _, n := range perCPU {
			deeds[deed] += n
		}
	}
	return deeds, nil
}

func traffic(stats *ebpf.Map, index uint32) (Traffic, error) {
	var perCPU []bpf.LBTraffic
	if err := stats.Lookup(index, &perCPU); err != nil {
		return Traffic{}, err
	}
	return sumTraffic(perCPU), nil
}

func (m *Maps) clearTraffic(stats *ebpf.Map, index uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	return stats.Put(index, make([]bpf.LBTraffic, cpus))
}
