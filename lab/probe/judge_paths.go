package probe

import (
	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// seenFlows is what a place saw of each flow's one direction.
type seenFlows map[flow]*evidence.Coverage

func (s seenFlows) add(f flow, p evidence.Packet) {
	c := s[f]
	if c == nil {
		c = &evidence.Coverage{}
		s[f] = c
	}
	c.Add(p.Transport)
}

func (s seenFlows) of(f flow) evidence.Coverage {
	if c := s[f]; c != nil {
		return *c
	}
	return evidence.Coverage{}
}

// paths compares, hop by hop, what one machine sent with what the next one's
// port was given. Segments are cut and joined by offloads on the way, so that
// flows are compared by the bytes they cover. What happens inside the
// balancer is judged frame by frame elsewhere.
func (j *judge) paths() {
	backends := j.captured(true)
	places := append([]capture.Place{placeOf(j.Topology.Client.Name), placeOf(j.balancer)}, j.places(backends, true)...)
	f := j.begin(hopsComplete, "each flow's bytes, SYN and FIN are the same at both ends of each hop", places...)
	var hops []hop
	toClient, fromClient := j.atClient()
	toBackend, fromBackend := j.atBackends(backends)
	requestsIn, requestsOut, repliesIn, repliesOut := j.atBalancer()
	hops = append(hops, hop{"client > balancer", fromClient, requestsIn}, hop{"balancer > backend", requestsOut, toBackend})
	if j.Mode == topology.DSR {
		hops = append(hops, hop{"backend > client", fromBackend, toClient})
	} else {
		hops = append(hops, hop{"backend > balancer", fromBackend, repliesIn}, hop{"balancer > client", repliesOut, toClient})
	}
	bytes := 0
	for _, h := range hops {
		for fl := range j.own {
			if !j.followable(fl) {
				continue
			}
			sent, arrived := h.sent.of(fl), h.arrived.of(fl)
			bytes += arrived.Bytes
			if !sent.Equal(arrived) {
				f.fault(nil, "%s, %s: %s sent, %s arrived", h.name, fl.client, sent, arrived)
			}
		}
	}
	j.end(f, "%d flows over %d hops, %d bytes of payload", len(j.own), len(hops), bytes)
}

type hop struct {
	name          string
	sent, arrived seenFlows
}

// followable says that all backends that a flow was sent to were recorded.
func (j *judge) followable(f flow) bool {
	for _, a := range j.sent[f] {
		if _, ok := j.packets[placeOf(j.nameOf(a))]; !ok {
			return false
		}
	}
	return true
}

func (j *judge) atClient() (to, from seenFlows) {
	to, from = seenFlows{}, seenFlows{}
	for _, p := range j.packets[placeOf(j.Topology.Client.Name)] {
		if p.Transport.Protocol == 0 {
			continue
		}
		if p.Frame.Outgoing {
			to.add(flow{p.Dest(), p.Source(), p.Transport.Protocol}, p)
		} else {
			from.add(flow{p.Source(), p.Dest(), p.Transport.Protocol}, p)
		}
	}
	return to, from
}

func (j *judge) atBalancer() (requestsIn, requestsOut, repliesIn, repliesOut seenFlows) {
	requestsIn, requestsOut, repliesIn, repliesOut = seenFlows{}, seenFlows{}, seenFlows{}, seenFlows{}
	for _, a := range j.crossing.requestsIn {
		requestsIn.add(a.flow, a.Packet)
	}
	for _, a := range j.crossing.repliesIn {
		repliesIn.add(a.flow, a.Packet)
	}
	for _, p := range j.crossing.requests {
		requestsOut.add(p.flow, p.out)
	}
	for _, p := range j.crossing.replies {
		repliesOut.add(p.flow, p.out)
	}
	return requestsIn, requestsOut, repliesIn, repliesOut
}

func (j *judge) atBackends(names []string) (to, from seenFlows) {
	to, from = seenFlows{}, seenFlows{}
	for _, name := range names {
		for _, p := range j.packets[placeOf(name)] {
			if p.Transport.Protocol == 0 {
				continue
			}
			f, fromClient, ok := j.flowAtBackend(p)
			switch {
			case !ok:
			case fromClient && p.Frame.Outgoing:
				to.add(f, p)
			case !fromClient && !p.Frame.Outgoing:
				from.add(f, p)
			}
		}
	}
	return to, from
}

// flowAtBackend tells whose packet a backend's port shows: an encapsulated
// one or a reply from the VIP show their flow, a translated one is looked up.
func (j *judge) flowAtBackend(p evidence.Packet) (f flow, fromClient, ok bool) {
	protocol := p.Transport.Protocol
	before := func(u natUse) bool { return !u.at.After(p.Frame.Time) }
	switch {
	case p.Encapsulated():
		return flow{p.Source(), p.Dest(), protocol}, true, true
	case p.Source() == j.Service.Frontend():
		return flow{p.Dest(), p.Source(), protocol}, false, true
	case p.IP.Src == j.balancerAddr:
		f, ok = lastUse(j.nat[natKey{p.Dest(), p.Transport.SrcPort}], before)
		return f, true, ok
	case p.IP.Dst == j.balancerAddr:
		f, ok = lastUse(j.nat[natKey{p.Source(), p.Transport.DstPort}], before)
		return f, false, ok
	}
	return flow{}, false, false
}
