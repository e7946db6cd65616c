package probe

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// sim plays a lab by the rules and records what each place would see. Its
// fields bend the rules.
type sim struct {
	t        *testing.T
	e        Evidence
	frames   map[capture.Place][]capture.Frame
	places   []capture.Place
	clock    time.Time
	ids      uint16
	counters api.ServiceCounters
	decap    map[string]api.DecapStatus
	nat      map[flow]uint16
	known    map[flow]bool
	// perBackend and counters are what the balancer counts.
	perBackend map[string]api.Traffic

	// backendOf names the backend that the balancer chooses.
	backendOf func(netip.AddrPort) string
	// natPort is the port that the balancer chooses.
	natPort func(netip.AddrPort) uint16
	// xdpOff lists Windows backends without a program at their XDP hook.
	xdpOff map[string]bool
}

func fiveMachines() topology.Topology {
	node := func(role topology.Role, os topology.OS, address string) topology.Node {
		return topology.Node{Role: role, OS: os, Address: netip.MustParseAddr(address)}
	}
	return topology.Topology{
		Name:   "l4lb",
		Switch: topology.Switch{Type: "internal", Subnet: netip.MustParsePrefix("20.1.1.0/24"), MTU: 1500},
		Client: topology.Client{Name: "client", Address: netip.MustParseAddr("20.1.1.100")},
		Nodes: map[string]topology.Node{
			"lb":  node(topology.RoleLoadBalancer, topology.Windows, "20.1.1.1"),
			"be1": node(topology.RoleBackend, topology.Windows, "20.1.1.10"),
			"be2": node(topology.RoleBackend, topology.Windows, "20.1.1.20"),
			"be3": node(topology.RoleBackend, topology.Linux, "20.1.1.30"),
			"be4": node(topology.RoleBackend, topology.Linux, "20.1.1.40"),
		},
		Services: []topology.Service{{
			ID: 1, VIP: netip.MustParseAddr("40.1.1.1"), Port: 80, Protocol: topology.TCP, Mode: topology.DSR,
			TableSize: 2039, Backends: []string{"be1", "be2", "be3", "be4"},
		}},
	}
}

func newSim(t *testing.T, mode topology.Mode, protocol topology.Protocol) *sim {
	top := fiveMachines()
	top.Services[0].Protocol = protocol
	s := &sim{
		t: t, frames: map[capture.Place][]capture.Frame{}, clock: time.Unix(1700000000, 0),
		decap: map[string]api.DecapStatus{}, nat: map[flow]uint16{}, known: map[flow]bool{}, perBackend: map[string]api.Traffic{}, xdpOff: map[string]bool{},
		e: Evidence{
			Topology: top, Service: top.Services[0], Mode: mode, ServiceMode: string(mode), MACs: map[string]net.HardwareAddr{},
			Ephemeral: &[2]uint16{10000, 32767},
		},
	}
	table, err := tableOf(top, s.e.Service)
	if err != nil {
		t.Fatal(err)
	}
	s.backendOf = func(client netip.AddrPort) string {
		name, _ := top.MachineAt(table.Lookup(client, 80, protocol.Number()).Addr())
		return name
	}
	taken := map[natKey]netip.AddrPort{}
	s.natPort = func(client netip.AddrPort) uint16 {
		key := natKey{s.e.backendAddress(s.backendOf(client)), client.Port()}
		for next := uint16(60000); ; next++ {
			owner, used := taken[key]
			if key.port >= natPortMin && (!used || owner == client) {
				taken[key] = client
				return key.port
			}
			key.port = next
		}
	}
	s.places = []capture.Place{placeOf("client"), placeOf("lb"), {Machine: "lb"}}
	for i, name := range top.MachineNames() {
		s.e.MACs[name] = net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}
		if top.Nodes[name].Role == topology.RoleBackend {
			s.places = append(s.places, placeOf(name), capture.Place{Machine: name})
			hook := "tc"
			if top.Nodes[name].OS == topology.Windows {
				hook = "xdp"
			}
			s.decap[name] = api.DecapStatus{Attached: true, Hook: hook}
		}
	}
	return s
}

// goodRun plays a whole pass: 64 ports and those beyond, repeats, two clients
// on one port, two transfers and the foreign packet.
func (s *sim) goodRun() Evidence {
	p := &pass{topology: s.e.Topology, service: s.e.Service, ports: newPorts(40000)}
	plan, err := p.plan()
	if err != nil {
		s.t.Fatal(err)
	}
	plan.addSecondClient(netip.MustParseAddr("20.1.1.254"))
	for _, c := range append(plan.once, plan.again...) {
		s.exchange(c)
	}
	for _, pair := range plan.together {
		s.exchange(pair[0], pair[1])
	}
	if s.e.Service.Protocol == topology.TCP {
		for _, x := range []Transfer{{Client: plan.download}, {Client: plan.upload, Upload: true}} {
			s.conversation(s.script(x.Client, x.Upload, 5000))
			x.Bytes, x.ReceivedBytes, x.SentSum, x.ReceivedSum = 5000, 5000, "aa", "aa"
			s.e.Transfers = append(s.e.Transfers, x)
		}
	}
	s.foreign(plan.foreign)
	return s.evidence()
}

func (s *sim) evidence() Evidence {
	e := s.e
	for _, place := range s.places {
		e.Recordings = append(e.Recordings, capture.Recording{Place: place, Frames: s.frames[place]})
	}
	for name, total := range s.perBackend {
		s.counters.Backends = append(s.counters.Backends, api.BackendCounters{Address: e.backendAddress(name), Traffic: total})
	}
	s.counters.ID = 1
	drops := map[string]uint64{"malformed_ip": 3, "no_backend": 0}
	e.Before = Sample{Counters: api.Counters{Drops: drops}, Decap: map[string]api.DecapStatus{}}
	e.After = Sample{Counters: api.Counters{Drops: drops, Services: []api.ServiceCounters{s.counters}}, Decap: s.decap}
	return e
}

func (s *sim) record(place capture.Place, data []byte, outgoing bool) {
	s.clock = s.clock.Add(time.Microsecond)
	s.frames[place] = append(s.frames[place], capture.Frame{Time: s.clock, Data: data, Length: len(data), Outgoing: outgoing})
}

// segment is one packet of a conversation.
type segment struct {
	client   netip.AddrPort
	toServer bool
	flags    uint8
	seq, ack uint32
	payload  []byte
}

// script is a TCP connection in which one side sends n bytes, or a datagram
// and its answer.
func (s *sim) script(client netip.AddrPort, upload bool, n int) []segment {
	if s.e.Service.Protocol == topology.UDP {
		return []segment{
			{client: client, toServer: true, payload: fmt.Appendf(nil, "whoami %s %d", client, s.ids)},
			{client: client, payload: []byte("the same answer to everybody")},
		}
	}
	s.ids += 100
	c, v := uint32(s.ids)*7919, uint32(s.ids)*104729 // sequence numbers of client and server
	var all []segment
	say := func(toServer bool, flags uint8, payload []byte) {
		seg := segment{client: client, toServer: toServer, flags: flags, seq: v, ack: c, payload: payload}
		if toServer {
			seg.seq, seg.ack = c, v
		}
		next := evidence.Transport{Protocol: evidence.ProtocolTCP, Flags: flags, Seq: seg.seq, Payload: payload}.NextSeq()
		if toServer {
			c = next
		} else {
			v = next
		}
		all = append(all, seg)
	}
	say(true, evidence.SYN, nil)
	say(false, evidence.SYN|evidence.ACK, nil)
	say(true, evidence.ACK, nil)
	say(true, evidence.PSH|evidence.ACK, []byte("GET /whoami HTTP/1.1\r\n\r\n"))
	for sent := 0; sent < n; sent += 1000 {
		say(upload, evidence.ACK, make([]byte, min(1000, n-sent)))
		say(!upload, evidence.ACK, nil)
	}
	say(false, evidence.FIN|evidence.ACK, nil)
	say(true, evidence.ACK, nil)
	say(true, evidence.FIN|evidence.ACK, nil)
	say(false, evidence.ACK, nil)
	return all
}

// exchange plays connections side by side and notes their answers.
func (s *sim) exchange(clients ...netip.AddrPort) {
	var scripts [][]segment
	for _, c := range clients {
		scripts = append(scripts, s.script(c, false, 120))
		name := s.backendOf(c)
		node := s.e.Topology.Nodes[name]
		s.e.Exchanges = append(s.e.Exchanges, Exchange{Client: c, Answer: Answer{name, node.Address, string(node.OS)}})
	}
	s.conversation(scripts...)
}

func (s *sim) conversation(scripts ...[]segment) {
	for i := range scripts[0] {
		for _, script := range scripts {
			s.play(script[i])
		}
	}
}

func (s *sim) foreign(client netip.AddrPort) {
	s.e.Foreign.Dest = netip.AddrPortFrom(s.e.Service.VIP.Next(), 80)
	data := s.frame("client", "lb", s.packet(client, s.e.Foreign.Dest, 64, segment{flags: evidence.SYN, seq: 5, payload: []byte("x")}))
	s.record(placeOf("client"), data, false)
	s.record(placeOf("lb"), data, true)
	s.record(capture.Place{Machine: "lb"}, data, false)
}

// packet builds an IPv4 packet; its identification is the segment's number.
func (s *sim) packet(src, dst netip.AddrPort, ttl uint8, seg segment) []byte {
	ip := &layers.IPv4{
		Version: 4, TTL: ttl, Id: s.ids, Flags: layers.IPv4DontFragment, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice(),
		Protocol: layers.IPProtocol(s.e.Service.Protocol.Number()),
	}
	var transport gopacket.SerializableLayer
	if s.e.Service.Protocol == topology.UDP {
		udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
		s.must(udp.SetNetworkLayerForChecksum(ip))
		transport = udp
	} else {
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), Seq: seg.seq, Ack: seg.ack, Window: 1000,
			SYN: seg.flags&evidence.SYN != 0, ACK: seg.flags&evidence.ACK != 0, FIN: seg.flags&evidence.FIN != 0, PSH: seg.flags&evidence.PSH != 0,
		}
		s.must(tcp.SetNetworkLayerForChecksum(ip))
		transport = tcp
	}
	return s.serialize(ip, transport, gopacket.Payload(seg.payload))
}

func (s *sim) serialize(parts ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	s.must(gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...))
	return buffer.Bytes()
}

func (s *sim) must(err error) {
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *sim) frame(from, to string, ip []byte) []byte {
	return s.serialize(&layers.Ethernet{SrcMAC: s.e.MACs[from], DstMAC: s.e.MACs[to], EthernetType: layers.EthernetTypeIPv4}, gopacket.Payload(ip))
}
