package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

// vips mirrors the map vip_filter, whose bits several addresses may share, and
// the entries of the map services that say that an address is a VIP.
type vips struct {
	services map[ServiceKey]bool
	// ofVIP counts the services of a VIP, ofBit the addresses of a bit, ofWord has the words.
	ofVIP  map[netip.Addr]int
	ofBit  map[uint32]int
	ofWord map[uint32]uint64
}

// protocolICMP and protocolICMPv6 are those of a VIP's own entry.
const (
	protocolICMP   Protocol = 1
	protocolICMPv6 Protocol = 58
)

func vipKey(vip netip.Addr) ServiceKey {
	if vip.Is4() {
		return ServiceKey{netip.AddrPortFrom(vip, 0), protocolICMP}
	}
	return ServiceKey{netip.AddrPortFrom(vip, 0), protocolICMPv6}
}

func isVIPEntry(k bpf.LBServiceKey) bool {
	return Protocol(k.Proto) == protocolICMP || Protocol(k.Proto) == protocolICMPv6
}

// readVIPsLocked reads the services and makes the filter and the VIPs' entries
// what they ask for: an agent may have died between two writes.
func (m *Maps) readVIPsLocked() error {
	v := vips{
		services: make(map[ServiceKey]bool), ofVIP: make(map[netip.Addr]int),
		ofBit: make(map[uint32]int), ofWord: make(map[uint32]uint64),
	}
	services, err := m.Services()
	if err != nil {
		return err
	}
	words, err := readArray[uint64](m.maps.VipFilter)
	if err != nil {
		return fmt.Errorf("read the map vip_filter: %w", err)
	}
	for i, w := range words {
		v.ofWord[uint32(i)] = w
	}
	for key := range services {
		v.services[key] = true
		if err := v.addVIP(m, key.Frontend.Addr()); err != nil {
			return err
		}
	}
	for _, own := range m.config.own() {
		if err := v.admit(m, own); err != nil {
			return err
		}
	}
	m.vips = v
	return errors.Join(v.removeOthers(m), v.clearOthers(m))
}

// removeOthers deletes the entries of VIPs that no service has.
func (v *vips) removeOthers(m *Maps) error {
	var stale []bpf.LBServiceKey
	var key bpf.LBServiceKey
	var value bpf.LBService
	all := m.maps.Services.Iterate()
	for all.Next(&key, &value) {
		if isVIPEntry(key) && v.ofVIP[serviceKeyFromWire(key).Frontend.Addr()] == 0 {
			stale = append(stale, key)
		}
	}
	faults := []error{explain("read the map services", all.Err())}
	for _, key := range stale {
		faults = append(faults, explain("delete a VIP's entry from the map services", absentIsFine(m.maps.Services.Delete(key))))
	}
	return errors.Join(faults...)
}

// clearOthers clears the bits that no address has.
func (v *vips) clearOthers(m *Maps) error {
	for index, word := range v.ofWord {
		keep := word
		for bit := range uint32(64) {
			if v.ofBit[index*64+bit] == 0 {
				keep &^= 1 << bit
			}
		}
		if err := v.putWord(m, index, keep); err != nil {
			return err
		}
	}
	return nil
}

// addVIP counts one more service of a VIP, and makes the first one's VIP known.
func (v *vips) addVIP(m *Maps, vip netip.Addr) error {
	if v.ofVIP[vip] == 0 {
		if err := v.admit(m, vip); err != nil {
			return err
		}
		if err := m.maps.Services.Put(vipKey(vip).wire(), bpf.LBService{}); err != nil {
			return errors.Join(err, v.dismiss(m, vip))
		}
	}
	v.ofVIP[vip]++
	return nil
}

func (v *vips) removeVIP(m *Maps, vip netip.Addr) error {
	if v.ofVIP[vip]--; v.ofVIP[vip] > 0 {
		return nil
	}
	delete(v.ofVIP, vip)
	err := absentIsFine(m.maps.Services.Delete(vipKey(vip).wire()))
	return errors.Join(explain("delete a VIP's entry from the map services", err), v.dismiss(m, vip))
}

// admit lets an address through the filter.
func (v *vips) admit(m *Maps, a netip.Addr) error {
	bit := addressBit(a)
	if err := v.putWord(m, bit/64, v.ofWord[bit/64]|1<<(bit%64)); err != nil {
		return err
	}
	v.ofBit[bit]++
	return nil
}

// dismiss takes an address out of the filter, unless another one has its bit.
func (v *vips) dismiss(m *Maps, a netip.Addr) error {
	bit := addressBit(a)
	if v.ofBit[bit]--; v.ofBit[bit] > 0 {
		return nil
	}
	delete(v.ofBit, bit)
	return v.putWord(m, bit/64, v.ofWord[bit/64]&^(1<<(bit%64)))
}

func (v *vips) putWord(m *Maps, index uint32, word uint64) error {
	if v.ofWord[index] == word {
		return nil
	}
	if err := m.maps.VipFilter.Update(index, word, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write word %d of the map vip_filter: %w", index, err)
	}
	v.ofWord[index] = word
	return nil
}

// addressBit is address_bit of bpf/lib/family.h.
func addressBit(a netip.Addr) uint32 {
	const goldenRatio = 0x9e3779b1
	w := addrToWire(a).Word
	word := w[0]
	if a.Is6() {
		word ^= w[1]*3 ^ w[2]*5 ^ w[3]*7
	}
	return word * goldenRatio >> 16
}
