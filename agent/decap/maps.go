package decap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"

	"l4lab/agent/api"
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
func writeConfig(m *ebpf.Map, tunnels []api.Tunnel) error {
	var config bpf.DecapXDPDecapConfig
	for _, t := range tunnels {
		address, source, mask := words(t.Address), words(t.Balancer.Addr()), words(maskOf(t.Balancer))
		if t.Address.Is4() {
			config.Address4, config.Source4, config.Mask4 = address[0], source[0], mask[0]
			continue
		}
		config.Address6.Word, config.Source6.Word, config.Mask6.Word = address, source, mask
	}
	if err := m.Put(uint32(0), &config); err != nil {
		return fmt.Errorf("write %s (%s): %w", configMap, Describe(tunnels), err)
	}
	return nil
}

func readConfig(m *ebpf.Map) (tunnels []api.Tunnel, err error) {
	var c bpf.DecapXDPDecapConfig
	if err := m.Lookup(uint32(0), &c); err != nil {
		return nil, fmt.Errorf("read %s: %w", configMap, err)
	}
	if c.Address4 != 0 {
		four := func(word uint32) netip.Addr { return netip.AddrFrom4([4]byte(bytesOf(word))) }
		tunnels = append(tunnels, api.Tunnel{
			Address: four(c.Address4), Balancer: netip.PrefixFrom(four(c.Source4), bits.OnesCount32(c.Mask4)),
		})
	}
	if c.Address6.Word != [4]uint32{} {
		six := func(w [4]uint32) netip.Addr { return netip.AddrFrom16([16]byte(bytesOf(w[:]...))) }
		length := 0
		for _, w := range c.Mask6.Word {
			length += bits.OnesCount32(w)
		}
		tunnels = append(tunnels, api.Tunnel{
			Address: six(c.Address6.Word), Balancer: netip.PrefixFrom(six(c.Source6.Word), length),
		})
	}
	return tunnels, nil
}

// words are an address's bytes as the program loads them, an IPv4 one's in the first.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := 0; i+4 <= len(b); i += 4 {
		w[i/4] = binary.NativeEndian.Uint32(b[i:])
	}
	return w
}

func bytesOf(words ...uint32) (b []byte) {
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// maskOf is the mask of a prefix, as an address.
func maskOf(p netip.Prefix) netip.Addr {
	mask, _ := netip.AddrFromSlice(net.CIDRMask(p.Bits(), p.Addr().BitLen()))
	return mask
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
