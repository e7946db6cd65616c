package probe

import (
	"net"
	"net/netip"
	"time"

	"l4lab/agent/api"
	"l4lab/lab/capture"
	"l4lab/topology"
)

// The SNAT source ports (host order, both inclusive): Cilium's range.
const (
	natPortMin = 32768
	natPortMax = 65535
)

// Evidence is what one pass over one service in one mode gathered. Judge needs
// nothing else.
type Evidence struct {
	Topology topology.Topology
	Service  topology.Service
	Mode     topology.Mode
	// Recordings of all places, in the order they are to be shown.
	Recordings []capture.Recording
	// MACs of all machines, by name.
	MACs map[string]net.HardwareAddr
	// Before and After were taken while nothing was under way.
	Before, After Sample
	// Exchanges are the small requests, Transfers the large ones.
	Exchanges []Exchange
	Transfers []Transfer
	// Foreign is the packet that was sent through the balancer to no service.
	Foreign Foreign
	// Ephemeral is the balancer's own range of source ports, both inclusive;
	// nil when the lab cannot tell.
	Ephemeral *[2]uint16
	// ServiceMode is the mode that the agent says is in force.
	ServiceMode string
	// Places that were left uncaptured, when there are too many backends.
	Uncaptured []capture.Place
}

// Sample is what the programs on the nodes count.
type Sample struct {
	Counters api.Counters
	// Decap by the backend's name; DSR only.
	Decap map[string]api.DecapStatus
}

// Exchange is one request for /whoami and its answer.
type Exchange struct {
	// Client is the connection's own address and port.
	Client netip.AddrPort
	Answer Answer
	Err    error
	// Took is the time from connecting to the connection's end.
	Took time.Duration
}

// Answer is what a backend says of itself.
type Answer struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	OS      string     `json:"os"`
}

// Transfer is one large download or upload. The sums are SHA-256 in
// hexadecimal; Sent is the sender's, Received the receiver's.
type Transfer struct {
	Upload               bool
	Client               netip.AddrPort
	Bytes, ReceivedBytes int64
	SentSum, ReceivedSum string
	Err                  error
	Took                 time.Duration
}

// Foreign is a packet for an address beside the VIP, routed via the balancer.
type Foreign struct {
	Dest netip.AddrPort
	// NotSent says why the packet was not sent, "" when it was.
	NotSent string
}

// backendAddress is where the service's traffic reaches a backend.
func (e Evidence) backendAddress(name string) netip.AddrPort {
	return netip.AddrPortFrom(e.Topology.Nodes[name].Address, e.Service.Port)
}
