package trace

import (
	"fmt"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

func portText(port uint16) string { return fmt.Sprint(port) }

// reply is a packet to the balancer's own address: fast_reply and reply of the data path.
func (t *tracing) reply() error {
	port := t.flow.Dest.Port()
	if port < t.config.NATMin || port > t.config.NATMax {
		t.complete(false)
		return t.pass("%s is the balancer itself, and port %d is outside SNAT's pool %d to %d",
			t.flow.Dest.Addr(), port, t.config.NATMin, t.config.NATMax)
	}
	n, found, err := t.tables.NAT(t.flow)
	if err != nil {
		return err
	}
	t.complete(found)
	if !found {
		return t.pass("no way back for what %s sends to port %d", t.flow.Source, port)
	}
	client := datapath.Flow{Source: n.Client, Dest: n.VIP, Protocol: t.flow.Protocol}
	t.say("way back to %s, which had asked %s", n.Client, n.VIP)
	b, there, err := t.tables.Backend(n.BackendID)
	switch {
	case err != nil:
		return err
	case !there:
		return t.pass("its backend has gone")
	}
	c, known, err := t.tables.Conn(client)
	if err != nil {
		return err
	}
	if !known {
		if _, found, err = t.service(client); err != nil {
			return err
		}
		if !found {
			return t.pass("its flow is not known, and neither is a service for it")
		}
		t.say("its flow was evicted and is restored")
	} else {
		t.trace.Flow = t.describe(c)
		if why := t.notIts(c, n); why != "" {
			t.trace.Flow.Over = why
			return t.pass("the client's flow does not go this way: %s", why)
		}
	}
	t.trace.Verdict, t.trace.Mode, t.trace.NATPort, t.trace.Client = api.Forwarded, datapath.SNAT.String(), port, n.Client
	t.trace.Backend = &api.TraceBackend{ID: n.BackendID, Address: t.flow.Source, State: b.State.String()}
	t.say("forwarded from %s to %s", n.VIP, n.Client)
	return nil
}

// notIts is has_way_back of nat.h, the other way round.
func (t *tracing) notIts(c datapath.Conn, n datapath.NAT) string {
	switch {
	case c.Mode != datapath.SNAT:
		return "it is " + c.Mode.String()
	case c.NATPort != t.flow.Dest.Port():
		return fmt.Sprintf("it has port %d", c.NATPort)
	case c.BackendID != n.BackendID:
		return "it has another backend"
	case t.expired(c, t.flow.Protocol):
		return "its lifetime has ended"
	}
	return ""
}
