package probe

import (
	"math/rand/v2"
	"net/netip"
	"sync"

	"l4lab/agent/api"
	"l4lab/lab/probe/oracle"
)

// How much traffic a pass makes.
const (
	consecutivePorts = 64
	outsidePorts     = 8 // source ports that SNAT must not keep
	repeatedTuples   = 8
	sharedPorts      = 4 // source ports that two clients use at once
	// scannedPorts bounds the search for ports that reach the last backends.
	scannedPorts = 8192
)

// ports hands out the client's source ports, each once in a run: a datagram
// service remembers a flow for a minute, and in the mode in which it began. Its
// methods may be called concurrently.
type ports struct {
	mu              sync.Mutex
	inside, outside uint16
	// taken are ports that connections of others hold, or of an earlier run.
	taken map[uint16]bool
}

// avoid keeps off the ports of connections that the balancer remembers. A
// client's port may be held by SNAT for another one, and a flow from a port that
// the balancer still knows would not be new. Only the choice of ports rests on
// what the agent says, no expectation does.
func (p *ports) avoid(connections []api.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = make(map[uint16]bool, 2*len(connections))
	for _, c := range connections {
		p.taken[c.Source.Port()] = true
		p.taken[c.NATPort] = true
	}
}

func newPorts(first uint16) *ports {
	if first == 0 {
		first = uint16(33000 + rand.IntN(15000))
	}
	// Well below the pool, above what servers of the lab may listen on.
	return &ports{inside: first, outside: 12000 + first%12000}
}

// pooled returns the next port inside SNAT's pool.
func (p *ports) pooled() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range natPortMax - natPortMin {
		port := p.inside
		if p.inside++; p.inside < natPortMin {
			p.inside = natPortMin + 232 // past the last port: begin anew
		}
		if !p.taken[port] {
			return port
		}
	}
	return p.inside // all are taken: a busy lab proves what it can
}

// unpooled returns the next port outside SNAT's pool.
func (p *ports) unpooled() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range natPortMin - 12000 {
		port := p.outside
		if p.outside++; p.outside >= natPortMin {
			p.outside = 12000
		}
		if !p.taken[port] {
			return port
		}
	}
	return p.outside
}

// plan is the traffic of a pass, by the client's addresses and ports.
type plan struct {
	table    oracle.Table
	port     uint16 // the service's
	protocol uint8
	ports    *ports
	client   netip.Addr

	// once are connections of their own, again some of them a second time,
	// together pairs that are open at the same time.
	once, again []netip.AddrPort
	together    [][2]netip.AddrPort
	download    netip.AddrPort
	upload      netip.AddrPort
	foreign     netip.AddrPort
}

// plan chooses source ports: 64 in a row, then those that reach the backends
// not reached yet, and some outside SNAT's pool.
func (p *pass) plan() (plan, error) {
	table, err := tableOf(p.topology, p.service)
	if err != nil {
		return plan{}, err
	}
	pl := plan{
		table: table, port: p.service.Port, protocol: p.service.Protocol.Number(),
		ports: p.ports, client: p.topology.Client.Address,
	}
	missing := map[netip.AddrPort]bool{}
	for _, b := range table.Backends() {
		missing[b] = true
	}
	for i := 0; i < consecutivePorts || len(missing) > 0 && i < scannedPorts; i++ {
		client := netip.AddrPortFrom(pl.client, p.ports.pooled())
		backend := pl.lookup(client)
		if i < consecutivePorts || missing[backend] {
			pl.once = append(pl.once, client)
		}
		delete(missing, backend)
	}
	for range outsidePorts {
		pl.once = append(pl.once, netip.AddrPortFrom(pl.client, p.ports.unpooled()))
	}
	for i := range repeatedTuples {
		// Spread over the list, the ports outside the pool included.
		pl.again = append(pl.again, pl.once[len(pl.once)-1-i*len(pl.once)/repeatedTuples])
	}
	pl.download = netip.AddrPortFrom(pl.client, p.ports.pooled())
	pl.upload = netip.AddrPortFrom(pl.client, p.ports.pooled())
	pl.foreign = netip.AddrPortFrom(pl.client, p.ports.pooled())
	return pl, nil
}

func (pl *plan) lookup(client netip.AddrPort) netip.AddrPort {
	return pl.table.Lookup(client, pl.port, pl.protocol)
}

// another returns a client in place of one whose port the client's system does
// not give: inside SNAT's pool or outside, and with the same backend, as it was.
func (pl *plan) another(client netip.AddrPort) netip.AddrPort {
	next := pl.ports.pooled
	if client.Port() < natPortMin {
		next = pl.ports.unpooled
	}
	backend := pl.lookup(client)
	for range scannedPorts {
		client = netip.AddrPortFrom(client.Addr(), next())
		if pl.lookup(client) == backend {
			break
		}
	}
	return client
}

// addSecondClient adds connections from one source port of two addresses to
// one backend: only there could SNAT give one port to both.
func (pl *plan) addSecondClient(second netip.Addr) {
	for range sharedPorts {
		if pair, ok := pl.pair(second); ok {
			pl.together = append(pl.together, pair)
		}
	}
}

// pair returns two such clients, false when there are none.
func (pl *plan) pair(second netip.Addr) ([2]netip.AddrPort, bool) {
	for range scannedPorts {
		port := pl.ports.pooled()
		a, b := netip.AddrPortFrom(pl.client, port), netip.AddrPortFrom(second, port)
		if pl.lookup(a) == pl.lookup(b) {
			return [2]netip.AddrPort{a, b}, true
		}
	}
	return [2]netip.AddrPort{}, false
}

func (pl *plan) count() int { return len(pl.once) + len(pl.again) + 2*len(pl.together) }
