package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/service"
	"l4lab/strictyaml"
)

// The bounds of a config's numbers.
const (
	minLifetime = time.Second
	maxLifetime = 30 * 24 * time.Hour
	// maxConnections is 16 million, which is 4 GiB of tables.
	maxConnections = 1 << 24
	// maxEntries is of the other maps.
	maxEntries = 1 << 20
	// minNATPort keeps SNAT out of the privileged ports, whose replies firewalls suspect.
	minNATPort   = 1024
	maxEventRate = 1_000_000
)

// Validate returns everything that is wrong with a config but for what only the machine can tell: whether it
// has the interface and the addresses.
func Validate(c Config) []strictyaml.Fault {
	v := &validator{}
	if c.Interface == "" {
		v.fault("interface", "is missing: the network interface of the VIPs' packets")
	}
	v.addresses(c.Addresses)
	if c.Mode != "" {
		v.oneOf("mode", c.Mode, modes()...)
	}
	v.oneOf("vlan", c.VLAN, vlans()...)
	if c.Profile != "" {
		v.oneOf("profile", c.Profile, profiles()...)
	}
	v.group(c.Socket.Group)
	v.sizes(c.Sizes)
	v.lifetimes(c.Lifetimes)
	v.nat(c.NAT)
	v.metrics(c.Metrics)
	v.oneOf("log.level", c.Log.Level, levels()...)
	v.oneOf("log.format", c.Log.Format, formats()...)
	if c.Events.Rate < 1 || c.Events.Rate > maxEventRate {
		v.fault("events.rate", "is %d; wanted is 1 to %d", c.Events.Rate, maxEventRate)
	}
	if d := time.Duration(c.Drain.Deadline); d != 0 && (d < minLifetime || d > maxLifetime) {
		v.fault("drain.deadline", "is %s; wanted is 0s for none, or %s to %s", d, minLifetime, maxLifetime)
	}
	on := service.Balancer{
		Mode:   c.DefaultMode(),
		Limits: datapath.Limits{Services: c.Sizes.Services, Backends: c.Sizes.Backends, Sources: c.Sizes.Sources},
	}
	on.Own4, on.Own6 = c.own()
	v.services(service.Check(c.Services, on))
	return v.faults
}

// On checks the services against a balancer with these addresses, and no others.
func (f *File) On(own4, own6 netip.Addr) error {
	v := &validator{}
	v.services(service.Check(f.Services, service.Balancer{Mode: f.DefaultMode(), Own4: own4, Own6: own6, Known: true}))
	f.reading.Add(v.faults...)
	return f.reading.Err()
}

// own are the addresses that the config names.
func (c Config) own() (four, six netip.Addr) {
	for _, a := range c.Addresses {
		if a.Is4() {
			four = a
		} else {
			six = a
		}
	}
	return four, six
}

type validator struct{ faults []strictyaml.Fault }

func (v *validator) fault(path, format string, args ...any) {
	v.faults = append(v.faults, strictyaml.Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) oneOf(path, value string, known ...string) {
	if !slices.Contains(known, value) {
		v.fault(path, "unknown value %s%s; known are %s", strictyaml.Shorten(value), strictyaml.Suggestion(value, known), strings.Join(known, ", "))
	}
}

func (v *validator) addresses(all []netip.Addr) {
	first := map[bool]int{}
	for i, a := range all {
		path := fmt.Sprintf("addresses[%d]", i)
		switch before, twice := first[a.Is4()]; {
		case a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
			v.fault(path, "%s can be no balancer's own address", a)
		case twice:
			v.fault(path, "%s and addresses[%d] are of one family: the balancer uses one address of each", a, before)
		default:
			first[a.Is4()] = i
		}
	}
}

func (v *validator) group(name string) {
	if _, err := strconv.Atoi(name); err == nil && strings.HasPrefix(name, "-") || strings.ContainsAny(name, ": \t\n") {
		v.fault("socket.group", "%s is no group's name or number", strictyaml.Shorten(name))
	}
}

func (v *validator) sizes(s Sizes) {
	for _, size := range []struct {
		path  string
		n     uint32
		limit uint32
	}{
		{"sizes.connections", s.Connections, maxConnections},
		{"sizes.services", s.Services, maxEntries},
		{"sizes.backends", s.Backends, maxEntries},
		{"sizes.sources", s.Sources, maxEntries},
	} {
		if size.n > size.limit {
			v.fault(size.path, "is %d; wanted is 1 to %d, or 0 for what the maps have", size.n, size.limit)
		}
	}
}

func (v *validator) lifetimes(l Lifetimes) {
	for _, life := range []struct {
		path string
		d    api.Duration
	}{
		{"lifetimes.tcpEstablished", l.TCPEstablished},
		{"lifetimes.tcpSyn", l.TCPSYN},
		{"lifetimes.tcpClosing", l.TCPClosing},
		{"lifetimes.nonTcp", l.NonTCP},
		{"lifetimes.fragment", l.Fragment},
	} {
		if d := time.Duration(life.d); d < minLifetime || d > maxLifetime {
			v.fault(life.path, "is %s; wanted is %s to %s", d, minLifetime, maxLifetime)
		}
	}
}

func (v *validator) nat(n NAT) {
	switch {
	case n.MinPort < minNATPort:
		v.fault("nat.minPort", "is %d; wanted is %d to 65535", n.MinPort, minNATPort)
	case n.MaxPort < n.MinPort:
		v.fault("nat.maxPort", "is %d, and minPort %d: the pool is empty", n.MaxPort, n.MinPort)
	}
}

func (v *validator) metrics(m Metrics) {
	switch {
	case !m.Listen.IsValid():
		if m.Public {
			v.fault("metrics.public", "is for a listener: metrics.listen is missing")
		}
	case m.Listen.Port() == 0:
		v.fault("metrics.listen", "%s: port 0 is any; wanted is 1 to 65535", m.Listen)
	case !m.Listen.Addr().IsLoopback() && !m.Public:
		v.fault("metrics.listen", "%s is not a loopback address: other machines would reach the metrics, which have no access control; say so with metrics.public: true", m.Listen)
	}
}

func (v *validator) services(faults []*api.Error) {
	for _, f := range faults {
		v.fault(f.Field, "%s", f.Message)
	}
}
