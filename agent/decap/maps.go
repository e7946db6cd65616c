package decap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// Both programs have the same maps with the same layouts; the names of one
// serve for both.
const (
	configMap = bpf.DecapXDPMapDecapConfig
	statsMap  = bpf.DecapXDPMapDecapStats
)

func mapNames() []string { return []string{configMap, statsMap} }

// writeConfig says what to decapsulate. Addresses lie in memory as in the packet.
func writeConfig(m *ebpf.Map, address, balancer netip.Addr) error {
	a, b := address.As4(), balancer.As4()
	config := bpf.DecapXDPDecapConfig{
		Address:  binary.NativeEndian.Uint32(a[:]),
		Balancer: binary.NativeEndian.Uint32(b[:]),
	}
	if err := m.Put(uint32(0), &config); err != nil {
		return fmt.Errorf("write %s (address %s, balancer %s): %w", configMap, address, balancer, err)
	}
	return nil
}

func readConfig(m *ebpf.Map) (address, balancer netip.Addr, err error) {
	var config bpf.DecapXDPDecapConfig
	if err := m.Lookup(uint32(0), &config); err != nil {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("read %s: %w", configMap, err)
	}
	var a, b [4]byte
	binary.NativeEndian.PutUint32(a[:], config.Address)
	binary.NativeEndian.PutUint32(b[:], config.Balancer)
	return netip.AddrFrom4(a), netip.AddrFrom4(b), nil
}

func readTraffic(m *ebpf.Map) (traffic, error) {
	var perCPU []bpf.DecapXDPDecapTraffic
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return traffic{}, fmt.Errorf("read %s: %w", statsMap, err)
	}
	var sum traffic
	for _, cpu := range perCPU {
		sum.decapsulated += cpu.DecapsulatedPackets
		sum.bytes += cpu.DecapsulatedBytes
		sum.passed += cpu.PassedPackets
		sum.malformed += cpu.MalformedPackets
	}
	return sum, nil
}

func closeMaps(maps map[string]*ebpf.Map) error {
	var faults []error
	for _, m := range maps {
		faults = append(faults, m.Close())
	}
	return errors.Join(faults...)
}
