// Package conntrack reads the data path's tables of flows for people, and sweeps
// what is dead out of them. The data path itself never uses an entry beyond its
// lifetime; the sweep gives back memory and SNAT ports.
package conntrack

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// Table is the data path's flows: datapath.Maps, or a fake.
type Table interface {
	Config() (datapath.Config, error)
	Backends() (map[uint32]datapath.Backend, error)
	Conns() iter.Seq2[datapath.FlowConn, error]
	Conn(datapath.Flow) (c datapath.Conn, ok bool, err error)
	DeleteConn(datapath.Flow) error
	NATs() iter.Seq2[datapath.FlowNAT, error]
	NAT(datapath.Flow) (n datapath.NAT, ok bool, err error)
	DeleteNAT(datapath.Flow) error
}

// List returns the living flows of a service, or of all when service is 0, the
// one that was seen last first. now is a time of datapath.Clock.
func List(table Table, service uint32, now time.Duration) ([]api.Connection, error) {
	config, err := table.Config()
	if err != nil {
		return nil, err
	}
	flows := make(map[datapath.Flow]datapath.Conn)
	for f, err := range table.Conns() {
		if err != nil {
			return nil, err
		}
		// One that moves from the new flows to the others may be seen in both.
		if seen, twice := flows[f.Flow]; (!twice || seen.New) && !expired(f, config.Lifetimes, now) {
			flows[f.Flow] = f.Conn
		}
	}
	// Read last: what a flow has was there when it began.
	backends, err := table.Backends()
	if err != nil {
		return nil, err
	}
	connections := []api.Connection{}
	for flow, conn := range flows {
		b, there := backends[conn.BackendID]
		if !there || service != 0 && b.ServiceID != service {
			continue
		}
		connections = append(connections, describe(datapath.FlowConn{Flow: flow, Conn: conn}, b, now))
	}
	slices.SortFunc(connections, func(a, b api.Connection) int {
		if c := cmp.Compare(a.IdleFor, b.IdleFor); c != 0 {
			return c
		}
		return cmp.Or(a.Source.Compare(b.Source), a.Dest.Compare(b.Dest), cmp.Compare(a.Protocol, b.Protocol))
	})
	return connections, nil
}

func describe(f datapath.FlowConn, b datapath.Backend, now time.Duration) api.Connection {
	c := api.Connection{
		ServiceID: b.ServiceID,
		Protocol:  f.Flow.Protocol.String(),
		Source:    f.Flow.Source,
		Dest:      f.Flow.Dest,
		Backend:   endpoint(b, f.Flow),
		Mode:      f.Conn.Mode.String(),
		State:     stateOf(f, now),
		RxPackets: f.Conn.RxPackets,
		RxBytes:   f.Conn.RxBytes,
		IdleFor:   age(f.Conn, now).Seconds(),
	}
	if f.Conn.Mode == datapath.SNAT {
		c.NATPort = f.Conn.NATPort
		c.TxPackets, c.TxBytes = &f.Conn.TxPackets, &f.Conn.TxBytes
	}
	return c
}

// endpoint is where a backend gets a flow; one of all ports gets it where the client asked for it.
func endpoint(b datapath.Backend, f datapath.Flow) netip.AddrPort {
	if b.Address.Port() != 0 {
		return b.Address
	}
	return netip.AddrPortFrom(b.Address.Addr(), f.Dest.Port())
}

func stateOf(f datapath.FlowConn, now time.Duration) api.ConnectionState {
	switch {
	case f.Conn.Flags&(datapath.RxClosing|datapath.TxClosing|datapath.Reset) != 0:
		return api.Closing
	case age(f.Conn, now) >= api.IdleAfter:
		return api.Idle
	}
	return api.Active
}

// age is the time since the last packet; one that came after now was read is new.
func age(c datapath.Conn, now time.Duration) time.Duration { return max(0, now-c.LastSeen) }

// expired is the data path's own rule (conntrack_expired of bpf/lib/conntrack.h).
func expired(f datapath.FlowConn, l datapath.Lifetimes, now time.Duration) bool {
	return age(f.Conn, now) > lifetime(f, l)
}

// lifetime is the data path's own rule (conntrack_lifetime). A closing flow has
// seen a FIN of each side that passes the balancer, or a reset.
func lifetime(f datapath.FlowConn, l datapath.Lifetimes) time.Duration {
	if f.Flow.Protocol != datapath.TCP {
		return l.NonTCP
	}
	fins := datapath.RxClosing
	if f.Conn.Mode == datapath.SNAT {
		fins |= datapath.TxClosing
	}
	switch {
	case f.Conn.Flags&datapath.Reset != 0, f.Conn.Flags&fins == fins:
		return l.TCPClosing
	case f.Conn.Flags&datapath.SeenNonSYN != 0:
		return l.TCPEstablished
	}
	return l.TCPSYN
}

// wayBack is the key under which the data path finds a SNAT flow's replies.
func wayBack(f datapath.FlowConn, b datapath.Backend, own datapath.Config) datapath.Flow {
	address := own.Address4
	if b.Address.Addr().Is6() {
		address = own.Address6
	}
	return datapath.Flow{
		Source:   endpoint(b, f.Flow),
		Dest:     netip.AddrPortFrom(address, f.Conn.NATPort),
		Protocol: f.Flow.Protocol,
	}
}

// clientFlow is the flow that a way back belongs to.
func clientFlow(n datapath.FlowNAT) datapath.Flow {
	return datapath.Flow{Source: n.NAT.Client, Dest: n.NAT.VIP, Protocol: n.Flow.Protocol}
}

// Swept says what a sweep found.
type Swept struct {
	// Flows were looked at. Of them Expired were removed, and Cut, whose backend
	// is not there any more; Orphans of the ways back too.
	Flows, Expired, Cut, Orphans int
	// InUse counts what lives, flows and ways back without one, by backend id.
	InUse map[uint32]int
}
