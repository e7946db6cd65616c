// Package api is the agent's interface: HTTP and JSON on a unix socket (Linux)
// or a named pipe (Windows). The types here are what travels; Client speaks
// them, Handler serves them from an Agent. The agent's own command line and
// labctl are both clients of it.
package api

import (
	"fmt"
	"net/netip"
	"time"
)

// Status is what GET /v1/status answers.
type Status struct {
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	Interface Interface `json:"interface"`
	// Platform is where the data path runs: "linux" or "windows".
	Platform string `json:"platform"`
	// AttachMode is "native", or "generic" where the driver has no XDP.
	AttachMode string `json:"attachMode"`
	// ProgramID is the kernel's id of the attached program, 0 when none is.
	ProgramID uint32 `json:"programId"`
	// VLAN is what becomes of frames with a VLAN tag: "pass" or "drop".
	VLAN string `json:"vlan"`
	// TookOver says that the agent found pinned maps of an earlier run and kept them.
	TookOver bool `json:"tookOver"`
	// Steps are what the agent did at start, in order, as it printed them.
	Steps []string `json:"steps"`
	// Warnings say what is wrong on this machine though the agent runs, with the remedy.
	Warnings []string `json:"warnings,omitempty"`
}

// Interface is the network interface that the data path is attached to.
type Interface struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
	MTU   int    `json:"mtu"`
	// Address and Address6 are the balancer's own of each family; a family
	// without one is balanced only where no packet needs it: see Service.
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6,omitzero"`
	MAC      string     `json:"mac"`
}

// Service is the desired state of one virtual service: the body of
// PUT /v1/services/{id} and an element of GET and PUT /v1/services. In a PUT of
// one that exists, a Protocol, Mode, Encap or Selection of "" and a TableSize of 0
// keep what it has; for a new one, and in a PUT of all, they mean what stands with
// them. Everything else that is left out is as its zero value says.
//
// Frontend and backends are of one family, IPv4 or IPv6. A family of which the balancer
// has no address of its own can be balanced by DSR alone: by layer 2, or by IP-in-IP from
// an OuterSource.
//
// New flows go to the backends that are active, have a weight and are not
// quarantined by their health check. While the checks quarantine all that
// would do otherwise, they are not heeded and all are used: a check that is wrong everywhere, or a
// network that has lost the checks alone, shall not take the service away.
type Service struct {
	ID uint32 `json:"id"`
	// Frontend is the VIP and its port; port 0 means all ports that no other
	// service of the VIP and protocol has, and goes with backends of port 0.
	Frontend netip.AddrPort `json:"frontend"`
	// Protocol is "tcp" or "udp"; "" means tcp.
	Protocol string `json:"protocol"`
	// Mode is "dsr" or "snat"; "" means the agent's default mode. Flows that began go on in theirs.
	Mode string `json:"mode"`
	// Encap is how DSR reaches a backend: "ipip" (4in4, 6in6), which "" means, or
	// "l2", by destination MAC alone. In SNAT it is that of the flows which began in DSR.
	Encap string `json:"encap,omitempty"`
	// OuterSource is the source of IP-in-IP's outer header: an address, or a
	// prefix whose free bits take the flow's hash, so that receivers spread flows
	// over their queues. "" means the balancer's own address.
	OuterSource string `json:"outerSource,omitempty"`
	// Selection is how a new flow gets its backend: "maglev", by its hash, which ""
	// means, or "random".
	Selection string `json:"selection,omitempty"`
	// Affinity keeps a client's flows at one backend until the client has been
	// silent for so long; 0 means none.
	Affinity Duration `json:"affinity,omitempty"`
	// Sources are the clients that are let in; empty means all.
	Sources []netip.Prefix `json:"sources,omitempty"`
	// MSS bounds the TCP MSS option of handshakes that pass; 0 leaves it alone.
	MSS uint16 `json:"mss,omitempty"`
	// TableSize is the number of Maglev slots; 0 means 16381.
	TableSize uint32 `json:"tableSize,omitempty"`
	// Backends are at least one in a PUT; those that drain may leave a service without any.
	Backends []Backend `json:"backends"`
	// HealthCheck, if not nil, has the agent check the backends.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// Revision grows with each change of the service, and never comes back once
	// the service was deleted. In a PUT, 0 writes whatever it is by now, and any
	// other must be the revision that the service has: else the answer is 409,
	// somebody else having changed it.
	Revision uint64 `json:"revision,omitempty"`
}

// Backend is one of a service's. In JSON a text is its address, and all else left out.
type Backend struct {
	// Address's port 0 keeps the port that the client asked for (all-ports services).
	Address netip.AddrPort `json:"address"`
	// Weight is its share of new flows, 0 to 1000: 0 gets none. Nil means 1.
	Weight *uint16 `json:"weight,omitempty"`
	// State is "active", which "" means, "draining" or "maintenance"; only an active one gets
	// new flows. A draining backend leaves the service when its last
	// connection has ended, or at its deadline.
	State string `json:"state,omitempty"`
	// DrainUntil is a draining backend's deadline, at which its connections are cut; nil means none.
	DrainUntil *time.Time `json:"drainUntil,omitempty"`
	// Health is what the checks say, "healthy" or "quarantined"; "" where there
	// are none. It is ignored in a PUT.
	Health string `json:"health,omitempty"`
}

// MaxWeight is the largest weight of a backend.
const MaxWeight = 1000

// HealthCheck says how the agent checks a service's backends.
type HealthCheck struct {
	// Type is "tcp" (connect) or "http" (GET).
	Type string `json:"type"`
	// Via is "direct", which "" means: the backend's own address. "vip" goes
	// through the VIP's own path, encapsulated, so that a broken decapsulation is seen.
	Via string `json:"via,omitempty"`
	// Port is the backend's port to check; 0 means the one of the service.
	Port uint16 `json:"port,omitempty"`
	// Path and Status are of HTTP: "" means /, and 0 any of 200 to 399.
	Path   string `json:"path,omitempty"`
	Status int    `json:"status,omitempty"`
	// Interval and Timeout are of each check: 0 means 5 s and 1 s.
	Interval Duration `json:"interval,omitempty"`
	Timeout  Duration `json:"timeout,omitempty"`
	// Rise and Fall are how many results in a row change a backend's health:
	// 0 means 2 and 3.
	Rise int `json:"rise,omitempty"`
	Fall int `json:"fall,omitempty"`
}

// Duration is a time.Duration, in JSON and YAML the text of one: "1m30s".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes it as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// ModeUpdate is the body of PUT /v1/mode. ServiceID 0 means every service and
// the default for later ones.
type ModeUpdate struct {
	Mode      string `json:"mode"`
	ServiceID uint32 `json:"serviceId,omitempty"`
}

// ConnectionState is what the balancer can tell of a flow.
type ConnectionState string

// The states of a connection, as the demo's dumpstate names them.
const (
	// Active: packets were seen within the last IdleAfter.
	Active ConnectionState = "active"
	// Closing: a FIN or RST was seen.
	Closing ConnectionState = "closing"
	// Idle: no packet for IdleAfter; the entry lives until its lifetime ends.
	Idle ConnectionState = "idle"
)

// IdleAfter is how long a flow may be silent before it is shown as idle.
const IdleAfter = 10 * time.Second

// Connection is one row of the demo's dumpstate. Rx is what the client sent,
// Tx what the backend answered, in bytes of IP; Tx is nil in DSR, where
// replies never pass the balancer.
type Connection struct {
	ServiceID uint32          `json:"serviceId"`
	Protocol  string          `json:"protocol"`
	Source    netip.AddrPort  `json:"source"`
	Dest      netip.AddrPort  `json:"dest"`
	Backend   netip.AddrPort  `json:"backend"`
	Mode      string          `json:"mode"`
	State     ConnectionState `json:"state"`
	// NATPort is the balancer's source port towards the backend, 0 in DSR.
	NATPort   uint16  `json:"natPort,omitempty"`
	RxPackets uint64  `json:"rxPackets"`
	RxBytes   uint64  `json:"rxBytes"`
	TxPackets *uint64 `json:"txPackets"`
	TxBytes   *uint64 `json:"txBytes"`
	// IdleFor is the time since the last packet, in seconds.
	IdleFor float64 `json:"idleFor"`
}

// Traffic counts packets, and bytes of IP as client or backend sent them.
type Traffic struct {
	RxPackets   uint64 `json:"rxPackets"`
	RxBytes     uint64 `json:"rxBytes"`
	TxPackets   uint64 `json:"txPackets"`
	TxBytes     uint64 `json:"txBytes"`
	Connections uint64 `json:"connections"`
}

// Counters is what GET /v1/counters answers.
type Counters struct {
	Services []ServiceCounters `json:"services"`
	// Drops has every reason that the data path knows, zeros included.
	Drops map[string]uint64 `json:"drops"`
}

// ServiceCounters are one service's and its backends' totals since they were
// first there. They survive a restart of the agent, and the service's or backend's
// going and coming back, as long as its number was not needed for another.
type ServiceCounters struct {
	ID uint32 `json:"id"`
	Traffic
	Backends []BackendCounters `json:"backends"`
}

// BackendCounters are the totals of one backend of one service.
type BackendCounters struct {
	Address netip.AddrPort `json:"address"`
	Traffic
}

// Neighbour is a next hop as the data path has it.
type Neighbour struct {
	// Address is the backend's.
	Address netip.Addr `json:"address"`
	// NextHop is the gateway towards it, or the backend itself on its own link.
	NextHop netip.Addr `json:"nextHop"`
	// MAC is "" while the next hop does not answer.
	MAC string `json:"mac"`
}

// Error is the body of every answer that is not 2xx. An Agent returns it to
// say what is wrong with a request; the Client returns it as it came.
type Error struct {
	// Field names the part of the request that is wrong, "" when none is.
	Field   string `json:"field,omitempty"`
	Message string `json:"error"`
	// Code is the HTTP status; 0 means 422: the request is well-formed and cannot be met.
	Code int `json:"-"`
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

// Tunnel is the way from a balancer to a backend.
type Tunnel struct {
	// Address is the backend's, the outer destination.
	Address netip.Addr `json:"address"`
	// Balancer is the outer source: one address, or the prefix over which it is
	// spread. A prefix of length 0 accepts any.
	Balancer netip.Prefix `json:"balancer"`
}

func (t Tunnel) String() string {
	from := t.Balancer.String()
	switch {
	case t.Balancer.Bits() == 0:
		from = "anybody"
	case t.Balancer.IsSingleIP():
		from = t.Balancer.Addr().String()
	}
	return fmt.Sprintf("what %s sends to %s", from, t.Address)
}

// DecapStatus is what `lbagent decap status -o json` prints on a backend.
type DecapStatus struct {
	// Attached says that the kernel still has the program on its interface.
	Attached  bool   `json:"attached"`
	Interface string `json:"interface"`
	// Hook is "xdp" (the Windows program) or "tc" (the Linux one).
	Hook string `json:"hook"`
	// Clsact says that the TC program sits in a clsact filter, as on kernels before
	// 6.6, which have no TCX.
	Clsact bool `json:"clsact,omitempty"`
	// Tunnels are what is stripped, at most one a family.
	Tunnels []Tunnel `json:"tunnels"`
	// Decapsulated counts packets stripped and handed on, Bytes their inner IP lengths,
	// as the balancer sent them: what receive offload merged before TC counts as its
	// segments. Where the segments' headers cannot be read (neither TCP nor UDP, more
	// than four IPv6 extension headers), Bytes has a merged packet's own length.
	Decapsulated uint64 `json:"decapsulated"`
	Bytes        uint64 `json:"bytes"`
	// Passed counts all else, left as it was, and Malformed what the balancer sent and
	// was dropped, since it held no whole IP packet or the kernel could not strip it.
	// Merged packets count as what the kernel says they were merged of, as one if it
	// does not say.
	Passed    uint64 `json:"passed"`
	Malformed uint64 `json:"malformed"`
}
