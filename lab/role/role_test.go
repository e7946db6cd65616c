package role_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"l4lab/lab/role"
	"l4lab/topology"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func service(id uint32, vip string, port uint16, p topology.Protocol, backends ...string) topology.Service {
	return topology.Service{ID: id, VIP: addr(vip), Port: port, Protocol: p, Mode: topology.DSR, Backends: backends}
}

// withServices is the demo with other services.
func withServices(services ...topology.Service) topology.Topology {
	t := topology.Default()
	t.Services = services
	return t
}

func TestHookOf(t *testing.T) {
	for os, want := range map[topology.OS]role.Hook{topology.Windows: role.XDP, topology.Linux: role.TC} {
		if got := role.HookOf(os); got != want {
			t.Errorf("HookOf(%s) = %s, want %s", os, got, want)
		}
	}
}

func TestPageOf(t *testing.T) {
	cases := []struct {
		name     string
		services []topology.Service
		tcp, udp []uint16
		spec     string
	}{
		{
			name:     "the demo's page is on port 80",
			services: []topology.Service{service(1, "40.1.1.1", 80, topology.TCP, "be1", "be3")},
			tcp:      []uint16{80},
			spec:     "be3 linux 20.1.1.30 tcp 80 udp - program ",
		},
		{
			name:     "a backend behind no service still has a page",
			services: []topology.Service{service(1, "40.1.1.1", 443, topology.TCP, "be1")},
			tcp:      []uint16{80},
			spec:     "be3 linux 20.1.1.30 tcp 80 udp - program ",
		},
		{
			name: "ports of several services are served in order and each once",
			services: []topology.Service{
				service(1, "40.1.1.1", 8080, topology.TCP, "be3"), service(2, "40.1.1.2", 80, topology.TCP, "be3", "be4"),
				service(3, "40.1.1.3", 8080, topology.TCP, "be3"), service(4, "40.1.1.1", 9000, topology.TCP, "be4"),
			},
			tcp:  []uint16{80, 8080},
			spec: "be3 linux 20.1.1.30 tcp 80,8080 udp - program ",
		},
		{
			name:     "a service of UDP alone needs no TCP port",
			services: []topology.Service{service(1, "40.1.1.1", 53, topology.UDP, "be3")},
			udp:      []uint16{53},
			spec:     "be3 linux 20.1.1.30 tcp - udp 53 program ",
		},
		{
			name: "one port may be both",
			services: []topology.Service{
				service(1, "40.1.1.1", 53, topology.UDP, "be3"), service(2, "40.1.1.1", 53, topology.TCP, "be3"),
			},
			tcp: []uint16{53}, udp: []uint16{53},
			spec: "be3 linux 20.1.1.30 tcp 53 udp 53 program ",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := role.PageOf(withServices(c.services...), "be3")
			want := role.Page{Name: "be3", OS: topology.Linux, Address: addr("20.1.1.30"), TCP: c.tcp, UDP: c.udp}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("PageOf = %+v, want %+v", got, want)
			}
			if got.Spec() != c.spec {
				t.Errorf("Spec() = %q, want %q", got.Spec(), c.spec)
			}
		})
	}
}

func TestVIPsOf(t *testing.T) {
	services := []topology.Service{
		service(1, "40.1.1.9", 80, topology.TCP, "be1", "be2"), service(2, "40.1.1.10", 80, topology.TCP, "be1"),
		service(3, "40.1.1.9", 443, topology.TCP, "be1"),
	}
	cases := []struct {
		name, backend string
		want          []netip.Addr
	}{
		{"each of its services' once, in order of number and not of text", "be1", addrs("40.1.1.9", "40.1.1.10")},
		{"its own services' only", "be2", addrs("40.1.1.9")},
		{"none when it stands behind no service", "be3", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := role.VIPsOf(withServices(services...), c.backend); !slices.Equal(got, c.want) {
				t.Errorf("VIPsOf = %v, want %v", got, c.want)
			}
		})
	}
}

func TestRoutesOf(t *testing.T) {
	cases := []struct {
		name     string
		mtu      int
		services []topology.Service
		want     []role.Route
	}{
		{
			name: "the VIP goes via the balancer, with room for the outer header",
			mtu:  1500, services: []topology.Service{service(1, "40.1.1.1", 80, topology.TCP, "be1")},
			want: []role.Route{{Destination: addr("40.1.1.1"), Via: addr("20.1.1.1"), MTU: 1480}},
		},
		{
			name: "each VIP once, in order",
			mtu:  3000, services: []topology.Service{
				service(1, "40.1.1.10", 80, topology.TCP, "be1"), service(2, "40.1.1.9", 80, topology.TCP, "be1"), service(3, "40.1.1.10", 53, topology.UDP, "be1"),
			},
			want: []role.Route{
				{Destination: addr("40.1.1.9"), Via: addr("20.1.1.1"), MTU: 2980}, {Destination: addr("40.1.1.10"), Via: addr("20.1.1.1"), MTU: 2980},
			},
		},
		{name: "no service, no route", mtu: 1500},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			top := withServices(c.services...)
			top.Switch.MTU = c.mtu
			if got := role.RoutesOf(top); !slices.Equal(got, c.want) {
				t.Errorf("RoutesOf = %v, want %v", got, c.want)
			}
		})
	}
}

// The plan compares these texts: what they leave out would never be noticed to
// have changed.
func TestSpecsDifferWhenAnyFieldDoes(t *testing.T) {
	agent := role.Agent{Address: addr("20.1.1.1"), Program: "/a", Hash: "0123456789abcdef"}
	decap := role.Decap{Hook: role.TC, Address: addr("20.1.1.30"), Balancer: addr("20.1.1.1"), Program: "/a", Hash: agent.Hash}
	page := role.Page{Name: "be3", OS: topology.Linux, Address: addr("20.1.1.30"), TCP: []uint16{80}, Program: "/a", Hash: agent.Hash}
	otherAgent := func(change func(*role.Agent)) string { a := agent; change(&a); return a.Spec() }
	otherDecap := func(change func(*role.Decap)) string { d := decap; change(&d); return d.Spec() }
	otherPage := func(change func(*role.Page)) string { p := page; change(&p); return p.Spec() }
	cases := []struct {
		name, spec, other string
		same              bool
	}{
		{name: "agent: address", spec: agent.Spec(), other: otherAgent(func(a *role.Agent) { a.Address = addr("20.1.1.2") })},
		{name: "agent: content of the program", spec: agent.Spec(), other: otherAgent(func(a *role.Agent) { a.Hash = "fedcba9876543210" })},
		{name: "agent: the program's place does not count", spec: agent.Spec(), other: otherAgent(func(a *role.Agent) { a.Program = "/b" }), same: true},
		{name: "decap: hook", spec: decap.Spec(), other: otherDecap(func(d *role.Decap) { d.Hook = role.XDP })},
		{name: "decap: address", spec: decap.Spec(), other: otherDecap(func(d *role.Decap) { d.Address = addr("20.1.1.31") })},
		{name: "decap: balancer", spec: decap.Spec(), other: otherDecap(func(d *role.Decap) { d.Balancer = addr("20.1.1.2") })},
		{name: "decap: content of the program", spec: decap.Spec(), other: otherDecap(func(d *role.Decap) { d.Hash = "fedcba9876543210" })},
		{name: "page: name", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.Name = "be4" })},
		{name: "page: operating system", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.OS = topology.Windows })},
		{name: "page: address", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.Address = addr("20.1.1.31") })},
		{name: "page: TCP ports", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.TCP = []uint16{80, 443} })},
		{name: "page: UDP ports", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.UDP = []uint16{80} })},
		{name: "page: TCP is not UDP", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.TCP, p.UDP = nil, []uint16{80} })},
		{name: "page: content of the program", spec: page.Spec(), other: otherPage(func(p *role.Page) { p.Hash = "fedcba9876543210" })},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if (c.spec == c.other) != c.same {
				t.Errorf("%q and %q: same %v, want %v", c.spec, c.other, c.spec == c.other, c.same)
			}
		})
	}
}
