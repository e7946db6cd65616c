// Package api is the agent's interface: HTTP and JSON on a unix socket (Linux)
// or a named pipe (Windows). The types here are what travels; Client speaks
// them, Handler serves them from a Backend. The agent's own command line and
// labctl are both clients of it.
package api

import (
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
	// TookOver says that the agent found pinned maps of an earlier run and kept them.
	TookOver bool `json:"tookOver"`
	// Steps are what the agent did at start, in order, as it printed them.
	Steps []string `json:"steps"`
	// Warnings say what is wrong on this machine though the agent runs, with the remedy.
	Warnings []string `json:"warnings,omitempty"`
}

// Interface is the network interface that the data path is attached to.
type Interface struct {
	Name    string     `json:"name"`
	Index   int        `json:"index"`
	MTU     int        `json:"mtu"`
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
}

// Service is the desired state of one virtual service: the body of
// PUT /v1/services/{id} and an element of GET /v1/services. In a PUT for a
// service that exists, a Protocol or Mode of "" and a TableSize of 0 keep what it has;
// for a new one they mean what stands with them.
type Service struct {
	ID       uint32         `json:"id"`
	Frontend netip.AddrPort `json:"frontend"`
	// Protocol is "tcp" or "udp"; "" means tcp.
	Protocol string `json:"protocol"`
	// Mode is "dsr" or "snat"; "" means the agent's default mode.
	Mode string `json:"mode"`
	// TableSize is the number of Maglev slots; 0 means 16381.
	TableSize uint32           `json:"tableSize,omitempty"`
	Backends  []netip.AddrPort `json:"backends"`
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

// Error is the body of every answer that is not 2xx. A Backend returns it to
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

// DecapStatus is what `lbagent decap status -o json` prints on a backend.
type DecapStatus struct {
	// Attached says that the kernel still has the program on its interface.
	Attached  bool   `json:"attached"`
	Interface string `json:"interface"`
	// Hook is "xdp" (the Windows program) or "tc" (the Linux one).
	Hook     string     `json:"hook"`
	Address  netip.Addr `json:"address"`
	Balancer netip.Addr `json:"balancer"`
	// Decapsulated counts packets stripped and handed on, Bytes their inner IP lengths.
	Decapsulated uint64 `json:"decapsulated"`
	Bytes        uint64 `json:"bytes"`
	Passed       uint64 `json:"passed"`
	Malformed    uint64 `json:"malformed"`
}
