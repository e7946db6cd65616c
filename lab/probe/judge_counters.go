package probe

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/agent/api"
	"l4lab/lab/probe/evidence"
	"l4lab/topology"
)

// counters compares what the data path counted with what the captures show.
// Bytes are IP total lengths of the packets as they came.
func (j *judge) counters() {
	total, byBackend := j.expectedTraffic()
	j.serviceCounters(total)
	j.backendCounters(byBackend)
	j.drops()
}

// expectedTraffic counts the service's packets at the balancer's port.
func (j *judge) expectedTraffic() (total api.Traffic, byBackend map[netip.Addr]api.Traffic) {
	byBackend = map[netip.Addr]api.Traffic{}
	ours := func(f flow) bool {
		return f.frontend == j.Service.Frontend() && f.protocol == j.Service.Protocol.Number()
	}
	beginning := j.beginnings()
	for _, a := range j.crossing.requestsIn {
		if !ours(a.flow) {
			continue
		}
		total.RxPackets++
		total.RxBytes += uint64(a.IP.TotalLength)
		if beginning[a.Index] {
			total.Connections++
		}
	}
	for _, a := range j.crossing.repliesIn {
		if ours(a.flow) {
			total.TxPackets++
			total.TxBytes += uint64(a.IP.TotalLength)
			t := byBackend[a.IP.Src]
			t.TxPackets++
			t.TxBytes += uint64(a.IP.TotalLength)
			byBackend[a.IP.Src] = t
		}
	}
	for _, p := range j.crossing.requests {
		if !ours(p.flow) {
			continue
		}
		t := byBackend[sentTo(p.out)]
		for _, in := range p.in {
			t.RxPackets++
			t.RxBytes += uint64(in.IP.TotalLength)
			if beginning[in.Index] {
				t.Connections++
			}
		}
		byBackend[sentTo(p.out)] = t
	}
	return total, byBackend
}

// beginnings returns the packets that begin a connection, by their index at the
// balancer's port: the first one of a flow (in TCP a SYN), and a SYN after the
// flow was seen closed, that is reset, or ended by the client's FIN and,
// where replies pass the balancer, the backend's. Another SYN before that belongs
// to the connection that is open.
func (j *judge) beginnings() map[int]bool {
	type event struct {
		arrival
		reply bool
	}
	var events []event
	for _, a := range j.crossing.requestsIn {
		events = append(events, event{a, false})
	}
	for _, a := range j.crossing.repliesIn {
		events = append(events, event{a, true})
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.Index, b.Index) })
	type state struct{ begun, clientFIN, backendFIN, reset bool }
	states := map[flow]state{}
	begin := map[int]bool{}
	for _, e := range events {
		s, t := states[e.flow], e.Transport
		over := s.reset || s.clientFIN && (s.backendFIN || j.Mode == topology.DSR)
		syn := t.Protocol == evidence.ProtocolUDP || t.Flags&(evidence.SYN|evidence.ACK) == evidence.SYN
		if !e.reply && syn && (!s.begun || over) {
			begin[e.Index] = true
			s = state{begun: true}
		}
		s.reset = s.reset || t.Has(evidence.RST)
		s.clientFIN = s.clientFIN || !e.reply && t.Has(evidence.FIN)
		s.backendFIN = s.backendFIN || e.reply && t.Has(evidence.FIN)
		states[e.flow] = s
	}
	return begin
}

func (j *judge) serviceCounters(want api.Traffic) {
	f := j.begin(serviceCounted, traffic(want), placeOf(j.balancer))
	before, _ := serviceOf(j.Before.Counters, j.Service.ID)
	after, ok := serviceOf(j.After.Counters, j.Service.ID)
	if !ok {
		f.fault(nil, "the agent has no counters of service %d", j.Service.ID)
	}
	have := delta(before.Traffic, after.Traffic)
	if ok && have != want {
		f.fault(nil, "counted %s, captured %s", traffic(have), traffic(want))
	}
	j.end(f, "%s", traffic(have))
}

func (j *judge) backendCounters(want map[netip.Addr]api.Traffic) {
	f := j.begin(backendsCounted, "the same for each backend", placeOf(j.balancer))
	before, _ := serviceOf(j.Before.Counters, j.Service.ID)
	after, _ := serviceOf(j.After.Counters, j.Service.ID)
	var seen []string
	for _, name := range j.Service.Backends {
		address := j.backendAddress(name)
		have := delta(backendOf(before, address), backendOf(after, address))
		seen = append(seen, fmt.Sprintf("%s %d/%d", name, have.RxPackets, have.TxPackets))
		if expected := want[address.Addr()]; have != expected {
			f.fault(nil, "%s: counted %s, captured %s", name, traffic(have), traffic(expected))
		}
	}
	j.end(f, "packets in/back: %s", abridged(seen))
}

func (j *judge) drops() {
	f := j.begin(nothingDropped, "no drop counter moved")
	for _, reason := range slices.Sorted(maps.Keys(j.After.Counters.Drops)) {
		if n := j.After.Counters.Drops[reason] - j.Before.Counters.Drops[reason]; n != 0 {
			f.fault(nil, "%s: %d packets", reason, n)
		}
	}
	if len(j.After.Counters.Drops) == 0 {
		f.open = "the agent reports no drop counters"
	}
	j.end(f, "%d reasons read", len(j.After.Counters.Drops))
}

func serviceOf(c api.Counters, id uint32) (api.ServiceCounters, bool) {
	i := slices.IndexFunc(c.Services, func(s api.ServiceCounters) bool { return s.ID == id })
	if i < 0 {
		return api.ServiceCounters{}, false
	}
	return c.Services[i], true
}

func backendOf(s api.ServiceCounters, address netip.AddrPort) api.Traffic {
	for _, b := range s.Backends {
		if b.Address == address {
			return b.Traffic
		}
	}
	return api.Traffic{}
}

func delta(before, after api.Traffic) api.Traffic {
	return api.Traffic{
		RxPackets: after.RxPackets - before.RxPackets, RxBytes: after.RxBytes - before.RxBytes,
		TxPackets: after.TxPackets - before.TxPackets, TxBytes: after.TxBytes - before.TxBytes,
		Connections: after.Connections - before.Connections,
	}
}

func traffic(t api.Traffic) string {
	return fmt.Sprintf("%d packets (%d bytes) in, %d (%d) back, %d connections", t.RxPackets, t.RxBytes, t.TxPackets, t.TxBytes, t.Connections)
}
