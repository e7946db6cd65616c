// Package path checks a backend through the VIP's own path: it sends what the
// balancer's data path would send of a client's connection, and takes the
// answer that comes straight back. So the decapsulation on the backend, the VIP on its
// loopback and the server that listens there are all in the check, of which a
// connection to the backend's own address sees the last at best.
//
//	probe to backend    [outer: balancer -> backend] [inner: balancer:PORT -> VIP:port] TCP
//	answer              [VIP:port -> balancer:PORT] TCP, not encapsulated: DSR
//
// With encapsulation l2 there is no outer header: the inner packet goes to the
// backend's MAC.
//
// No socket of the kernel can speak so, hence the few states of a TCP client
// in conn_linux.go. One thing has to be kept from the kernel: it gets the answers
// too, knows no socket for them, and would reset the connection. That reset
// goes to the VIP, by the kernel's own route, which may lead to a router, thence
// to the balancer, and to whatever backend its hash names. Therefore
// each source port is held by a listening socket whose filter takes nothing
// (holder_linux.go): the kernel finds an owner for the answer, and the owner
// drops it in silence. A socket that is only bound does not do, and TCP_REPAIR's
// established one would acknowledge data by the same wrong route. The answers
// themselves are read by a packet socket, which sees them even if the
// kernel then drops them as martians (the VIP is an address of this machine) or
// for rp_filter (there is no route to the VIP).
//
// What the check does not see is the balancer's own part: its tables, and the next
// hop's MAC in the data path's map, since for IP-in-IP it is the kernel that
// finds the way to the backend.
package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"l4lab/agent/health"
)

// What Open and Probe fail with where this machine is at fault. Probe's errors
// that wrap them are health.ErrInconclusive too.
var (
	// ErrUnsupported: the system lacks what this takes. Windows has no packet
	// sockets, its client editions send no TCP on raw sockets (Microsoft, "TCP/IP Raw
	// Sockets", limitations), and nothing keeps its stack from resetting the answers.
	ErrUnsupported = errors.New("checks through the VIP need raw sockets and packet sockets, which this system lacks")
	// ErrPermission: CAP_NET_RAW is missing.
	ErrPermission = errors.New("checks through the VIP need root or CAP_NET_RAW")
	// ErrClosed: the Prober was closed.
	ErrClosed = errors.New("the prober is closed")
)

// Options are what a Prober needs.
type Options struct {
	// Interface is the data path's: probes leave and answers arrive through it.
	Interface string
	// Addresses are the balancer's own, at most one of IPv4 and one of IPv6:
	// the probes' inner source, and the outer one where a service names no other.
	Addresses []netip.Addr
	// NextHop returns the MAC of a backend for encapsulation l2. An error says why
	// there is none.
	NextHop func(backend netip.Addr) (net.HardwareAddr, error)
	// FirstPort and LastPort bound the source ports; 0 means 28000 and 28999. They should
	// be outside SNAT's pool and ip_local_port_range.
	FirstPort, LastPort uint16
	// Concurrency is how many probes may run at a time in each family, each of which
	// holds a port: 0 means 256.
	Concurrency int
}

// inconclusive marks an error as this machine's.
func inconclusive(err error) error { return fmt.Errorf("%w: %w", health.ErrInconclusive, err) }
