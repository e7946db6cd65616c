// Package conntrack reads the data path's table of flows for people, and sweeps
// what is dead out of it. The data path itself never uses an entry beyond its
// lifetime; the sweep gives back memory and SNAT ports.
package conntrack

import (
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
	connections := []api.Connection{}
	for f, err := range table.Conns() {
		if err != nil {
			return nil, err
		}
		if service != 0 && f.Conn.ServiceID != service || expired(f, config.Lifetimes, now) {
			continue
		}
		connections = append(connections, describe(f, now))
	}
	slices.SortFunc(connections, func(a, b api.Connection) int {
		switch {
		case a.IdleFor < b.IdleFor:
			return -1
		case a.IdleFor > b.IdleFor:
			return 1
		}
		return a.Source.Compare(b.Source)
	})
	return connections, nil
}

func describe(f datapath.FlowConn, now time.Duration) api.Connection {
	c := api.Connection{
		ServiceID: f.Conn.ServiceID,
		Protocol:  f.Flow.Protocol.String(),
		Source:    f.Flow.Source,
		Dest:      f.Flow.Dest,
		Backend:   f.Conn.Backend,
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
func wayBack(f datapath.FlowConn, own datapath.Config) datapath.Flow {
	return datapath.Flow{
		Source:   f.Conn.Backend,
		Dest:     netip.AddrPortFrom(own.Address, f.Conn.NATPort),
		Protocol: f.Flow.Protocol,
	}
}

// clientFlow is the flow that a way back belongs to.
func clientFlow(n datapath.FlowNAT) datapath.Flow {
	return datapath.Flow{Source: n.NAT.Client, Dest: n.NAT.VIP, Protocol: n.Flow.Protocol}
}

// Swept says what a sweep found.
type Swept struct {
	// Flows were looked at, Expired of them removed, Orphans of nat too.
	Flows, Expired, Orphans int
}
