package trace

import (
	"net/netip"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// closing is conntrack_closing of conntrack.h.
func closing(c datapath.Conn) bool {
	fins := datapath.RxClosing
	if c.Mode == datapath.SNAT {
		fins |= datapath.TxClosing
	}
	return c.Flags&datapath.Reset != 0 || c.Flags&fins == fins
}

// lifetime is conntrack_lifetime of conntrack.h, with the state's name.
func lifetime(c datapath.Conn, p datapath.Protocol, l datapath.Lifetimes) (time.Duration, string) {
	switch {
	case p != datapath.TCP:
		return l.NonTCP, "open"
	case closing(c):
		return l.TCPClosing, "closing"
	case c.Flags&datapath.SeenNonSYN != 0:
		return l.TCPEstablished, "established"
	}
	return l.TCPSYN, "opening"
}

func (t *tracing) expired(c datapath.Conn, p datapath.Protocol) bool {
	life, _ := lifetime(c, p, t.config.Lifetimes)
	return t.now > c.LastSeen && t.now-c.LastSeen > life
}

// describe says what is remembered of the packet's flow.
func (t *tracing) describe(c datapath.Conn) *api.TraceFlow {
	life, state := lifetime(c, t.flow.Protocol, t.config.Lifetimes)
	age := max(0, t.now-c.LastSeen)
	f := &api.TraceFlow{
		Table: "established", State: state, Mode: c.Mode.String(),
		Age: api.Duration(round(age)), Left: api.Duration(round(life - age)),
	}
	if c.Mode == datapath.SNAT {
		f.NATPort = c.NATPort
	}
	if c.New {
		f.Table = "new"
	}
	return f
}

// over says why a packet does not go on in a flow that is remembered; "" when it does.
// It is the first part of request() and outdated() of slow.h.
func (t *tracing) over(c datapath.Conn, s datapath.Service) (string, error) {
	b, there, err := t.tables.Backend(c.BackendID)
	switch {
	case err != nil:
		return "", err
	case !there:
		return "its backend has gone", nil
	case t.expired(c, t.flow.Protocol):
		return "its lifetime has ended", nil
	case !t.isSYN():
		return "", nil
	case closing(c):
		return "it is closing, and a SYN begins another connection", nil
	case b.State != datapath.Active:
		return "its backend is " + b.State.String() + ", and a SYN begins another connection", nil
	case b.ServiceSlot != s.Slot:
		return "its backend is of another service, and a SYN begins another connection", nil
	case c.Flags&datapath.SeenNonSYN != 0 && c.Mode != s.Mode && !(c.Mode == datapath.SNAT && t.isHairpin(b)):
		return "the service has another mode by now, and a SYN begins another connection", nil
	}
	allowed, err := t.allowed(s)
	if err == nil && !allowed {
		return "the client is not allowed any more, and a SYN begins another connection", nil
	}
	return "", err
}

func (t *tracing) allowed(s datapath.Service) (bool, error) {
	if !s.Ranges {
		return true, nil
	}
	return t.tables.SourceAllowed(s.Slot, t.flow.Source.Addr())
}

// isHairpin: a backend that is the client cannot get a packet from its own address.
func (t *tracing) isHairpin(b datapath.Backend) bool {
	return b.Address.Addr() == t.flow.Source.Addr()
}

// wayBack is the key under which the replies of the packet's flow are found.
func (t *tracing) wayBack(b datapath.Backend, port uint16) datapath.Flow {
	return datapath.Flow{Source: endpoint(b, t.flow), Dest: netip.AddrPortFrom(t.own(), port), Protocol: t.flow.Protocol}
}

func (t *tracing) isOurs(n datapath.NAT) bool {
	return n.Client == t.flow.Source && n.VIP == t.flow.Dest
}

// fits is encap_fits of encap.h.
func (t *tracing) fits(b datapath.Backend) (most int, ok bool) {
	most = min(t.config.MTU, 0xffff)
	if b.Encap == datapath.IPIP {
		most -= map[bool]int{true: 20, false: 40}[b.Address.Addr().Is4()]
	}
	return most, t.trace.Packet.Length <= most
}
