package trace

import (
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// wayBackTrust is WAY_BACK_NS of fast.h.
const wayBackTrust = time.Second

// request is a packet to a VIP: fast_request and request of the data path.
func (t *tracing) request() error {
	conn, known, err := t.tables.Conn(t.flow)
	if err != nil {
		return err
	}
	t.complete(known)
	if known {
		if done, err := t.fast(conn); done || err != nil {
			return err
		}
	}
	s, found, err := t.service(t.flow)
	switch {
	case err != nil:
		return err
	case !found:
		return t.pass("no service for %s/%s, of the port or of all ports", t.flow.Dest, t.flow.Protocol)
	}
	t.say("service %d: %s/%s, mode %s", s.ID, t.trace.Service.Frontend, t.flow.Protocol, s.Mode)
	if !known {
		t.say("the flow is not known")
		return t.unknown(s)
	}
	t.trace.Flow = t.describe(conn)
	if t.trace.Flow.Over, err = t.over(conn, s); err != nil {
		return err
	}
	if t.trace.Flow.Over != "" {
		t.say("the flow was known, but %s", t.trace.Flow.Over)
		return t.unknown(s)
	}
	t.sayFlow()
	return t.known(conn, s)
}

func (t *tracing) sayFlow() {
	f := t.trace.Flow
	t.say("flow known: table %s, %s, %s, last packet %s ago, %s left", f.Table, f.State, f.Mode, f.Age, f.Left)
}

// fast is the packet of an established flow, which goes on without a look at any
// service; done is false when it is left to the slow path.
func (t *tracing) fast(c datapath.Conn) (done bool, err error) {
	if c.New || t.has("S") || t.has("F") || t.has("R") || t.expired(c, t.flow.Protocol) {
		return false, nil
	}
	b, there, err := t.tables.Backend(c.BackendID)
	if err != nil || !there || b.MAC == (datapath.MAC{}) {
		return false, err
	}
	if c.Mode == datapath.SNAT {
		if t.now > c.WayBack && t.now-c.WayBack > wayBackTrust {
			return false, nil
		}
	} else if _, ok := t.fits(b); !ok {
		return false, nil
	}
	t.trace.Flow = t.describe(c)
	t.sayFlow()
	if _, found, err := t.service(t.flow); err != nil {
		return false, err
	} else if !found {
		t.say("no service of its destination any more; a flow that is known goes on")
	}
	if _, _, err := t.backend(c.BackendID); err != nil {
		return false, err
	}
	t.forward(b, c.Mode, c.NATPort)
	return true, nil
}

// known is a packet that goes on in its flow.
func (t *tracing) known(c datapath.Conn, s datapath.Service) error {
	b, _, err := t.backend(c.BackendID)
	if err != nil {
		return err
	}
	t.trace.Mode = c.Mode.String()
	if done, err := t.unreachable(b, c.Mode); done || err != nil {
		return err
	}
	if c.Mode == datapath.SNAT {
		n, there, err := t.tables.NAT(t.wayBack(b, c.NATPort))
		switch {
		case err != nil:
			return err
		case there && !t.isOurs(n):
			return t.drop("conntrack_failed", "the flow's way back was evicted, and port %d is %s's by now", c.NATPort, n.Client)
		case !there:
			t.say("the way back of port %d was evicted and is restored", c.NATPort)
		}
	}
	t.sayMSS(s)
	t.forward(b, c.Mode, c.NATPort)
	return nil
}

// unknown is a packet that would open a flow.
func (t *tracing) unknown(s datapath.Service) error {
	allowed, err := t.allowed(s)
	if err != nil {
		return err
	}
	if !allowed {
		return t.drop("source_denied", "%s is in none of the ranges that the service allows", t.flow.Source.Addr())
	}
	id, err := t.choose(s)
	if err != nil {
		return err
	}
	b, there, err := t.backend(id)
	switch {
	case err != nil:
		return err
	case id == 0 || !there:
		return t.drop("no_backend", "no backend is there")
	}
	t.say("backend %d: %s, %s", id, t.trace.Backend.Address, b.State)
	mode := s.Mode
	if t.isHairpin(b) && mode != datapath.SNAT {
		mode = datapath.SNAT
		t.say("hairpin: the client is the backend, so the flow is snat whatever the service's mode")
	}
	t.trace.Mode = mode.String()
	if t.has("R") && mode == datapath.SNAT {
		return t.drop("no_flow", "a reset of a flow that is not known: no backend knows the port that it would get")
	}
	if done, err := t.unreachable(b, mode); done || err != nil {
		return err
	}
	if t.has("R") {
		t.say("a reset opens no flow, and is sent to where the flow may have been")
		t.forward(b, mode, 0)
		return nil
	}
	var port uint16
	if mode == datapath.SNAT {
		var done bool
		if port, done, err = t.claim(b); done || err != nil {
			return err
		}
	}
	t.trace.Opens = true
	t.sayMSS(s)
	t.forward(b, mode, port)
	return nil
}

// claim is nat_claim of nat.h; port is 0 where it would be a random one.
func (t *tracing) claim(b datapath.Backend) (port uint16, done bool, err error) {
	low, high := t.config.NATMin, t.config.NATMax
	if !t.own().IsValid() || high < low {
		return 0, true, t.drop("nat_exhausted", "the balancer has no address, or no ports, of its own for SNAT")
	}
	wanted := t.flow.Source.Port()
	if wanted < low || wanted > high {
		t.say("the client's port is outside the pool %d to %d: a random free one is taken", low, high)
		return 0, false, nil
	}
	n, taken, err := t.tables.NAT(t.wayBack(b, wanted))
	if err != nil {
		return 0, false, err
	}
	if !taken || t.isOurs(n) {
		t.say("the client's port %d is kept", wanted)
		return wanted, false, nil
	}
	t.say("port %d is %s's towards this backend: a random free one is taken", wanted, n.Client)
	return 0, false, nil
}

// unreachable is reach of slow.h: done when the packet cannot go there.
func (t *tracing) unreachable(b datapath.Backend, mode datapath.Mode) (done bool, err error) {
	if b.MAC == (datapath.MAC{}) {
		return true, t.drop("no_neighbour", "the next hop towards %s does not answer", b.Address.Addr())
	}
	if mode != datapath.DSR {
		return false, nil
	}
	t.trace.Backend.Encap = b.Encap.String()
	most, ok := t.fits(b)
	if ok {
		return false, nil
	}
	t.trace.Answered = !t.trace.Packet.MayFragment || !t.flow.Source.Addr().Is4()
	told := "; without DF nobody is told"
	if t.trace.Answered {
		told = "; the client is told so by ICMP"
	}
	return true, t.drop("mtu_exceeded", "%d bytes of IP do not fit: by %s at most %d do%s", t.trace.Packet.Length, b.Encap, most, told)
}

func (t *tracing) sayMSS(s datapath.Service) {
	if s.MSS != 0 && t.has("S") {
		t.say("an MSS option above %d is made %d", s.MSS, s.MSS)
	}
}

func (t *tracing) forward(b datapath.Backend, mode datapath.Mode, port uint16) {
	t.trace.Verdict, t.trace.Mode = api.Forwarded, mode.String()
	if mode == datapath.SNAT {
		t.trace.NATPort = port
		from := "a random free port"
		if port != 0 {
			from = "port " + portText(port)
		}
		t.say("forwarded from %s %s to %s, MAC %s", t.own(), from, t.trace.Backend.Address, b.MAC)
		return
	}
	t.trace.Backend.Encap = b.Encap.String()
	if b.Encap == datapath.L2 {
		t.say("forwarded unchanged to the MAC %s of %s", b.MAC, b.Address.Addr())
		return
	}
	most, _ := t.fits(b)
	outer := "the balancer's address"
	switch {
	case b.Outer.IsValid() && b.Outer.IsSingleIP():
		outer = b.Outer.Addr().String()
	case b.Outer.IsValid():
		outer = "an address of " + b.Outer.String() + " by the flow's hash"
	}
	t.say("%d bytes of IP fit, at most %d do", t.trace.Packet.Length, most)
	t.say("forwarded inside an IP packet from %s to %s, MAC %s", outer, b.Address.Addr(), b.MAC)
}
