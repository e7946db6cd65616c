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

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Config is the one entry of the map config.
type Config struct {
	// Address is the outer source in DSR and the source in SNAT.
	Address netip.Addr
	MTU     int
	MAC     MAC
	// NATMin and NATMax bound SNAT's source ports, both inclusive.
	NATMin, NATMax uint16
	Lifetimes      Lifetimes
}

// Lifetimes are how long a silent flow is remembered.
type Lifetimes struct {
	TCPEstablished, TCPSYN, TCPClosing, NonTCP time.Duration
}

// DefaultLifetimes are Cilium's.
var defaultLifetimes = Lifetimes{
	TCPEstablished: 8000 * time.Second,
	TCPSYN:         60 * time.Second,
	TCPClosing:     10 * time.Second,
	NonTCP:         60 * time.Second,
}

// DefaultConfig is a config with Cilium's lifetimes and NAT ports; the
// interface's own facts are the caller's to fill in.
func DefaultConfig() Config {
	return Config{NATMin: 32768, NATMax: 65535, Lifetimes: defaultLifetimes}
}

// ServiceKey is how the data path finds a service.
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
}

// Backend is an entry of the map backends: a backend of one service.
type Backend struct {
	Address  netip.AddrPort
	Protocol Protocol
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

// Conn is an entry of the map conntrack: a client's flow.
type Conn struct {
	// LastSeen is a time of Clock.
	LastSeen                               time.Duration
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	BackendID, ServiceID, ServiceSlot      uint32
	Backend                                netip.AddrPort
	// NATPort is the balancer's source port towards the backend, 0 in DSR.
	NATPort uint16
	Mode    Mode
	Flags   FlowFlags
}

// NAT is an entry of the map nat: SNAT's way back to a client.
type NAT struct {
	Client, VIP netip.AddrPort
	BackendID   uint32
}

// Traffic is a sum over all CPUs of service_stats or backend_stats.
type Traffic struct {
	RxPackets, RxBytes, TxPackets, TxBytes, Connections uint64
}

// Limits are the sizes of the maps, in entries.
type Limits struct {
	Services uint32
	// Backends includes id 0, which is never given out.
	Backends uint32
	// TableSize is the only size that a Maglev table can have, 0 when any is possible.
	TableSize uint32
}
