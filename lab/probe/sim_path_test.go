package probe

import (
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// play sends one segment along the path of its mode and records it at every
// place that it passes.
func (s *sim) play(seg segment) {
	s.ids++
	backend := s.backendOf(seg.client)
	f := flow{seg.client, s.e.Service.Frontend(), s.e.Service.Protocol.Number()}
	begins := seg.flags&(evidence.SYN|evidence.ACK) == evidence.SYN || s.e.Service.Protocol == topology.UDP && !s.known[f]
	s.known[f] = true
	if seg.toServer && begins && s.e.Mode == topology.SNAT {
		s.nat[f] = s.natPort(seg.client)
	}
	switch {
	case seg.toServer && s.e.Mode == topology.DSR:
		s.requestDSR(seg, backend, begins)
	case seg.toServer:
		s.requestSNAT(seg, backend, s.nat[f], begins)
	case s.e.Mode == topology.DSR:
		data := s.frame(backend, "client", s.packet(s.e.Service.Frontend(), seg.client, 64, seg))
		s.record(capture.Place{Machine: backend}, data, true)
		s.record(placeOf(backend), data, false)
		s.record(placeOf("client"), data, true)
	default:
		s.replySNAT(seg, backend, s.nat[f])
	}
}

// toBalancer records what the client sends and counts it.
func (s *sim) toBalancer(seg segment, backend string, begins bool) (ip []byte) {
	ip = s.packet(seg.client, s.e.Service.Frontend(), 64, seg)
	data := s.frame("client", "lb", ip)
	s.record(placeOf("client"), data, false)
	s.record(placeOf("lb"), data, true)
	counted := api.Traffic{RxPackets: 1, RxBytes: uint64(len(ip))}
	if begins {
		counted.Connections = 1
	}
	s.count(backend, counted)
	return ip
}

func (s *sim) requestDSR(seg segment, backend string, begins bool) {
	inner := s.toBalancer(seg, backend, begins)
	lb, _ := s.e.Topology.Address("lb")
	be, _ := s.e.Topology.Address(backend)
	outer := s.serialize(&layers.IPv4{
		Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolIPv4, SrcIP: lb.AsSlice(), DstIP: be.AsSlice(),
	}, gopacket.Payload(inner))
	data := s.frame("lb", backend, outer)
	s.record(placeOf("lb"), data, false)
	s.record(placeOf(backend), data, true)
	own := capture.Place{Machine: backend}
	if s.e.Topology.Nodes[backend].OS == topology.Windows && !s.xdpOff[backend] {
		s.record(own, s.frame("lb", backend, inner), false)
	} else {
		s.record(own, data, false)
	}
	status := s.decap[backend]
	status.Decapsulated++
	status.Bytes += uint64(len(inner))
	s.decap[backend] = status
}

func (s *sim) requestSNAT(seg segment, backend string, port uint16, begins bool) {
	s.toBalancer(seg, backend, begins)
	lb, _ := s.e.Topology.Address("lb")
	data := s.frame("lb", backend, s.packet(netip.AddrPortFrom(lb, port), s.e.backendAddress(backend), 63, seg))
	s.record(placeOf("lb"), data, false)
	s.record(placeOf(backend), data, true)
	s.record(capture.Place{Machine: backend}, data, false)
}

func (s *sim) replySNAT(seg segment, backend string, port uint16) {
	lb, _ := s.e.Topology.Address("lb")
	ip := s.packet(s.e.backendAddress(backend), netip.AddrPortFrom(lb, port), 64, seg)
	data := s.frame(backend, "lb", ip)
	s.record(capture.Place{Machine: backend}, data, true)
	s.record(placeOf(backend), data, false)
	s.record(placeOf("lb"), data, true)
	s.count(backend, api.Traffic{TxPackets: 1, TxBytes: uint64(len(ip))})
	data = s.frame("lb", "client", s.packet(s.e.Service.Frontend(), seg.client, 63, seg))
	s.record(placeOf("lb"), data, false)
	s.record(placeOf("client"), data, true)
}

func (s *sim) count(backend string, t api.Traffic) {
	s.counters.Traffic = plus(s.counters.Traffic, t)
	s.perBackend[backend] = plus(s.perBackend[backend], t)
}

func plus(a, b api.Traffic) api.Traffic {
	return api.Traffic{
		RxPackets: a.RxPackets + b.RxPackets, RxBytes: a.RxBytes + b.RxBytes,
		TxPackets: a.TxPackets + b.TxPackets, TxBytes: a.TxBytes + b.TxBytes, Connections: a.Connections + b.Connections,
	}
}
