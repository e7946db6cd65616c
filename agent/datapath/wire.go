package datapath

import (
	"encoding/binary"
	"net/netip"
	"time"

	"l4lab/bpf"
)

// The maps hold addresses and ports in network order: the bytes of the Go
// value are those of the packet, whatever the machine's own order.

// addrToWire gives an invalid address 0.
func addrToWire(a netip.Addr) (w bpf.LBAddress) {
	switch {
	case a.Is4():
		four := a.As4()
		w.Word[0] = binary.NativeEndian.Uint32(four[:])
	case a.IsValid():
		sixteen := a.As16()
		for i := range w.Word {
			w.Word[i] = binary.NativeEndian.Uint32(sixteen[4*i:])
		}
	}
	return w
}

func addrFromWire(w bpf.LBAddress, six bool) netip.Addr {
	var sixteen [16]byte
	for i, word := range w.Word {
		binary.NativeEndian.PutUint32(sixteen[4*i:], word)
	}
	if six {
		return netip.AddrFrom16(sixteen)
	}
	return netip.AddrFrom4([4]byte(sixteen[:4]))
}

// ownFromWire is the invalid address where there is none.
func ownFromWire(w bpf.LBAddress, six bool) netip.Addr {
	if w == (bpf.LBAddress{}) {
		return netip.Addr{}
	}
	return addrFromWire(w, six)
}

func portToWire(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func portFromWire(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

func endpointFromWire(address bpf.LBAddress, port uint16, six bool) netip.AddrPort {
	return netip.AddrPortFrom(addrFromWire(address, six), portFromWire(port))
}

// Families as the maps name them (enum family).
const (
	familyIPv4 = 4
	familyIPv6 = 6
)

func familyOf(a netip.Addr) uint8 {
	if a.Is6() {
		return familyIPv6
	}
	return familyIPv4
}

// own returns the addresses that the balancer has.
func (c Config) own() (own []netip.Addr) {
	for _, a := range []netip.Addr{c.Address4, c.Address6} {
		if a.IsValid() {
			own = append(own, a)
		}
	}
	return own
}

func (c Config) wire() bpf.LBLbConfig {
	return bpf.LBLbConfig{
		Layout:           bpf.LBLayout(c.Layout),
		Mtu:              uint32(c.MTU),
		Address4:         addrToWire(c.Address4).Word[0],
		Address6:         addrToWire(c.Address6),
		Mac:              c.MAC,
		NatMin:           c.NATMin,
		NatMax:           c.NATMax,
		EventRate:        c.EventRate,
		Vlan:             bpf.LBVlanPolicy(c.VLAN),
		TcpEstablishedNs: uint64(c.Lifetimes.TCPEstablished),
		TcpSynNs:         uint64(c.Lifetimes.TCPSYN),
		TcpClosingNs:     uint64(c.Lifetimes.TCPClosing),
		NonTcpNs:         uint64(c.Lifetimes.NonTCP),
		FragmentNs:       uint64(c.Lifetimes.Fragment),
	}
}

func configFromWire(w bpf.LBLbConfig) Config {
	return Config{
		Layout:    uint32(w.Layout),
		Address4:  ownFromWire(bpf.LBAddress{Word: [4]uint32{w.Address4}}, false),
		Address6:  ownFromWire(w.Address6, true),
		MTU:       int(w.Mtu),
		MAC:       w.Mac,
		NATMin:    w.NatMin,
		NATMax:    w.NatMax,
		EventRate: w.EventRate,
		VLAN:      VLAN(w.Vlan),
		Lifetimes: Lifetimes{
			TCPEstablished: time.Duration(w.TcpEstablishedNs),
			TCPSYN:         time.Duration(w.TcpSynNs),
			TCPClosing:     time.Duration(w.TcpClosingNs),
			NonTCP:         time.Duration(w.NonTcpNs),
			Fragment:       time.Duration(w.FragmentNs),
		},
	}
}

func (k ServiceKey) wire() bpf.LBServiceKey {
	return bpf.LBServiceKey{
		Vip:    addrToWire(k.Frontend.Addr()),
		Port:   portToWire(k.Frontend.Port()),
		Proto:  uint8(k.Protocol),
		Family: familyOf(k.Frontend.Addr()),
	}
}

func serviceKeyFromWire(w bpf.LBServiceKey) ServiceKey {
	return ServiceKey{Frontend: endpointFromWire(w.Vip, w.Port, w.Family == familyIPv6), Protocol: Protocol(w.Proto)}
}

func (s Service) wire() bpf.LBService {
	w := bpf.LBService{
		Id: s.ID, Slot: s.Slot, TableSize: s.TableSize, Mss: s.MSS, Mode: bpf.LBLbMode(s.Mode), AffinityNs: uint64(s.Affinity),
	}
	if s.Random {
		w.Flags |= bpf.LBServiceFlagSERVICE_RANDOM
	}
	if s.Affinity > 0 {
		w.Flags |= bpf.LBServiceFlagSERVICE_AFFINITY
	}
	if s.Ranges {
		w.Flags |= bpf.LBServiceFlagSERVICE_RANGES
	}
	return w
}

func serviceFromWire(w bpf.LBService) Service {
	return Service{
		ID: w.Id, Slot: w.Slot, TableSize: w.TableSize, MSS: w.Mss, Mode: Mode(w.Mode), Affinity: time.Duration(w.AffinityNs),
		Random: w.Flags&bpf.LBServiceFlagSERVICE_RANDOM != 0,
		Ranges: w.Flags&bpf.LBServiceFlagSERVICE_RANGES != 0,
	}
}

func (b Backend) wire() bpf.LBBackend {
	w := bpf.LBBackend{
		Address:     addrToWire(b.Address.Addr()),
		Port:        portToWire(b.Address.Port()),
		State:       bpf.LBBackendState(b.State),
		Encap:       bpf.LBLbEncap(b.Encap),
		ServiceId:   b.ServiceID,
		ServiceSlot: b.ServiceSlot,
		Family:      familyOf(b.Address.Addr()),
		OuterBits:   uint8(max(0, b.Outer.Bits())),
	}
	if b.Outer.IsValid() {
		w.Outer = addrToWire(b.Outer.Masked().Addr())
		w.OuterSpread = spread(b.Outer)
	}
	return w
}

// spread is the mask of the bits behind a prefix in its address's last word.
func spread(p netip.Prefix) uint32 {
	free := min(p.Addr().BitLen()-p.Bits(), 32)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(uint64(1)<<free-1))
	return binary.NativeEndian.Uint32(b[:])
}

func backendFromWire(w bpf.LBBackend) Backend {
	six := w.Family == familyIPv6
	b := Backend{
		Address:     endpointFromWire(w.Address, w.Port, six),
		State:       BackendState(w.State),
		Encap:       Encap(w.Encap),
		ServiceID:   w.ServiceId,
		ServiceSlot: w.ServiceSlot,
	}
	if w.Outer != (bpf.LBAddress{}) {
		b.Outer = netip.PrefixFrom(addrFromWire(w.Outer, six), int(w.OuterBits))
	}
	if w.MacSlot < macUnknown {
		b.MAC = w.Mac[w.MacSlot]
	}
	return b
}

func (f Flow) six() bool { return f.Source.Addr().Is6() }

// wire is the key of the flow's family's tables.
func (f Flow) wire() any {
	if f.six() {
		return bpf.LBFlow{
			Saddr: addrToWire(f.Source.Addr()), Daddr: addrToWire(f.Dest.Addr()),
			Sport: portToWire(f.Source.Port()), Dport: portToWire(f.Dest.Port()), Proto: uint8(f.Protocol),
		}
	}
	return bpf.LBFlow4{
		Saddr: addrToWire(f.Source.Addr()).Word[0], Daddr: addrToWire(f.Dest.Addr()).Word[0],
		Sport: portToWire(f.Source.Port()), Dport: portToWire(f.Dest.Port()), Proto: uint8(f.Protocol),
	}
}

func flow4FromWire(w bpf.LBFlow4) Flow {
	return flowFromWire(bpf.LBFlow{
		Saddr: bpf.LBAddress{Word: [4]uint32{w.Saddr}}, Daddr: bpf.LBAddress{Word: [4]uint32{w.Daddr}},
		Sport: w.Sport, Dport: w.Dport, Proto: w.Proto,
	}, false)
}

func flow6FromWire(w bpf.LBFlow) Flow { return flowFromWire(w, true) }

func flowFromWire(w bpf.LBFlow, six bool) Flow {
	return Flow{
		Source:   endpointFromWire(w.Saddr, w.Sport, six),
		Dest:     endpointFromWire(w.Daddr, w.Dport, six),
		Protocol: Protocol(w.Proto),
	}
}

func (c Conn) wire() bpf.LBCtEntry {
	return bpf.LBCtEntry{
		LastSeenNs: uint64(c.LastSeen),
		RxPackets:  c.RxPackets,
		RxBytes:    c.RxBytes,
		TxPackets:  c.TxPackets,
		TxBytes:    c.TxBytes,
		WayBackNs:  uint64(c.WayBack),
		BackendId:  c.BackendID,
		NatPort:    portToWire(c.NATPort),
		Mode:       bpf.LBLbMode(c.Mode),
		Flags:      bpf.LBCtFlag(c.Flags),
	}
}

func connFromWire(w bpf.LBCtEntry, isNew bool) Conn {
	return Conn{
		LastSeen:  time.Duration(w.LastSeenNs),
		RxPackets: w.RxPackets,
		RxBytes:   w.RxBytes,
		TxPackets: w.TxPackets,
		TxBytes:   w.TxBytes,
		WayBack:   time.Duration(w.WayBackNs),
		BackendID: w.BackendId,
		NATPort:   portFromWire(w.NatPort),
		Mode:      Mode(w.Mode),
		Flags:     FlowFlags(w.Flags),
		New:       isNew,
	}
}

func (n NAT) wire() bpf.LBNatEntry {
	return bpf.LBNatEntry{
		Client:     addrToWire(n.Client.Addr()),
		Vip:        addrToWire(n.VIP.Addr()),
		ClientPort: portToWire(n.Client.Port()),
		VipPort:    portToWire(n.VIP.Port()),
		BackendId:  n.BackendID,
	}
}

func natFromWire(w bpf.LBNatEntry, six, isNew bool) NAT {
	return NAT{
		Client:    endpointFromWire(w.Client, w.ClientPort, six),
		VIP:       endpointFromWire(w.Vip, w.VipPort, six),
		BackendID: w.BackendId,
		New:       isNew,
	}
}

// slotBits are the part of a source's key in front of its address.
const slotBits = 32

func sourceToWire(slot uint32, r netip.Prefix) (key bpf.LBSourceKey, value uint32) {
	var s [4]byte
	binary.BigEndian.PutUint32(s[:], slot)
	return bpf.LBSourceKey{
		PrefixLength: slotBits + uint32(r.Bits()),
		ServiceSlot:  binary.NativeEndian.Uint32(s[:]),
		Source:       addrToWire(r.Masked().Addr()),
	}, uint32(familyOf(r.Addr()))
}

func sourceFromWire(key bpf.LBSourceKey, value uint32) (slot uint32, r netip.Prefix) {
	var s [4]byte
	binary.NativeEndian.PutUint32(s[:], key.ServiceSlot)
	address := addrFromWire(key.Source, value == familyIPv6)
	return binary.BigEndian.Uint32(s[:]), netip.PrefixFrom(address, int(key.PrefixLength)-slotBits)
}

// sumTraffic adds up the CPUs' parts.
func sumTraffic(perCPU []bpf.LBTraffic) Traffic {
	var t Traffic
	for _, c := range perCPU {
		t.RxPackets += c.RxPackets
		t.RxBytes += c.RxBytes
		t.TxPackets += c.TxPackets
		t.TxBytes += c.TxBytes
		t.Connections += c.Connections
	}
	return t
}

// decode reads one message of the ring; false when it is none of ours.
func (r *EventReader) decode(raw []byte) (Event, bool) {
	var w bpf.LBFlowEvent
	if n, err := binary.Decode(raw, binary.NativeEndian, &w); err != nil || n > len(raw) {
		return Event{}, false
	}
	e := Event{
		Kind: EventKind(w.Kind), Time: time.Duration(w.TimeNs), Flow: flowFromWire(w.Flow, w.Family == familyIPv6),
		BackendID: w.BackendId, ServiceID: w.ServiceId, Mode: Mode(w.Mode),
	}
	if e.Kind == FlowDropped && int(w.Reason) < len(r.reasons) {
		e.Reason = r.reasons[w.Reason]
	}
	return e, true
}
