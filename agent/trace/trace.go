// Package trace answers what the data path would do with a packet, and why. It
// goes the way of bpf/lib/slow.h, fast.h and reply.h through the same maps, and
// writes to none. Where the data path throws dice, for a random backend or source port, the
// answer says so.
//
// It looks at one thing after the other while packets go on to change them: the
// answer is of about now.
package trace

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/maglev"
)

// Tables are what is looked at: datapath.Maps, or a fake.
type Tables interface {
	Config() (datapath.Config, error)
	MayBeOurs(netip.Addr) (bool, error)
	Service(datapath.ServiceKey) (s datapath.Service, ok bool, err error)
	SourceAllowed(slot uint32, source netip.Addr) (bool, error)
	Affinity(client netip.Addr, slot uint32) (a datapath.Affinity, ok bool, err error)
	TableSlot(slot, index uint32) (backend uint32, err error)
	Backend(id uint32) (b datapath.Backend, ok bool, err error)
	Conn(datapath.Flow) (c datapath.Conn, ok bool, err error)
	NAT(datapath.Flow) (n datapath.NAT, ok bool, err error)
}

// Run traces a packet that is valid; now is a time of datapath.Clock.
func Run(tables Tables, p api.TracePacket, now time.Duration) (api.Trace, error) {
	protocol, err := datapath.ParseProtocol(p.Protocol)
	if err != nil {
		return api.Trace{}, err
	}
	config, err := tables.Config()
	if err != nil {
		return api.Trace{}, err
	}
	t := &tracing{
		tables: tables, config: config, now: now,
		flow:  datapath.Flow{Source: p.From, Dest: p.To, Protocol: protocol},
		trace: api.Trace{Packet: p, Steps: []string{}},
	}
	if err := t.run(); err != nil {
		return api.Trace{}, fmt.Errorf("trace %s from %s to %s: %w", p.Protocol, p.From, p.To, err)
	}
	return t.trace, nil
}

// tracing is one packet on its way.
type tracing struct {
	tables Tables
	config datapath.Config
	now    time.Duration
	flow   datapath.Flow
	trace  api.Trace
}

func (t *tracing) say(format string, args ...any) {
	t.trace.Steps = append(t.trace.Steps, fmt.Sprintf(format, args...))
}

// pass, drop and forward end the packet's way.
func (t *tracing) pass(format string, args ...any) error {
	t.trace.Verdict = api.Passed
	t.say(format+": the packet passes to this machine's own stack", args...)
	return nil
}

func (t *tracing) drop(reason, format string, args ...any) error {
	t.trace.Verdict, t.trace.Reason = api.Dropped, reason
	t.say(format+": dropped, counted as %s", append(args, reason)...)
	return nil
}

func (t *tracing) run() error {
	if t.config.MAC == (datapath.MAC{}) {
		return t.pass("the balancer is not configured")
	}
	ours, err := t.tables.MayBeOurs(t.flow.Dest.Addr())
	if err != nil {
		return err
	}
	if !ours {
		return t.pass("vip_filter: %s is no VIP", t.flow.Dest.Addr())
	}
	if t.flow.Dest.Addr() == t.own() {
		return t.reply()
	}
	return t.request()
}

// own is the balancer's address of the packet's family.
func (t *tracing) own() netip.Addr {
	if t.flow.Source.Addr().Is4() {
		return t.config.Address4
	}
	return t.config.Address6
}

func (t *tracing) has(flag string) bool { return strings.Contains(t.trace.Packet.Flags, flag) }

// isSYN is is_syn of conntrack.h.
func (t *tracing) isSYN() bool {
	return t.has("S") && !t.has("A") && !t.has("F") && !t.has("R")
}

// complete fills in what the question left open.
func (t *tracing) complete(known bool) {
	p := &t.trace.Packet
	headers := 40
	if t.flow.Source.Addr().Is4() {
		headers = 20
	}
	if t.flow.Protocol == datapath.UDP {
		p.Length = max(p.Length, headers+8)
		return
	}
	p.Length = max(p.Length, headers+20)
	switch {
	case p.Flags != "":
	case known:
		p.Flags = "A"
	default:
		p.Flags = "S"
	}
}

// service is the service of the port, else that of all ports.
func (t *tracing) service(flow datapath.Flow) (datapath.Service, bool, error) {
	for _, frontend := range []netip.AddrPort{flow.Dest, netip.AddrPortFrom(flow.Dest.Addr(), 0)} {
		s, ok, err := t.tables.Service(datapath.ServiceKey{Frontend: frontend, Protocol: flow.Protocol})
		if err != nil {
			return s, false, err
		}
		if ok {
			t.trace.Service = &api.TraceService{ID: s.ID, Frontend: frontend, Mode: s.Mode.String()}
			return s, true, nil
		}
	}
	return datapath.Service{}, false, nil
}

// backend takes the backend of an id for the packet's.
func (t *tracing) backend(id uint32) (datapath.Backend, bool, error) {
	b, ok, err := t.tables.Backend(id)
	if err != nil || !ok {
		t.trace.Backend = nil
		return b, false, err
	}
	t.trace.Backend = &api.TraceBackend{ID: id, Address: endpoint(b, t.flow), State: b.State.String()}
	if b.MAC != (datapath.MAC{}) {
		t.trace.Backend.MAC = b.MAC.String()
	}
	return b, true, nil
}

// endpoint is where a backend gets a flow: one of all ports where the client asked for it.
func endpoint(b datapath.Backend, flow datapath.Flow) netip.AddrPort {
	if b.Address.Port() != 0 {
		return b.Address
	}
	return netip.AddrPortFrom(b.Address.Addr(), flow.Dest.Port())
}

// byTable is select_by_table of select.h: the id of the slot's backend, 0 for none.
func (t *tracing) byTable(s datapath.Service) (uint32, error) {
	if s.TableSize == 0 {
		t.say("the service has no table")
		return 0, nil
	}
	if s.Random {
		t.trace.Choice = &api.TraceChoice{By: "random"}
		id, err := t.tables.TableSlot(s.Slot, 0)
		if err == nil && id != 0 {
			t.say("a random one of the table's %d slots; here it is the first one", s.TableSize)
		}
		return id, err
	}
	slot := maglev.Slot(t.flow.Source, t.flow.Dest, uint8(t.flow.Protocol), s.TableSize, s.Affinity > 0)
	t.trace.Choice = &api.TraceChoice{By: "maglev", Slot: slot, Slots: s.TableSize}
	t.say("the flow's hash is slot %d of %d", slot, s.TableSize)
	return t.tables.TableSlot(s.Slot, slot)
}

// choose is select_backend of select.h.
func (t *tracing) choose(s datapath.Service) (uint32, error) {
	if s.Affinity == 0 {
		return t.byTable(s)
	}
	client := t.flow.Source.Addr()
	a, known, err := t.tables.Affinity(client, s.Slot)
	if err != nil {
		return 0, err
	}
	switch {
	case !known:
		t.say("affinity: %s has no backend yet", client)
		return t.byTable(s)
	case t.now > a.LastSeen && t.now-a.LastSeen > s.Affinity:
		t.say("affinity: %s was last seen %s ago, which is more than %s", client, round(t.now-a.LastSeen), s.Affinity)
		return t.byTable(s)
	}
	b, there, err := t.tables.Backend(a.BackendID)
	if err != nil {
		return 0, err
	}
	if !there || b.State != datapath.Active || b.ServiceSlot != s.Slot {
		t.say("affinity: the backend of %s takes no new flows", client)
		return t.byTable(s)
	}
	t.trace.Choice = &api.TraceChoice{By: "affinity"}
	t.say("affinity: %s has %s", client, endpoint(b, t.flow))
	return a.BackendID, nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
