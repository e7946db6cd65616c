package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// TracePacket is a packet that GET /v1/trace asks about. It comes to the balancer's MAC,
// with a TTL that is no matter, whole, and by the router by which its flow came before.
type TracePacket struct {
	// Protocol is "tcp" or "udp".
	Protocol string         `json:"protocol"`
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	// Flags are TCP's, of the letters S, A, F and R; "" is a SYN where no flow is known, else an ACK.
	Flags string `json:"flags,omitempty"`
	// Length is of IP, its header included; 0 is the smallest possible.
	Length int `json:"length,omitempty"`
	// MayFragment says that an IPv4 packet has no DF.
	MayFragment bool `json:"mayFragment,omitempty"`
}

// Verdict is what becomes of a packet.
type Verdict string

// The verdicts.
const (
	// Forwarded to Trace.Backend, or, a reply, to Trace.Client.
	Forwarded Verdict = "forward"
	// Dropped for Trace.Reason, and counted.
	Dropped Verdict = "drop"
	// Passed on to the machine's own stack, untouched.
	Passed Verdict = "pass"
)

// Trace is what the data path would do with a packet, and why.
type Trace struct {
	Packet  TracePacket `json:"packet"`
	Verdict Verdict     `json:"verdict"`
	// Reason is of a drop: a name of Counters.Drops.
	Reason string `json:"reason,omitempty"`
	// Answered says that the client is told, by an ICMP error.
	Answered bool `json:"answered,omitempty"`
	// Opens says that the packet opens a flow, in place of one that is over perhaps.
	Opens   bool          `json:"opens,omitempty"`
	Service *TraceService `json:"service,omitempty"`
	Flow    *TraceFlow    `json:"flow,omitempty"`
	Choice  *TraceChoice  `json:"choice,omitempty"`
	Backend *TraceBackend `json:"backend,omitempty"`
	// Mode is the flow's: of a new one the service's, but snat where client and backend are one.
	Mode string `json:"mode,omitempty"`
	// NATPort is the balancer's port towards the backend; 0 in DSR, and where a random free one is taken.
	NATPort uint16 `json:"natPort,omitempty"`
	// Client is where a reply goes.
	Client netip.AddrPort `json:"client,omitzero"`
	// TableUnread says that the agent may not read Maglev tables, and has answered by the one that it wrote.
	TableUnread bool `json:"tableUnread,omitempty"`
	// Steps say it in words, in the order in which the data path looks.
	Steps []string `json:"steps"`
}

// TraceService is the service that a packet asks for.
type TraceService struct {
	ID       uint32         `json:"id"`
	Frontend netip.AddrPort `json:"frontend"`
	Mode     string         `json:"mode"`
}

// TraceFlow is what is remembered of a packet's flow.
type TraceFlow struct {
	// Table is "established", or "new" of one that has had one packet.
	Table string `json:"table"`
	// State is "opening", "established", "closing" or, of UDP, "open".
	State   string `json:"state"`
	Mode    string `json:"mode"`
	NATPort uint16 `json:"natPort,omitempty"`
	// Age is the time since its last packet, Left what it lives on in silence; negative when it is over.
	Age  Duration `json:"age"`
	Left Duration `json:"left"`
	// Over says why the packet does not go on in it, "" when it does.
	Over string `json:"over,omitempty"`
}

// TraceChoice says how a new flow gets its backend.
type TraceChoice struct {
	// By is "maglev", "random" or "affinity".
	By string `json:"by"`
	// Slot is of the table, of Slots; both 0 but by maglev.
	Slot  uint32 `json:"slot,omitempty"`
	Slots uint32 `json:"slots,omitempty"`
}

// TraceBackend is where a packet goes.
type TraceBackend struct {
	ID      uint32         `json:"id"`
	Address netip.AddrPort `json:"address"`
	State   string         `json:"state"`
	// MAC is of the next hop, "" while that does not answer.
	MAC string `json:"mac,omitempty"`
	// Encap is of DSR.
	Encap string `json:"encap,omitempty"`
}

func (p TracePacket) values() url.Values {
	v := url.Values{"proto": {p.Protocol}, "from": {p.From.String()}, "to": {p.To.String()}}
	if p.Flags != "" {
		v.Set("flags", p.Flags)
	}
	if p.Length != 0 {
		v.Set("length", strconv.Itoa(p.Length))
	}
	if p.MayFragment {
		v.Set("mayFragment", "true")
	}
	return v
}

func parseTracePacket(v url.Values) (p TracePacket, err error) {
	bad := func(field, wanted string) error {
		return &Error{Field: field, Message: fmt.Sprintf("%q is no %s", v.Get(field), wanted), Code: http.StatusBadRequest}
	}
	p.Protocol, p.Flags = v.Get("proto"), v.Get("flags")
	if p.From, err = netip.ParseAddrPort(v.Get("from")); err != nil {
		return p, bad("from", "ADDRESS:PORT")
	}
	if p.To, err = netip.ParseAddrPort(v.Get("to")); err != nil {
		return p, bad("to", "ADDRESS:PORT")
	}
	length, err := queryNumber(v, "length", 65575)
	if err != nil {
		return p, err
	}
	p.Length = int(length)
	if v.Has("mayFragment") {
		if p.MayFragment, err = strconv.ParseBool(v.Get("mayFragment")); err != nil {
			return p, bad("mayFragment", "truth: true or false")
		}
	}
	return p, p.validate()
}

func (p TracePacket) validate() error {
	refuse := func(field, format string, args ...any) error {
		return &Error{Field: field, Message: fmt.Sprintf(format, args...), Code: http.StatusBadRequest}
	}
	shortest := map[string]int{"tcp": 20, "udp": 8}[p.Protocol]
	switch {
	case shortest == 0:
		return refuse("proto", "%q is no protocol: tcp or udp", p.Protocol)
	case p.From.Addr().Is4In6() || p.To.Addr().Is4In6() || p.From.Addr().Is4() != p.To.Addr().Is4():
		return refuse("to", "%s and %s are not of one family", p.From, p.To)
	case p.From.Addr().Zone() != "" || p.To.Addr().Zone() != "":
		return refuse("from", "addresses with a zone are of one link only")
	case p.Flags != "" && p.Protocol != "tcp":
		return refuse("flags", "are TCP's")
	case strings.Trim(p.Flags, "SAFR") != "":
		return refuse("flags", "%q: wanted are letters of SAFR", p.Flags)
	}
	shortest += map[bool]int{true: 20, false: 40}[p.From.Addr().Is4()]
	if p.Length != 0 && p.Length < shortest {
		return refuse("length", "is %d; the shortest is %d", p.Length, shortest)
	}
	return nil
}

// Trace asks what the data path would do with a packet.
func (c *Client) Trace(ctx context.Context, p TracePacket) (Trace, error) {
	return get[Trace](ctx, c, "/v1/trace?"+p.values().Encode())
}
