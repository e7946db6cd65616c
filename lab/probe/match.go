package probe

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// flow is a connection as its client sees it.
type flow struct {
	client   netip.AddrPort
	frontend netip.AddrPort
	protocol uint8
}

// pair is a packet that reached the balancer and its counterpart that left.
type pair struct {
	flow flow
	// in has one packet, or several that receive offload joined into out.
	in  []evidence.Packet
	out evidence.Packet
	// form is how the packet left: encapsulated (DSR) or translated (SNAT).
	form topology.Mode
	// altered: headers agree, but the bytes do not.
	altered bool
}

// all is what came and what left, to be shown.
func (p pair) all() []evidence.Packet { return append(slices.Clone(p.in), p.out) }

// crossing is all that crossed the balancer's port, matched.
type crossing struct {
	requests []pair
	replies  []pair
	// lost came and has no counterpart; extra left and has none.
	lost, extra []evidence.Packet
	// requestsIn are all packets for a service, repliesIn all answers to
	// translated flows, with the flow of each.
	requestsIn, repliesIn []arrival
	// viaVIP are packets at the balancer's port whose source is a VIP:
	// towards the balancer, or from it without a reply that came before.
	viaVIP []evidence.Packet
	// own is what the balancer sent to backends on its own account.
	own []evidence.Packet
}

type arrival struct {
	flow flow
	evidence.Packet
}

// natKey is a translated flow as its backend sees it.
type natKey struct {
	backend netip.AddrPort
	port    uint16
}

type natUse struct {
	flow flow
	// index and at are the packet's that showed it.
	index int
	at    time.Time
}

// matcher pairs what went into the balancer with what came out.
type matcher struct {
	topology  topology.Topology
	balancer  netip.Addr
	frontends map[flow]bool // client unset
	backends  map[netip.Addr]bool
	nat       map[natKey][]natUse
	crossing
}

// match pairs the packets of the balancer's port. Pairs are found by
// fingerprints: what a balancer may change is masked, so that a change that it
// must not make still finds its counterpart and is judged by the right check.
func match(t topology.Topology, lbPort []evidence.Packet) (crossing, map[natKey][]natUse) {
	balancer, _ := t.Address(t.LoadBalancer())
	m := &matcher{
		topology: t, balancer: balancer,
		frontends: map[flow]bool{}, backends: map[netip.Addr]bool{}, nat: map[natKey][]natUse{},
	}
	for _, s := range t.Services {
		m.frontends[flow{frontend: s.Frontend(), protocol: s.Protocol.Number()}] = true
		for _, b := range s.Backends {
			m.backends[t.Nodes[b].Address] = true
		}
	}
	var requestsOut, repliesIn, repliesOut []evidence.Packet
	for _, p := range lbPort {
		if !p.IsIPv4() {
			continue
		}
		switch {
		case p.Frame.Outgoing && !p.Encapsulated() && m.isFrontend(p.Dest(), p.Transport.Protocol):
			m.requestsIn = append(m.requestsIn, arrival{flow{p.Source(), p.Dest(), p.Transport.Protocol}, p})
		case p.Frame.Outgoing && m.isFrontend(p.Source(), p.Transport.Protocol):
			m.viaVIP = append(m.viaVIP, p)
		case p.Frame.Outgoing && m.backends[p.IP.Src] && p.IP.Dst == balancer:
			repliesIn = append(repliesIn, p)
		case p.Frame.Outgoing:
		case p.Encapsulated():
			requestsOut = append(requestsOut, p)
		case p.IP.Src == balancer && m.backends[p.IP.Dst] && p.Transport.Protocol != 0:
			requestsOut = append(requestsOut, p)
		case m.isFrontend(p.Source(), p.Transport.Protocol):
			repliesOut = append(repliesOut, p)
		}
	}
	m.matchRequests(requestsOut)
	m.matchReplies(repliesIn, repliesOut)
	return m.crossing, m.nat
}

func (m *matcher) isFrontend(a netip.AddrPort, protocol uint8) bool {
	return protocol != 0 && m.frontends[flow{frontend: a, protocol: protocol}]
}

func (m *matcher) matchRequests(outs []evidence.Packet) {
	// A translated packet does not show its flow: what it holds must find it.
	anyFlow := func(evidence.Packet) flow { return flow{} }
	pairs, unmatchedIn, unmatchedOut := pairUp(m.requestsIn, outs, anyFlow, func(flow) flow { return flow{} })
	m.learn(pairs)
	// What a segment was joined from can be told once the flow is known.
	joined, unmatchedIn, unmatchedOut := joinSegments(unmatchedIn, unmatchedOut, m.requestFlow)
	m.requests = append(pairs, joined...)
	m.lost = append(m.lost, packets(unmatchedIn)...)
	for _, p := range unmatchedOut {
		if !p.Encapsulated() && p.Transport.SrcPort < natPortMin {
			m.own = append(m.own, p)
			continue
		}
		m.extra = append(m.extra, p)
	}
	slices.SortFunc(m.requests, func(a, b pair) int { return cmp.Compare(a.out.Index, b.out.Index) })
}

// learn remembers which port stands for which flow towards a backend.
func (m *matcher) learn(pairs []pair) {
	for _, p := range pairs {
		if p.form == topology.SNAT {
			key := natKey{p.out.Dest(), p.out.Transport.SrcPort}
			m.nat[key] = append(m.nat[key], natUse{p.flow, p.out.Index, p.out.Frame.Time})
		}
	}
	for _, uses := range m.nat {
		slices.SortFunc(uses, func(a, b natUse) int { return cmp.Compare(a.index, b.index) })
	}
}

// requestFlow tells to which flow a packet that left for a backend belongs.
func (m *matcher) requestFlow(p evidence.Packet) (flow, bool) {
	if p.Encapsulated() {
		return flow{p.Source(), p.Dest(), p.Transport.Protocol}, true
	}
	return m.natFlow(natKey{p.Dest(), p.Transport.SrcPort}, p.Index)
}

// natFlow tells which flow used a port last before a packet of the balancer's port.
func (m *matcher) natFlow(key natKey, index int) (flow, bool) {
	return lastUse(m.nat[key], func(u natUse) bool { return u.index <= index })
}

// lastUse returns the last flow that used a port before a moment, or the
// first one of all when none did.
func lastUse(uses []natUse, before func(natUse) bool) (flow, bool) {
	if len(uses) == 0 {
		return flow{}, false
	}
	later, _ := slices.BinarySearchFunc(uses, true, func(u natUse, _ bool) int {
		if before(u) {
			return -1
		}
		return 1
	})
	return uses[max(0, later-1)].flow, true
}

func (m *matcher) matchReplies(ins, outs []evidence.Packet) {
	for _, p := range ins {
		if f, ok := m.natFlow(natKey{p.Source(), p.Transport.DstPort}, p.Index); ok {
			m.repliesIn = append(m.repliesIn, arrival{f, p})
		}
	}
	replyFlow := func(p evidence.Packet) flow { return flow{p.Dest(), p.Source(), p.Transport.Protocol} }
	pairs, unmatchedIn, unmatchedOut := pairUp(m.repliesIn, outs, replyFlow, func(f flow) flow { return f })
	joined, unmatchedIn, unmatchedOut := joinSegments(unmatchedIn, unmatchedOut,
		func(p evidence.Packet) (flow, bool) { return replyFlow(p), true })
	m.replies = append(pairs, joined...)
	m.lost = append(m.lost, packets(unmatchedIn)...)
	m.viaVIP = append(m.viaVIP, unmatchedOut...)
}

func packets(arrivals []arrival) []evidence.Packet {
	var ps []evidence.Packet
	for _, a := range arrivals {
		ps = append(ps, a.Packet)
	}
	return ps
}

type fingerprint [sha256.Size]byte

// maskedSum identifies a packet by all that a balancer must not change: TTL,
// addresses, ports and the checksums that depend on them are masked.
func maskedSum(p evidence.Packet) fingerprint {
	ip := p.IP
	b := bytes.Clone(ip.Raw)
	b[8] = 0
	clear(b[10:20])
	l4 := b[ip.HeaderLength:]
	switch {
	case ip.Protocol == evidence.ProtocolTCP && len(l4) >= 20:
		clear(l4[:4])
		clear(l4[16:18])
	case ip.Protocol == evidence.ProtocolUDP && len(l4) >= 8:
		clear(l4[:4])
		clear(l4[6:8])
	}
	return sha256.Sum256(b)
}

// headline identifies a packet by the header fields that a balancer keeps, for
// those whose other bytes were changed on the way.
type headline struct {
	protocol, flags uint8
	id              uint16
	seq, ack        uint32
	payload         int
}

func headlineOf(p evidence.Packet) headline {
	t := p.Transport
	return headline{t.Protocol, t.Flags, p.IP.ID, t.Seq, t.Ack, len(t.Payload)}
}

type pairKey[T comparable] struct {
	what T
	flow flow
}

// pairUp finds each out's in, in order, first by fingerprint and then by
// headline. Flows take part in the comparison as outFlow and inFlow give them.
func pairUp(ins []arrival, outs []evidence.Packet, outFlow func(evidence.Packet) flow, inFlow func(flow) flow,
) (pairs []pair, lost []arrival, extra []evidence.Packet) {
	pairs, lost, extra = pairBy(ins, outs, maskedSum, outFlow, inFlow)
	changed, lost, extra := pairBy(lost, extra, headlineOf, outFlow, inFlow)
	for i := range changed {
		changed[i].altered = true
	}
	return append(pairs, changed...), lost, extra
}

func pairBy[T comparable](ins []arrival, outs []evidence.Packet, what func(evidence.Packet) T,
	outFlow func(evidence.Packet) flow, inFlow func(flow) flow,
) (pairs []pair, lost []arrival, extra []evidence.Packet) {
	waiting := map[pairKey[T]][]int{}
	for i, in := range ins {
		key := pairKey[T]{what(in.Packet), inFlow(in.flow)}
		waiting[key] = append(waiting[key], i)
	}
	taken := make([]bool, len(ins))
	for _, out := range outs {
		key := pairKey[T]{what(out), outFlow(out)}
		queue := waiting[key]
		if len(queue) == 0 {
			extra = append(extra, out)
			continue
		}
		waiting[key] = queue[1:]
		taken[queue[0]] = true
		in := ins[queue[0]]
		pairs = append(pairs, pair{flow: in.flow, in: []evidence.Packet{in.Packet}, out: out, form: formOf(out)})
	}
	for i, in := range ins {
		if !taken[i] {
			lost = append(lost, in)
		}
	}
	return pairs, lost, extra
}

func formOf(p evidence.Packet) topology.Mode {
	if p.Encapsulated() {
		return topology.DSR
	}
	return topology.SNAT
}

// joinSegments pairs an out that receive offload joined from several segments
// with those segments: same flow, their payloads following each other to
// exactly the out's payload.
func joinSegments(ins []arrival, outs []evidence.Packet, flowOf func(evidence.Packet) (flow, bool),
) (pairs []pair, lost []arrival, extra []evidence.Packet) {
	if len(ins) == 0 || len(outs) == 0 {
		return nil, ins, outs
	}
	type position struct {
		flow flow
		seq  uint32
	}
	starting := map[position][]int{}
	for i, in := range ins {
		if in.Transport.Protocol == evidence.ProtocolTCP && len(in.Transport.Payload) > 0 {
			at := position{in.flow, in.Transport.Seq}
			starting[at] = append(starting[at], i)
		}
	}
	taken := make([]bool, len(ins))
	for _, out := range outs {
		f, known := flowOf(out)
		var parts []int
		seq, rest := out.Transport.Seq, out.Transport.Payload
		for known && len(rest) > 0 {
			i := slices.IndexFunc(starting[position{f, seq}], func(i int) bool {
				return !taken[i] && bytes.HasPrefix(rest, ins[i].Transport.Payload)
			})
			if i < 0 {
				break
			}
			part := starting[position{f, seq}][i]
			taken[part] = true
			parts = append(parts, part)
			seq += uint32(len(ins[part].Transport.Payload))
			rest = rest[len(ins[part].Transport.Payload):]
		}
		if len(parts) == 0 || len(rest) > 0 {
			for _, i := range parts {
				taken[i] = false
			}
			extra = append(extra, out)
			continue
		}
		joined := pair{flow: f, out: out, form: formOf(out)}
		for _, i := range parts {
			joined.in = append(joined.in, ins[i].Packet)
		}
		pairs = append(pairs, joined)
	}
	for i, in := range ins {
		if !taken[i] {
			lost = append(lost, in)
		}
	}
	return pairs, lost, extra
}

// placeOf is a machine's port on the switch, where the proof mostly looks.
func placeOf(machine string) capture.Place { return capture.Place{Machine: machine, Port: true} }
