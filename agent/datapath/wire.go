package datapath

import (
	"encoding/binary"
	"net/netip"
	"time"

	"l4lab/bpf"
)

// The maps hold addresses and ports in network order: the bytes of the Go
// value are those of the packet, whatever the machine's own order.

func addrToWire(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func addrFromWire(v uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
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

func endpointFromWire(address uint32, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addrFromWire(address), portFromWire(port))
}

func (c Config) wire() bpf.LBLbConfig {
	return bpf.LBLbConfig{
		Address:          addrToWire(c.Address),
		Mtu:              uint32(c.MTU),
		Mac:              c.MAC,
		NatMin:           c.NATMin,
		NatMax:           c.NATMax,
		TcpEstablishedNs: uint64(c.Lifetimes.TCPEstablished),
		TcpSynNs:         uint64(c.Lifetimes.TCPSYN),
		TcpClosingNs:     uint64(c.Lifetimes.TCPClosing),
		NonTcpNs:         uint64(c.Lifetimes.NonTCP),
	}
}

func configFromWire(w bpf.LBLbConfig) Config {
	return Config{
		Address: addrFromWire(w.Address),
		MTU:     int(w.Mtu),
		MAC:     w.Mac,
		NATMin:  w.NatMin,
		NATMax:  w.NatMax,
		Lifetimes: Lifetimes{
			TCPEstablished: time.Duration(w.TcpEstablishedNs),
			TCPSYN:         time.Duration(w.TcpSynNs),
			TCPClosing:     time.Duration(w.TcpClosingNs),
			NonTCP:         time.Duration(w.NonTcpNs),
		},
	}
}

func (k ServiceKey) wire() bpf.LBServiceKey {
	return bpf.LBServiceKey{
		Vip:   addrToWire(k.Frontend.Addr()),
		Port:  portToWire(k.Frontend.Port()),
		Proto: uint8(k.Protocol),
	}
}

func serviceKeyFromWire(w bpf.LBServiceKey) ServiceKey {
	return ServiceKey{Frontend: endpointFromWire(w.Vip, w.Port), Protocol: Protocol(w.Proto)}
}

func (s Service) wire() bpf.LBService {
	return bpf.LBService{Id: s.ID, Slot: s.Slot, TableSize: s.TableSize, Mode: bpf.LBLbMode(s.Mode)}
}

func serviceFromWire(w bpf.LBService) Service {
	return Service{ID: w.Id, Slot: w.Slot, TableSize: w.TableSize, Mode: Mode(w.Mode)}
}

func (b Backend) wire() bpf.LBBackend {
	return bpf.LBBackend{
		Address: addrToWire(b.Address.Addr()),
		Port:    portToWire(b.Address.Port()),
		Proto:   uint8(b.Protocol),
	}
}

func backendFromWire(w bpf.LBBackend) Backend {
	return Backend{Address: endpointFromWire(w.Address, w.Port), Protocol: Protocol(w.Proto)}
}

func (f Flow) wire() bpf.LBFlowKey {
	return bpf.LBFlowKey{
		Saddr: addrToWire(f.Source.Addr()),
		Daddr: addrToWire(f.Dest.Addr()),
		Sport: portToWire(f.Source.Port()),
		Dport: portToWire(f.Dest.Port()),
		Proto: uint8(f.Protocol),
	}
}

func flowFromWire(w bpf.LBFlowKey) Flow {
	return Flow{
		Source:   endpointFromWire(w.Saddr, w.Sport),
		Dest:     endpointFromWire(w.Daddr, w.Dport),
		Protocol: Protocol(w.Proto),
	}
}

func (c Conn) wire() bpf.LBCtEntry {
	return bpf.LBCtEntry{
		LastSeenNs:     uint64(c.LastSeen),
		RxPackets:      c.RxPackets,
		RxBytes:        c.RxBytes,
		TxPackets:      c.TxPackets,
		TxBytes:        c.TxBytes,
		BackendId:      c.BackendID,
		ServiceId:      c.ServiceID,
		ServiceSlot:    c.ServiceSlot,
		BackendAddress: addrToWire(c.Backend.Addr()),
		BackendPort:    portToWire(c.Backend.Port()),
		NatPort:        portToWire(c.NATPort),
		Mode:           bpf.LBLbMode(c.Mode),
		Flags:          bpf.LBCtFlag(c.Flags),
	}
}

func connFromWire(w bpf.LBCtEntry) Conn {
	return Conn{
		LastSeen:    time.Duration(w.LastSeenNs),
		RxPackets:   w.RxPackets,
		RxBytes:     w.RxBytes,
		TxPackets:   w.TxPackets,
		TxBytes:     w.TxBytes,
		BackendID:   w.BackendId,
		ServiceID:   w.ServiceId,
		ServiceSlot: w.ServiceSlot,
		Backend:     endpointFromWire(w.BackendAddress, w.BackendPort),
		NATPort:     portFromWire(w.NatPort),
		Mode:        Mode(w.Mode),
		Flags:       FlowFlags(w.Flags),
	}
}

func (n NAT) wire() bpf.LBNatEntry {
	return bpf.LBNatEntry{
		ClientAddress: addrToWire(n.Client.Addr()),
		Vip:           addrToWire(n.VIP.Addr()),
		ClientPort:    portToWire(n.Client.Port()),
		VipPort:       portToWire(n.VIP.Port()),
		BackendId:     n.BackendID,
	}
}

func natFromWire(w bpf.LBNatEntry) NAT {
	return NAT{
		Client:    endpointFromWire(w.ClientAddress, w.ClientPort),
		VIP:       endpointFromWire(w.Vip, w.VipPort),
		BackendID: w.BackendId,
	}
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
