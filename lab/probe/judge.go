package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/probe/evidence"
	"l4lab/lab/probe/oracle"
	"l4lab/topology"
)

// shownPackets is how many offending packets and faults a check shows.
const shownPackets = 8

// Judge turns evidence into facts. It is a pure function: all that it expects
// comes from the topology, the captured bytes and the oracle.
func Judge(e Evidence) ([]Check, error) {
	j, err := newJudge(e)
	if err != nil {
		return nil, err
	}
	j.captures()
	j.traffic()
	j.paths()
	j.balancerFrames()
	j.counters()
	if e.Mode == topology.DSR {
		j.dsr()
	} else {
		j.snat()
	}
	j.foreign()
	j.transfers()
	return j.checks, nil
}

type judge struct {
	Evidence
	checks []Check

	balancer     string
	balancerAddr netip.Addr
	oracle       oracle.Table
	lossy        map[capture.Place]uint64
	packets      map[capture.Place][]evidence.Packet
	crossing     crossing
	nat          map[natKey][]natUse
	// own are the flows that the probe itself began; others are not judged,
	// since they may be older than the mode or the backends.
	own map[flow]bool
	// sent are the backends that packets of a flow were sent to, by address.
	sent map[flow][]netip.Addr
}

func newJudge(e Evidence) (*judge, error) {
	table, err := tableOf(e.Topology, e.Service)
	if err != nil {
		return nil, err
	}
	j := &judge{
		Evidence: e, oracle: table, balancer: e.Topology.LoadBalancer(),
		lossy: map[capture.Place]uint64{}, packets: map[capture.Place][]evidence.Packet{},
		own: map[flow]bool{}, sent: map[flow][]netip.Addr{},
	}
	j.balancerAddr, _ = e.Topology.Address(j.balancer)
	for _, r := range e.Recordings {
		j.packets[r.Place] = evidence.Decode(r.Place, r.Frames)
		if r.Dropped > 0 {
			j.lossy[r.Place] = r.Dropped
		}
	}
	if _, ok := j.packets[placeOf(j.balancer)]; !ok {
		return nil, fmt.Errorf("evidence has no recording of %s", placeOf(j.balancer))
	}
	for _, x := range e.Exchanges {
		j.own[j.flowOf(x.Client)] = true
	}
	for _, x := range e.Transfers {
		j.own[j.flowOf(x.Client)] = true
	}
	j.crossing, j.nat = match(e.Topology, j.packets[placeOf(j.balancer)])
	for _, p := range j.crossing.requests {
		to := sentTo(p.out)
		if !slices.Contains(j.sent[p.flow], to) {
			j.sent[p.flow] = append(j.sent[p.flow], to)
		}
	}
	return j, nil
}

// tableOf computes a service's Maglev table from the topology alone.
func tableOf(t topology.Topology, s topology.Service) (oracle.Table, error) {
	var backends []oracle.Backend
	for _, name := range s.Backends {
		address := netip.AddrPortFrom(t.Nodes[name].Address, s.Port)
		backends = append(backends, oracle.Backend{Address: address, Weight: 1})
	}
	table, err := oracle.NewTable(tableSize(s), string(s.Protocol), backends)
	if err != nil {
		return oracle.Table{}, fmt.Errorf("service %d: %w", s.ID, err)
	}
	return table, nil
}

func tableSize(s topology.Service) uint32 {
	if s.TableSize == 0 {
		return topology.DefaultTableSize
	}
	return s.TableSize
}

// sentTo is the backend's address that a request was sent to.
func sentTo(p evidence.Packet) netip.Addr {
	if p.Encapsulated() {
		return p.Outer.Dst
	}
	return p.IP.Dst
}

func (j *judge) flowOf(client netip.AddrPort) flow {
	return flow{client, j.Service.Frontend(), j.Service.Protocol.Number()}
}

// expected is the backend that the oracle names for a flow, as address and name.
func (j *judge) expected(f flow) (netip.AddrPort, string) {
	address := j.oracle.Lookup(f.client, j.Service.Port, f.protocol)
	return address, j.nameOf(address.Addr())
}

func (j *judge) nameOf(a netip.Addr) string {
	if name, ok := j.Topology.MachineAt(a); ok {
		return name
	}
	return a.String()
}

// ownRequests and ownReplies are the matched packets of the probe's own flows.
func (j *judge) ownRequests() []pair { return j.ownPairs(j.crossing.requests) }
func (j *judge) ownReplies() []pair  { return j.ownPairs(j.crossing.replies) }

func (j *judge) ownPairs(pairs []pair) []pair {
	return slices.DeleteFunc(slices.Clone(pairs), func(p pair) bool { return !j.own[p.flow] })
}

// captured lists the service's backends whose place was recorded.
func (j *judge) captured(port bool) []string {
	var names []string
	for _, name := range j.Service.Backends {
		if _, ok := j.packets[capture.Place{Machine: name, Port: port}]; ok {
			names = append(names, name)
		}
	}
	return names
}

func (j *judge) places(names []string, port bool) []capture.Place {
	var places []capture.Place
	for _, name := range names {
		places = append(places, capture.Place{Machine: name, Port: port})
	}
	return places
}

// finding is a check in the making.
type finding struct {
	check   Check
	started time.Time
	faults  int
	packets int
	// open says why nothing can be said, "" when something can.
	open string
}

// begin starts a check that rests on what was recorded at some places.
func (j *judge) begin(name, expected string, places ...capture.Place) *finding {
	f := &finding{started: time.Now(), check: Check{
		Mode: j.Mode, Service: j.Service.ID, Name: name, Expected: expected, Status: Pass,
	}}
	var lost []string
	for _, p := range places {
		if n := j.lossy[p]; n > 0 {
			lost = append(lost, fmt.Sprintf("%d at %s", n, p))
		}
		if _, ok := j.packets[p]; !ok {
			lost = append(lost, fmt.Sprintf("%s was not recorded", p))
		}
	}
	if len(lost) > 0 {
		f.open = "the capture lost frames: " + strings.Join(lost, ", ")
	}
	return f
}

// fault records what is not as expected, with the packets that show it.
func (f *finding) fault(packets []evidence.Packet, format string, args ...any) {
	f.faults++
	if f.faults <= shownPackets {
		f.check.Faults = append(f.check.Faults, fmt.Sprintf(format, args...))
	}
	for _, p := range packets {
		if f.packets++; f.packets <= shownPackets {
			f.check.Packets = append(f.check.Packets, p.String())
		}
	}
}

// end closes a check; seen says in numbers what was looked at.
func (j *judge) end(f *finding, seen string, args ...any) {
	c := &f.check
	c.Seen = fmt.Sprintf(seen, args...)
	switch {
	case f.open != "":
		c.Status = Unverifiable
		c.Seen = f.open + "; " + c.Seen
	case f.faults > 0:
		c.Status = Fail
	}
	if f.faults > 0 {
		c.Seen += fmt.Sprintf("; %d not as expected: %s", f.faults, c.Faults[0])
	}
	if f.faults > shownPackets {
		c.Faults = append(c.Faults, fmt.Sprintf("… and %d more", f.faults-shownPackets))
	}
	if f.packets > shownPackets {
		c.Packets = append(c.Packets, fmt.Sprintf("… and %d more", f.packets-shownPackets))
	}
	c.Duration = time.Since(f.started)
	j.checks = append(j.checks, *c)
}

// skip records a check that does not apply.
func (j *judge) skip(name, expected, why string) {
	j.checks = append(j.checks, Check{
		Mode: j.Mode, Service: j.Service.ID, Name: name, Expected: expected, Status: Skipped, Seen: why,
	})
}

func (j *judge) captures() {
	f := j.begin(capturesComplete, "no frame dropped at any place")
	total := 0
	for _, r := range j.Recordings {
		total += len(r.Frames)
		if r.Dropped > 0 {
			f.fault(nil, "%s: %d frames dropped, %d recorded", r.Place, r.Dropped, len(r.Frames))
		}
	}
	left := ""
	if n := len(j.Uncaptured); n > 0 {
		left = fmt.Sprintf("; %d places of further backends were not captured", n)
	}
	j.end(f, "%d frames at %d places%s", total, len(j.Recordings), left)
}

// abridged lists what was seen of each backend, the first ones of many.
func abridged(seen []string) string {
	const most = 16
	if n := len(seen); n > most {
		seen = append(seen[:most:most], fmt.Sprintf("… and %d more", n-most))
	}
	return strings.Join(seen, ", ")
}
