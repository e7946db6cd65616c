package probe

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// snat judges what source NAT promises beyond what both modes do.
func (j *judge) snat() {
	j.backendSeesBalancer()
	j.clientSeesVIP()
	j.bothDirections()
	j.translation()
	j.ownPort()
	j.portKept()
	j.ephemeral()
}

// translated are the probe's own requests that left translated.
func (j *judge) translated() []pair {
	return slices.DeleteFunc(j.ownRequests(), func(p pair) bool { return p.form != topology.SNAT })
}

func (j *judge) backendSeesBalancer() {
	backends := j.captured(true)
	f := j.begin(backendSees, "source "+j.balancerAddr.String()+" in every packet to the service's port",
		j.places(backends, true)...)
	packets := 0
	for _, name := range backends {
		for _, p := range j.packets[placeOf(name)] {
			if !p.Frame.Outgoing || p.Transport.Protocol == 0 {
				continue
			}
			switch {
			case j.own[j.flowOf(p.Source())]:
				f.fault([]evidence.Packet{p}, "%s got a packet from the client itself, %s", name, p.Source())
			case p.IP.Src == j.balancerAddr:
				packets++
			}
		}
	}
	f.needSome(packets, "packet from the balancer")
	j.end(f, "%d packets from %s", packets, j.balancerAddr)
}

func (j *judge) clientSeesVIP() {
	client := j.Topology.Client.Name
	f := j.begin(clientSees, "source "+j.Service.Frontend().String()+" in every reply", placeOf(client))
	packets := 0
	for _, p := range j.packets[placeOf(client)] {
		if !p.Frame.Outgoing || p.Transport.Protocol == 0 || !j.own[j.flowOf(p.Dest())] {
			continue
		}
		packets++
		if p.Source() != j.Service.Frontend() {
			f.fault([]evidence.Packet{p}, "%s got a packet from %s", p.Dest(), p.Source())
		}
	}
	f.needSome(packets, "reply")
	j.end(f, "%d packets to the client", packets)
}

func (j *judge) bothDirections() {
	client := j.Topology.Client.Name
	f := j.begin(bothCross, "each flow has requests and replies at the balancer's port, and the client is answered from its MAC address",
		placeOf(j.balancer), placeOf(client))
	requests, replies := map[flow]int{}, map[flow]int{}
	for _, p := range j.ownRequests() {
		requests[p.flow]++
	}
	for _, p := range j.ownReplies() {
		replies[p.flow]++
	}
	for fl := range j.own {
		if requests[fl] == 0 || replies[fl] == 0 {
			f.fault(nil, "%s: %d requests and %d replies crossed", fl.client, requests[fl], replies[fl])
		}
	}
	for _, p := range j.packets[placeOf(client)] {
		if p.Frame.Outgoing && p.Source() == j.Service.Frontend() && j.own[j.flowOf(p.Dest())] {
			if from := j.machineWith(p.SrcMAC); from != j.balancer {
				f.fault([]evidence.Packet{p}, "%s was answered past the balancer, by %s", p.Dest(), from)
			}
		}
	}
	j.end(f, "%d requests and %d replies of %d flows", len(j.ownRequests()), len(j.ownReplies()), len(j.own))
}

func (j *judge) translation() {
	f := j.begin(onlyTranslated,
		"TTL one less, destination port kept, all other bytes as they came", placeOf(j.balancer))
	pairs := j.translated()
	for _, p := range pairs {
		if port := p.out.Transport.DstPort; port != j.Service.Port {
			f.fault(p.all(), "%s: destination port %d", p.flow.client, port)
		}
		if p.out.IP.Src != j.balancerAddr {
			f.fault(p.all(), "%s: source %s", p.flow.client, p.out.IP.Src)
		}
		j.checkRewrite(f, p)
	}
	replies := j.ownReplies()
	for _, p := range replies {
		j.checkRewrite(f, p)
	}
	f.needSome(len(pairs)+len(replies), "translated packet")
	j.end(f, "%d requests and %d replies compared", len(pairs), len(replies))
}

func (j *judge) checkRewrite(f *finding, p pair) {
	all := p.all()
	if p.altered {
		f.fault(all, "%s: bytes other than addresses, ports, TTL and checksums differ", p.flow.client)
	}
	if have, came := p.out.IP.TTL, p.in[0].IP.TTL; have != came-1 {
		f.fault(all, "%s: TTL %d came, %d left", p.flow.client, came, have)
	}
	if p.out.IP.TTL == 0 {
		f.fault(all, "%s: left with TTL 0", p.flow.client)
	}
	in, out := p.in[0].Transport, p.out.Transport
	if in.Protocol == evidence.ProtocolUDP && (in.Checksum == 0) != (out.Checksum == 0) {
		f.fault(all, "%s: UDP checksum %#04x came, %#04x left", p.flow.client, in.Checksum, out.Checksum)
	}
}

// tenure is the time in which a flow used a port towards a backend, in indices
// of the balancer's capture. A datagram flow has no end: it keeps its port.
type tenure struct {
	flow        flow
	first, last int
}

func newTenure(fl flow, index int) tenure {
	if fl.protocol == evidence.ProtocolUDP {
		return tenure{fl, index, math.MaxInt}
	}
	return tenure{fl, index, index}
}

// tenures returns, for each port towards a backend, who used it and when: from
// a flow's first translated packet to its last one in either direction.
func (j *judge) tenures() map[natKey][]tenure {
	held := map[natKey][]tenure{}
	extend := func(key natKey, fl flow, index int) {
		for i, t := range held[key] {
			if t.flow == fl {
				held[key][i].first, held[key][i].last = min(t.first, index), max(t.last, index)
				return
			}
		}
		held[key] = append(held[key], newTenure(fl, index))
	}
	for _, p := range j.crossing.requests {
		if p.form == topology.SNAT {
			extend(natKey{p.out.Dest(), p.out.Transport.SrcPort}, p.flow, p.out.Index)
		}
	}
	for _, p := range j.crossing.replies {
		extend(natKey{p.in[0].Source(), p.in[0].Transport.DstPort}, p.flow, p.out.Index)
	}
	return held
}

func (j *judge) ownPort() {
	f := j.begin(portOfItsOwn,
		"no two connections share one at a time, none changes its own; two clients with one source port included", placeOf(j.balancer))
	ports := 0
	for key, uses := range j.tenures() {
		ports++
		slices.SortFunc(uses, func(a, b tenure) int { return cmp.Compare(a.first, b.first) })
		for i := 1; i < len(uses); i++ {
			if a, b := uses[i-1], uses[i]; b.first <= a.last && (j.own[a.flow] || j.own[b.flow]) {
				f.fault(j.requestsOf(key, a.flow, b.flow), "%s and %s share %s:%d towards %s", a.flow.client, b.flow.client, j.balancerAddr, key.port, key.backend)
			}
		}
	}
	current := map[flow]uint16{}
	for _, p := range j.translated() {
		port := p.out.Transport.SrcPort
		before, known := current[p.flow]
		if known && before != port && !p.in[0].Transport.Has(evidence.SYN) {
			f.fault(p.all(), "%s: its port changed from %d to %d", p.flow.client, before, port)
		}
		current[p.flow] = port
	}
	shared := j.sharedSourcePorts()
	if shared == 0 {
		f.open = "no two clients had one source port at the same time"
	}
	j.end(f, "%d flows, %d ports in use towards backends, %d source ports used by two clients at once", len(current), ports, shared)
}

// requestsOf returns the first request of each of two flows through a port.
func (j *judge) requestsOf(key natKey, flows ...flow) []evidence.Packet {
	var ps []evidence.Packet
	for _, fl := range flows {
		for _, p := range j.crossing.requests {
			if p.flow == fl && p.out.Dest() == key.backend && p.out.Transport.SrcPort == key.port {
				ps = append(ps, p.in[0], p.out)
				break
			}
		}
	}
	return ps
}

// sharedSourcePorts counts source ports that two clients used at once towards
// one backend: what proves that a port is not given out twice.
func (j *judge) sharedSourcePorts() int {
	type client struct {
		port    uint16
		backend netip.Addr
	}
	spans := map[client][]tenure{}
	for _, p := range j.translated() {
		key := client{p.flow.client.Port(), sentTo(p.out)}
		i := slices.IndexFunc(spans[key], func(t tenure) bool { return t.flow == p.flow })
		if i < 0 {
			spans[key] = append(spans[key], newTenure(p.flow, p.in[0].Index))
			continue
		}
		spans[key][i].last = max(spans[key][i].last, p.out.Index)
	}
	shared := 0
	for _, ts := range spans {
		slices.SortFunc(ts, func(a, b tenure) int { return cmp.Compare(a.first, b.first) })
		for i := 1; i < len(ts); i++ {
			if ts[i].first <= ts[i-1].last {
				shared++
			}
		}
	}
	return shared
}

func (j *judge) portKept() {
	f := j.begin(portIsKept,
		fmt.Sprintf("ports in %d–%d; others are replaced by one of them", natPortMin, natPortMax), placeOf(j.balancer))
	kept, replaced := 0, 0
	for _, p := range j.translated() {
		t := p.in[0].Transport
		if t.Protocol == evidence.ProtocolTCP && t.Flags&(evidence.SYN|evidence.ACK) != evidence.SYN {
			continue // the port is chosen once, at the beginning
		}
		port, wanted := p.out.Transport.SrcPort, p.flow.client.Port()
		switch {
		case port < natPortMin:
			f.fault(p.all(), "%s: port %d lies outside the pool", p.flow.client, port)
		case port == wanted:
			kept++
		case wanted < natPortMin:
			replaced++
		case j.usedBefore(natKey{p.out.Dest(), wanted}, p):
			replaced++
		default:
			f.fault(p.all(), "%s: port %d was free towards %s, but %d was taken", p.flow.client, wanted, p.out.IP.Dst, port)
		}
	}
	f.needSome(kept+replaced+f.faults, "translated connection")
	j.end(f, "%d kept, %d replaced", kept, replaced)
}

// usedBefore says that another flow had a port before a packet left. It may
// have ended since: its entry lives on for a while.
func (j *judge) usedBefore(key natKey, p pair) bool {
	return slices.ContainsFunc(j.nat[key], func(u natUse) bool { return u.flow != p.flow && u.index < p.out.Index })
}

func (j *judge) ephemeral() {
	f := j.begin(poolApart,
		fmt.Sprintf("its ephemeral range ends below %d", natPortMin), placeOf(j.balancer))
	seen := "the lab cannot tell its ephemeral range"
	if r := j.Ephemeral; r != nil {
		seen = fmt.Sprintf("ephemeral range %d–%d", r[0], r[1])
		if r[1] >= natPortMin {
			f.fault(nil, "the range %d–%d overlaps %d–%d", r[0], r[1], natPortMin, natPortMax)
		}
	}
	if j.Ephemeral == nil && len(j.crossing.own) == 0 {
		f.open = "the balancer opened no connection of its own"
	}
	j.end(f, "%s; %d packets of its own connections to backends, none from the pool", seen, len(j.crossing.own))
}
