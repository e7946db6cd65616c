package report

import (
	"fmt"
	"net"
	"strings"

	"l4lab/lab/capture"
	"l4lab/lab/demo"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// leg is a stretch of the way on which a packet does not change: from a machine to
// another, or, with To "", inside a machine after its program.
type leg struct{ From, To string }

// stage is a packet on a leg, as captured.
type stage struct {
	leg
	Packet evidence.Packet
}

// Title is "client → lb", or what happened in the machine.
func (s stage) Title() string {
	if s.To == "" {
		return "inside " + s.From
	}
	return s.From + " → " + s.To
}

// Place is where the packet was captured.
func (s stage) Place() string { return s.Packet.Place.String() }

// journey is one packet followed over all legs of its way.
type journey struct {
	Title  string
	Stages []stage
}

// journeys follow one packet of the request and one of the reply: those that were
// seen on most legs, and of these the first one with payload.
func journeys(r demo.Record, p demo.Passage) []journey {
	client, lb := r.Topology.Client.Name, r.Topology.LoadBalancer()
	request := []leg{{client, lb}, {lb, p.Backend}}
	reply := []leg{{p.Backend, lb}, {lb, client}}
	if p.Mode == topology.DSR {
		request = append(request, leg{From: p.Backend})
		reply = []leg{{p.Backend, client}}
	}
	f := follower{record: r, hops: p.Hops}
	var list []journey
	for _, j := range []struct {
		title string
		legs  []leg
	}{{"Request", request}, {"Reply", reply}} {
		if stages := f.best(j.legs); len(stages) > 0 {
			list = append(list, journey{Title: j.title, Stages: stages})
		}
	}
	return list
}

// identity is what neither mode changes in a packet.
type identity struct {
	protocol, flags uint8
	seq, ack        uint32
	payload         string
}

func identityOf(t evidence.Transport) identity {
	return identity{t.Protocol, t.Flags, t.Seq, t.Ack, string(t.Payload)}
}

// follower finds the packets of a passage.
type follower struct {
	record demo.Record
	hops   []demo.Hop
}

func (f follower) best(legs []leg) (best []stage) {
	score := 0
	seen := map[identity]bool{}
	for _, l := range legs {
		for _, candidate := range f.on(l) {
			id := identityOf(candidate.Transport)
			if seen[id] {
				continue
			}
			seen[id] = true
			stages := f.follow(legs, id)
			points := 2 * len(stages)
			if id.payload != "" {
				points++
			}
			if points > score {
				best, score = stages, points
			}
		}
	}
	return best
}

// follow finds a packet on every leg where it was seen.
func (f follower) follow(legs []leg, id identity) (stages []stage) {
	for _, l := range legs {
		for _, p := range f.on(l) {
			if identityOf(p.Transport) == id {
				stages = append(stages, stage{l, p})
				break
			}
		}
	}
	return stages
}

// on returns the packets of a leg, those from the switch's ports first: what a
// machine's own interface shows, a program at its XDP hook has changed already.
func (f follower) on(l leg) (packets []evidence.Packet) {
	for _, ports := range []bool{true, false} {
		for _, h := range f.hops {
			if h.Place.Port != ports {
				continue
			}
			for _, p := range h.Packets {
				if p.IsIPv4() && p.Transport.Protocol != 0 && f.is(h.Place, p, l) {
					packets = append(packets, p)
				}
			}
		}
	}
	return packets
}

// is says whether a packet of a place is on a leg.
func (f follower) is(place capture.Place, p evidence.Packet, l leg) bool {
	into := p.Frame.Outgoing == place.Port
	if l.To == "" {
		return !place.Port && place.Machine == l.From && into && !p.Encapsulated()
	}
	from, to := f.owner(p.SrcMAC), f.owner(p.DstMAC)
	if into {
		to = place.Machine
	} else {
		from = place.Machine
	}
	return from == l.From && to == l.To
}

func (f follower) owner(mac net.HardwareAddr) string {
	for machine, text := range f.record.MACs {
		if strings.EqualFold(text, mac.String()) {
			return machine
		}
	}
	return ""
}

// row is a header field along a journey.
type row struct {
	Field string
	Cells []cell
}

// cell is a field's value on a leg; Changed since the leg before.
type cell struct {
	Text    string
	Changed bool
}

// Rows are the headers before and after each hop, from the outside in.
func (j journey) Rows() []row {
	var rows []row
	for _, f := range fields {
		r := row{Field: f.name}
		some := false
		for i, s := range j.Stages {
			text := f.of(s.Packet)
			some = some || text != ""
			r.Cells = append(r.Cells, cell{text, i > 0 && text != r.Cells[i-1].Text})
		}
		if some {
			rows = append(rows, r)
		}
	}
	return rows
}

// fields are the header fields of the tables; "" where a packet has none.
var fields = []struct {
	name string
	of   func(evidence.Packet) string
}{
	{"Ethernet source", func(p evidence.Packet) string { return p.SrcMAC.String() }},
	{"Ethernet destination", func(p evidence.Packet) string { return p.DstMAC.String() }},
	{"outer IP source", outer(func(ip evidence.IPv4) string { return ip.Src.String() })},
	{"outer IP destination", outer(func(ip evidence.IPv4) string { return ip.Dst.String() })},
	{"outer IP protocol", outer(func(ip evidence.IPv4) string { return fmt.Sprintf("%d (IP-in-IP)", ip.Protocol) })},
	{"outer IP TTL, length", outer(func(ip evidence.IPv4) string { return fmt.Sprintf("%d, %d", ip.TTL, ip.TotalLength) })},
	{"IP source", func(p evidence.Packet) string { return p.IP.Src.String() }},
	{"IP destination", func(p evidence.Packet) string { return p.IP.Dst.String() }},
	{"IP TTL", func(p evidence.Packet) string { return fmt.Sprint(p.IP.TTL) }},
	{"IP identification", func(p evidence.Packet) string { return fmt.Sprint(p.IP.ID) }},
	{"IP length", func(p evidence.Packet) string { return fmt.Sprint(p.IP.TotalLength) }},
	{"IP checksum", func(p evidence.Packet) string { return fmt.Sprintf("%#04x", p.IP.Checksum) }},
	{"source port", func(p evidence.Packet) string { return fmt.Sprint(p.Transport.SrcPort) }},
	{"destination port", func(p evidence.Packet) string { return fmt.Sprint(p.Transport.DstPort) }},
	{"TCP flags", func(p evidence.Packet) string { return flagsOf(p.Transport) }},
	{"TCP sequence, acknowledgement", func(p evidence.Packet) string {
		if p.Transport.Protocol != evidence.ProtocolTCP {
			return ""
		}
		return fmt.Sprintf("%d, %d", p.Transport.Seq, p.Transport.Ack)
	}},
	{"transport checksum", func(p evidence.Packet) string {
		if p.Frame.ChecksumPending {
			return "not filled in yet"
		}
		return fmt.Sprintf("%#04x", p.Transport.Checksum)
	}},
	{"payload", func(p evidence.Packet) string { return fmt.Sprintf("%d bytes", len(p.Transport.Payload)) }},
}

func outer(of func(evidence.IPv4) string) func(evidence.Packet) string {
	return func(p evidence.Packet) string {
		if p.Outer == nil {
			return ""
		}
		return of(*p.Outer)
	}
}

func flagsOf(t evidence.Transport) string {
	if t.Protocol != evidence.ProtocolTCP {
		return ""
	}
	var names []string
	for _, f := range []struct {
		flag uint8
		name string
	}{{evidence.SYN, "SYN"}, {evidence.FIN, "FIN"}, {evidence.RST, "RST"}, {evidence.PSH, "PSH"}, {evidence.ACK, "ACK"}} {
		if t.Has(f.flag) {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, " ")
}

// listed is a packet in the full list of a place.
type listed struct{ Time, Way, Outer, From, To, Flags, Payload string }

// Listed are all packets of a place, times since the passage's first packet.
func (p path) Listed(h demo.Hop) []listed {
	begin := h.Packets[0].Frame.Time
	for _, other := range p.Hops {
		if len(other.Packets) > 0 && other.Packets[0].Frame.Time.Before(begin) {
			begin = other.Packets[0].Frame.Time
		}
	}
	var list []listed
	for _, packet := range h.Packets {
		l := listed{
			Time: fmt.Sprintf("%.3f", packet.Frame.Time.Sub(begin).Seconds()*1000), Way: "from " + h.Place.Machine, Outer: "–",
			From: packet.Source().String(), To: packet.Dest().String(),
			Flags: flagsOf(packet.Transport), Payload: fmt.Sprint(len(packet.Transport.Payload)),
		}
		if packet.Frame.Outgoing == h.Place.Port {
			l.Way = "to " + h.Place.Machine
		}
		if o := packet.Outer; o != nil {
			l.Outer = fmt.Sprintf("%s → %s", o.Src, o.Dst)
		}
		list = append(list, l)
	}
	return list
}

// Seen are the places that saw packets.
func (p path) Seen() (hops []demo.Hop) {
	for _, h := range p.Hops {
		if len(h.Packets) > 0 {
			hops = append(hops, h)
		}
	}
	return hops
}
