// Package topology describes a lab as data: which machines there are, which
// addresses they have, which services the load balancer announces.
//
// A Topology is a plain value. Load reads one from strict YAML, Default is the
// five-machine demo, Validate reports every fault at once, Diff says what
// differs between two. Nothing here touches a machine.
package topology

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Role is the job of a node.
type Role string

// The roles that a node can have. The client is no node: it stands apart in
// the topology, since with Hyper-V it is the host itself.
const (
	RoleLoadBalancer Role = "loadbalancer"
	RoleBackend      Role = "backend"
	RoleClient       Role = "client"
)

// OS is the operating system of a node.
type OS string

// The operating systems that a node can have. A provider that cannot run
// Windows emulates it and says so.
const (
	Linux   OS = "linux"
	Windows OS = "windows"
)

// Mode is how a service's packets reach a backend and come back.
type Mode string

// The two modes of the data path.
const (
	// DSR (direct server return) encapsulates requests in IP-in-IP (protocol
	// 4, RFC 2003); replies go from the backend straight to the client.
	DSR Mode = "dsr"
	// SNAT rewrites the headers in both directions; both cross the balancer.
	SNAT Mode = "snat"
)

// Protocol is the transport of a service.
type Protocol string

// The transports that the data path balances.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Number returns the IP protocol number: 6 for TCP, 17 for UDP.
func (p Protocol) Number() uint8 {
	if p == UDP {
		return 17
	}
	return 6
}

// DefaultTableSize is the number of slots of a Maglev table when a service
// names none: Cilium's default.
const DefaultTableSize = 16381

// Topology is a lab: one switch, one client, nodes and services.
type Topology struct {
	Name     string          `yaml:"name" json:"name"`
	Switch   Switch          `yaml:"switch" json:"switch"`
	Client   Client          `yaml:"client" json:"client"`
	Nodes    map[string]Node `yaml:"nodes" json:"nodes"`
	Services []Service       `yaml:"services" json:"services"`
	// Providers is what the provider of the lab's machines must be told besides.
	Providers Providers `yaml:"providers" json:"providers,omitzero"`
}

// Switch is the one layer-2 segment that joins all machines.
type Switch struct {
	// Type is "internal": the switch has no way out of the lab.
	Type   string       `yaml:"type" json:"type"`
	Subnet netip.Prefix `yaml:"subnet" json:"subnet"`
	// MTU in bytes, of every interface of the lab; 1500 when the file says nothing.
	MTU int `yaml:"mtu" json:"mtu"`
}

// Client is the machine that asks the VIP.
type Client struct {
	Name    string     `yaml:"name" json:"name"`
	Address netip.Addr `yaml:"address" json:"address"`
}

// Node is a load balancer or a backend; its name is its key in Topology.Nodes.
type Node struct {
	Role    Role       `yaml:"role" json:"role"`
	OS      OS         `yaml:"os" json:"os"`
	Address netip.Addr `yaml:"address" json:"address"`
}

// Service is a virtual address and the backends behind it.
type Service struct {
	ID       uint32     `yaml:"id" json:"id"`
	VIP      netip.Addr `yaml:"vip" json:"vip"`
	Port     uint16     `yaml:"port" json:"port"`
	Protocol Protocol   `yaml:"protocol" json:"protocol"`
	Mode     Mode       `yaml:"mode" json:"mode"`
	// TableSize is the number of Maglev slots; DefaultTableSize when the file says nothing.
	TableSize uint32 `yaml:"tableSize,omitempty" json:"tableSize,omitempty"`
	// Backends are names of nodes whose role is backend.
	Backends []string `yaml:"backends" json:"backends"`
}

// Frontend returns the service's virtual address and port.
func (s Service) Frontend() netip.AddrPort { return netip.AddrPortFrom(s.VIP, s.Port) }

// NodeNames returns the nodes' names, numbers inside them in numeric order
// (be2 before be10), the load balancer first.
func (t Topology) NodeNames() []string {
	names := make([]string, 0, len(t.Nodes))
	for name := range t.Nodes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		la, lb := t.Nodes[a].Role == RoleLoadBalancer, t.Nodes[b].Role == RoleLoadBalancer
		switch {
		case la && !lb:
			return -1
		case lb && !la:
			return 1
		}
		return CompareNatural(a, b)
	})
	return names
}

// MachineNames returns the nodes' names and, last, the client's.
func (t Topology) MachineNames() []string { return append(t.NodeNames(), t.Client.Name) }

// LoadBalancer returns the name of the one node that balances, "" when there is none.
func (t Topology) LoadBalancer() string {
	for name, n := range t.Nodes {
		if n.Role == RoleLoadBalancer {
			return name
		}
	}
	return ""
}

// Backends returns the names of all backends in NodeNames' order.
func (t Topology) Backends() []string {
	return slices.DeleteFunc(t.NodeNames(), func(n string) bool { return t.Nodes[n].Role != RoleBackend })
}

// Address returns a machine's address, the client's included.
func (t Topology) Address(machine string) (netip.Addr, bool) {
	if machine == t.Client.Name {
		return t.Client.Address, true
	}
	n, ok := t.Nodes[machine]
	return n.Address, ok
}

// MachineAt returns the name of the machine that has an address.
func (t Topology) MachineAt(a netip.Addr) (string, bool) {
	if a == t.Client.Address {
		return t.Client.Name, true
	}
	for name, n := range t.Nodes {
		if n.Address == a {
			return name, true
		}
	}
	return "", false
}

// ServicesOf returns the services that a backend stands behind.
func (t Topology) ServicesOf(backend string) []Service {
	var of []Service
	for _, s := range t.Services {
		if slices.Contains(s.Backends, backend) {
			of = append(of, s)
		}
	}
	return of
}

// VIPs returns each virtual address once, in order of first appearance.
func (t Topology) VIPs() []netip.Addr {
	var vips []netip.Addr
	for _, s := range t.Services {
		if !slices.Contains(vips, s.VIP) {
			vips = append(vips, s.VIP)
		}
	}
	return vips
}

// CompareNatural orders strings so that a trailing number counts as a number:
// be2 before be10.
func CompareNatural(a, b string) int {
	ta, tb := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	if ta == tb {
		na, errA := strconv.Atoi(a[len(ta):])
		nb, errB := strconv.Atoi(b[len(tb):])
		if errA == nil && errB == nil && na != nb {
			return na - nb
		}
	}
	return strings.Compare(a, b)
}
