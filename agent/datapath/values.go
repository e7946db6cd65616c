package datapath

import (
	"fmt"
	"net/netip"
	"time"
)

// Mode is how a service's packets reach a backend (enum lb_mode).
type Mode uint8

// The data path's modes.
const (
	DSR  Mode = 1
	SNAT Mode = 2
)

// ParseMode reads "dsr" or "snat".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "dsr":
		return DSR, nil
	case "snat":
		return SNAT, nil
	}
	return 0, fmt.Errorf("%q is no mode: dsr or snat", s)
}

func (m Mode) String() string {
	switch m {
	case DSR:
		return "dsr"
	case SNAT:
		return "snat"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that are balanced.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// ParseProtocol reads "tcp" or "udp".
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	}
	return 0, fmt.Errorf("%q is no protocol: tcp or udp", s)
}

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// VLAN is what becomes of frames with a VLAN tag (enum vlan_policy).
type VLAN uint8

// They pass to the stack untouched, or are a counted drop.
const (
	VLANPass VLAN = 0
	VLANDrop VLAN = 1
)

// ParseVLAN reads "pass" or "drop".
func ParseVLAN(s string) (VLAN, error) {
	switch s {
	case "pass":
		return VLANPass, nil
	case "drop":
		return VLANDrop, nil
	}
	return 0, fmt.Errorf("%q is nothing that can be done with VLAN tags: pass or drop", s)
}

func (v VLAN) String() string {
	switch v {
	case VLANPass:
		return "pass"
	case VLANDrop:
		return "drop"
	}
	return fmt.Sprintf("vlan(%d)", uint8(v))
}

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Config is the one entry of the map config.
type Config struct {
	// Address4 and Address6 are the balancer's own, the outer sources in DSR
	// and the sources in SNAT; a family without one is not balanced.
	Address4, Address6 netip.Addr
	MTU                int
	MAC                MAC
	// NATMin and NATMax bound SNAT's source ports, both inclusive.
	NATMin, NATMax uint16
	// EventRate is how many flow events a CPU may send in a second; 0 sends none.
	EventRate uint32
	// VLAN is for frames with a VLAN tag.
	VLAN      VLAN
	Lifetimes Lifetimes
	// Layout is the LAYOUT_VERSION of who wrote the entry; PutConfig sets it.
	Layout uint32
}

// Lifetimes are how long a silent flow, and the ports of a fragmented packet, are remembered.
type Lifetimes struct {
	TCPEstablished, TCPSYN, TCPClosing, NonTCP, Fragment time.Duration
}

// DefaultLifetimes are Cilium's; a fragmented packet's are RFC 1122's lower bound
// for reassembly, halved: what comes later is a loss anyhow.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{
		TCPEstablished: 8000 * time.Second,
		TCPSYN:         60 * time.Second,
		TCPClosing:     10 * time.Second,
		NonTCP:         60 * time.Second,
		Fragment:       30 * time.Second,
	}
}

// DefaultConfig is a config with Cilium's lifetimes and NAT ports; the
// interface's own facts are the caller's to fill in.
func DefaultConfig() Config {
	return Config{NATMin: 32768, NATMax: 65535, Lifetimes: DefaultLifetimes()}
}

// ServiceKey is how the data path finds a service. Port 0 is the service of all
// ports that have none of their own.
type ServiceKey struct {
	Frontend netip.AddrPort
	Protocol Protocol
}

func (k ServiceKey) String() string { return fmt.Sprintf("%s/%s", k.Frontend, k.Protocol) }

// Service is an entry of the map services.
type Service struct {
	// ID is the user's number.
	ID uint32
	// Slot is where its Maglev table and its counters are.
	Slot uint32
	// TableSize is the number of Maglev slots.
	TableSize uint32
	// Mode is for new flows; a flow keeps the one it began in.
	Mode Mode
	// MSS is the largest TCP MSS option that passes unchanged, 0: any.
	MSS uint16
	// Random takes any slot for a new flow, not the one of its hash.
	Random bool
	// Affinity sends a client's flows to one backend until it has been silent
	// for so long; 0: no affinity.
	Affinity time.Duration
	// Ranges admits only the sources that PutSources has given for the slot.
	Ranges bool
}

// Encap is how DSR reaches a backend (enum lb_encap).
type Encap uint8

// The encapsulations of DSR.
const (
	IPIP Encap = iota
	L2
)

// ParseEncap reads "ipip" or "l2".
func ParseEncap(s string) (Encap, error) {
	switch s {
	case "ipip":
		return IPIP, nil
	case "l2":
		return L2, nil
	}
	return 0, fmt.Errorf("%q is no encapsulation: ipip or l2", s)
}

func (e Encap) String() string {
	switch e {
	case IPIP:
		return "ipip"
	case L2:
		return "l2"
	}
	return fmt.Sprintf("encap(%d)", uint8(e))
}

// BackendState is what a backend is there for (enum backend_state). Flows that
// it has live in each of them but Gone; new ones come to an Active one only.
type BackendState uint8

// The states of a backend.
const (
	// Gone is a free id: flows that have it find themselves over.
	Gone BackendState = iota
	Active
	Draining
	Quarantined
	Maintenance
)

// ParseBackendState reads a state's name.
func ParseBackendState(s string) (BackendState, error) {
	for state := Active; state <= Maintenance; state++ {
		if s == state.String() {
			return state, nil
		}
	}
	return 0, fmt.Errorf("%q is no state of a backend: active, draining, quarantined or maintenance", s)
}

func (s BackendState) String() string {
	switch s {
	case Gone:
		return "gone"
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Quarantined:
		return "quarantined"
	case Maintenance:
		return "maintenance"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Backend is an entry of the map backends: a backend of one service.
type Backend struct {
	// Address's port 0 keeps the one that the client asked for.
	Address netip.AddrPort
	State   BackendState
	Encap   Encap
	// Outer is the source of the outer header: one address, or a prefix whose
	// bits behind its length take the flow's hash. Invalid where there is no such header.
	Outer netip.Prefix
	// ServiceID and ServiceSlot are of the service that has it, or had it last.
	ServiceID, ServiceSlot uint32
	// MAC is of the next hop, zero while that does not answer. PutBackend does
	// not write it: PutNeighbour does, for all backends of an address.
	MAC MAC
}

// Flow names a packet's five-tuple as its sender sees it.
type Flow struct {
	Source, Dest netip.AddrPort
	Protocol     Protocol
}

// FlowFlags are what the data path has seen of a flow (enum ct_flag).
type FlowFlags uint8

// The flags of a flow.
const (
	// SeenNonSYN: the client spoke after its SYN; the flow is established.
	SeenNonSYN FlowFlags = 1 << iota
	// RxClosing: a FIN from the client.
	RxClosing
	// TxClosing: a FIN from the backend.
	TxClosing
	// Reset: an RST from either side.
	Reset
)

// Conn is what is remembered of a client's flow.
type Conn struct {
	// LastSeen is a time of Clock.
	LastSeen                               time.Duration
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	// WayBack is when SNAT's way back was last seen to be there.
	WayBack   time.Duration
	BackendID uint32
	// NATPort is the balancer's source port towards the backend, 0 in DSR.
	NATPort uint16
	Mode    Mode
	Flags   FlowFlags
	// New says that the flow is in the table of those that have had one packet.
	New bool
}

// NAT is SNAT's way back to a client.
type NAT struct {
	Client, VIP netip.AddrPort
	BackendID   uint32
	// New says that it is in the table of new flows.
	New bool
}

// Traffic is a sum over all CPUs of service_stats or backend_stats.
type Traffic struct {
	RxPackets, RxBytes, TxPackets, TxBytes, Connections uint64
}

// Limits are the sizes of the maps, in entries.
type Limits struct {
	Services uint32
	// Sources are the ranges of all services together.
	Sources uint32
	// Connections are IPv4's established ones.
	Connections uint32
	// Backends includes id 0, which is never given out.
	Backends uint32
	// TableSize is the only size that a Maglev table can have, 0 when any is possible.
	TableSize uint32
}
