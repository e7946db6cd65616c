// Package role says what a node needs for its job, in verbs: give it the VIP,
// start the agent, attach the decapsulation program, serve the page. Each
// kind of guest operating system (namespace, Linux with systemd, Windows)
// implements System once over its Guest; the orchestrator's plan is made of
// these verbs and knows nothing of how an operating system does them.
package role

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"l4lab/agent/api"
	"l4lab/topology"
)

// Hook is where a decapsulation program sits.
type Hook string

// The two hooks: Windows has XDP alone, on Linux the demo used TC.
const (
	XDP Hook = "xdp"
	TC  Hook = "tc"
)

// HookOf returns the hook that an operating system's decapsulation uses.
func HookOf(os topology.OS) Hook {
	if os == topology.Windows {
		return XDP
	}
	return TC
}

// System is what roles ask of a node's operating system. Every verb is
// idempotent and takes the whole desired state of its subject; calling it again
// with an earlier state takes a change back.
type System interface {
	// Observe returns what of the verbs' subjects the node has now.
	Observe(ctx context.Context) (Facts, error)
	// EnsureVIPs makes exactly these addresses local, without announcing them.
	EnsureVIPs(ctx context.Context, vips []netip.Addr) error
	// EnsureRoutes makes exactly these host routes lead via the balancer.
	EnsureRoutes(ctx context.Context, routes []Route) error
	// EnsureAgent has the balancer's agent run as asked, and answer.
	EnsureAgent(ctx context.Context, a Agent) error
	// EnsureDecap has the decapsulation program attached as asked.
	EnsureDecap(ctx context.Context, d Decap) error
	// DecapStatus asks the decapsulation program for its counters.
	DecapStatus(ctx context.Context) (api.DecapStatus, error)
	// EnsurePage has the web server run as asked, and answer.
	EnsurePage(ctx context.Context, p Page) error
	// EphemeralPorts returns the system's own range of source ports, both inclusive.
	EphemeralPorts(ctx context.Context) (low, high uint16, err error)
	// Remove takes one subject back: SubjectAgent, SubjectDecap or SubjectPage.
	// What is not there is removed already.
	Remove(ctx context.Context, subject Subject) error
}

// Subject is something that a verb puts on a node.
type Subject string

// The subjects that Remove takes.
const (
	SubjectAgent Subject = "agent"
	SubjectDecap Subject = "decap"
	SubjectPage  Subject = "page"
)

// Facts is what a node has of the verbs' subjects. The Spec strings are those
// of the values below; "" means that the subject is not there or not working.
type Facts struct {
	VIPs   []netip.Addr `json:"vips,omitempty"`
	Routes []Route      `json:"routes,omitempty"`
	Agent  Present      `json:"agent,omitzero"`
	Decap  Present      `json:"decap,omitzero"`
	Page   Present      `json:"page,omitzero"`
	// Kernel is the release of the node's kernel, where that is one of its own.
	Kernel string `json:"kernel,omitempty"`
}

// Present is what was found of one subject.
type Present struct {
	// Spec is what it was made from.
	Spec string `json:"spec,omitempty"`
	// PID is the daemon's process, 0 for what is no process.
	PID int `json:"pid,omitempty"`
	// Fault says why a subject that was made does not work now: "exited".
	Fault string `json:"fault,omitempty"`
	// Note is what else is to be known of one that works: "by a clsact filter".
	Note string `json:"note,omitempty"`
}

// Route is a host route.
type Route struct {
	Destination netip.Addr `json:"destination"`
	Via         netip.Addr `json:"via"`
	// MTU leaves room for the outer header, so that a full segment still fits.
	MTU int `json:"mtu"`
}

func (r Route) String() string { return fmt.Sprintf("%s via %s mtu %d", r.Destination, r.Via, r.MTU) }

// Agent is how the balancer's agent runs.
type Agent struct {
	Address netip.Addr
	// Program is the host's path of the agent's binary, Hash its SHA-256.
	Program, Hash string
}

// Spec is the comparable form.
func (a Agent) Spec() string { return fmt.Sprintf("address %s program %.12s", a.Address, a.Hash) }

// Decap is how a backend takes the outer header off.
type Decap struct {
	Hook Hook
	// Address is the backend's, Balancer the one outer source accepted.
	Address, Balancer netip.Addr
	Program, Hash     string
}

// Spec is the comparable form.
func (d Decap) Spec() string {
	return fmt.Sprintf("%s address %s balancer %s program %.12s", d.Hook, d.Address, d.Balancer, d.Hash)
}

// Page is how a backend serves the demo's page.
type Page struct {
	Name    string
	OS      topology.OS
	Address netip.Addr
	// TCP and UDP are the ports served, in order.
	TCP, UDP      []uint16
	Program, Hash string
}

// Spec is the comparable form.
func (p Page) Spec() string {
	return fmt.Sprintf("%s %s %s tcp %s udp %s program %.12s", p.Name, p.OS, p.Address, ports(p.TCP), ports(p.UDP), p.Hash)
}

// PageOf returns the page of a backend: it serves the port of every service
// that the backend stands behind, and 80 when it stands behind none.
func PageOf(t topology.Topology, backend string) Page {
	n := t.Nodes[backend]
	p := Page{Name: backend, OS: n.OS, Address: n.Address}
	for _, s := range t.ServicesOf(backend) {
		if s.Protocol == topology.UDP {
			p.UDP = append(p.UDP, s.Port)
		} else {
			p.TCP = append(p.TCP, s.Port)
		}
	}
	if len(p.TCP)+len(p.UDP) == 0 {
		p.TCP = []uint16{80}
	}
	slices.Sort(p.TCP)
	slices.Sort(p.UDP)
	p.TCP, p.UDP = slices.Compact(p.TCP), slices.Compact(p.UDP)
	return p
}

// VIPsOf returns the virtual addresses that a backend must own: those of its services.
func VIPsOf(t topology.Topology, backend string) []netip.Addr {
	var vips []netip.Addr
	for _, s := range t.ServicesOf(backend) {
		vips = append(vips, s.VIP)
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return slices.Compact(vips)
}

// EncapOverhead is what IP-in-IP adds to a packet: one IPv4 header (RFC 2003).
const EncapOverhead = 20

// RoutesOf returns the client's routes: every VIP via the balancer.
func RoutesOf(t topology.Topology) []Route {
	via := t.Nodes[t.LoadBalancer()].Address
	var routes []Route
	for _, vip := range t.VIPs() {
		routes = append(routes, Route{Destination: vip, Via: via, MTU: t.Switch.MTU - EncapOverhead})
	}
	slices.SortFunc(routes, func(a, b Route) int { return a.Destination.Compare(b.Destination) })
	return routes
}

func ports(p []uint16) string {
	if len(p) == 0 {
		return "-"
	}
	s := make([]string, len(p))
	for i, port := range p {
		s[i] = fmt.Sprint(port)
	}
	return strings.Join(s, ",")
}
