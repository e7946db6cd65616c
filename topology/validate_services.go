package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"l4lab/strictyaml"
)

// listener is what must be unique among services.
type listener struct {
	frontend netip.AddrPort
	protocol Protocol
}

// services judges the services, each against those before it.
func (v *validator) services() {
	if len(v.t.Services) == 0 {
		v.fault("services", "there are none: a lab has at least one")
	}
	ids, listeners := map[uint32]int{}, map[listener]int{}
	for i, s := range v.t.Services {
		path := fmt.Sprintf("services[%d]", i)

		if s.ID == 0 || s.ID > MaxServiceID {
			v.fault(path+".id", "%d is not between 1 and %d", s.ID, MaxServiceID)
		} else if before, twice := ids[s.ID]; twice {
			v.fault(path+".id", "%d is the id of services[%d] already", s.ID, before)
		} else {
			ids[s.ID] = i
		}

		if problem := v.vipProblem(s.VIP); problem != "" {
			v.fault(path+".vip", "%s", problem)
		} else if before, twice := listeners[listener{s.Frontend(), s.Protocol}]; twice {
			v.fault(path, "%s/%s is announced by services[%d] already", s.Frontend(), s.Protocol, before)
		} else {
			listeners[listener{s.Frontend(), s.Protocol}] = i
		}

		if s.Port == 0 {
			v.fault(path+".port", "is not between 1 and 65535")
		}
		if s.Protocol != TCP && s.Protocol != UDP {
			v.fault(path+".protocol", "unknown protocol %s; allowed are %s, %s", strictyaml.Shorten(string(s.Protocol)), TCP, UDP)
		}
		if s.Mode != DSR && s.Mode != SNAT {
			v.fault(path+".mode", "unknown mode %s; allowed are %s, %s", strictyaml.Shorten(string(s.Mode)), DSR, SNAT)
		}
		v.tableSize(path+".tableSize", s)
		v.backends(path+".backends", s.Backends)
	}
}

// vipProblem says why no service can be announced at an address; "" when one can.
func (v *validator) vipProblem(vip netip.Addr) string {
	if !vip.IsValid() {
		return "is missing: for instance 40.1.1.1"
	}
	if !vip.Is4() {
		return fmt.Sprintf("%s is not IPv4", vip)
	}
	if problem := unicastProblem(vip); problem != "" {
		return fmt.Sprintf("%s is %s", vip, problem)
	}
	if machine, taken := v.owner[vip]; taken {
		return fmt.Sprintf("%s is the address of %s: a VIP belongs to no machine, each backend answers in its name", vip, machine)
	}
	if v.t.Switch.Subnet.IsValid() && v.t.Switch.Subnet.Contains(vip) {
		return fmt.Sprintf("%s is in the switch's subnet %s: the client would look for it with ARP instead of sending to the load balancer; take an address outside",
			vip, v.t.Switch.Subnet)
	}
	return ""
}

func (v *validator) tableSize(path string, s Service) {
	size := s.TableSize
	if size == 0 {
		size = DefaultTableSize
	}
	if !slices.Contains(TableSizes(), size) {
		v.fault(path, "%d is no size of a Maglev table; allowed are %v", size, TableSizes())
		return
	}
	if len(s.Backends) >= int(size) {
		v.fault(path, "%d slots are too few for %d backends: the table needs more slots than backends", size, len(s.Backends))
	}
}

// backends judges the names behind a service.
func (v *validator) backends(path string, names []string) {
	if len(names) == 0 {
		v.fault(path, "there are none: a service has at least one backend")
	}
	first := map[string]int{}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		if before, twice := first[name]; twice {
			v.fault(at, "%s is named twice: it is backends[%d] already", strictyaml.Shorten(name), before)
			continue
		}
		first[name] = i
		node, known := v.t.Nodes[name]
		switch {
		case known && node.Role == RoleLoadBalancer:
			v.fault(at, "%q is the load balancer, not a backend", name)
		case !known && name == v.t.Client.Name:
			v.fault(at, "%q is the client, not a backend", name)
		case !known:
			v.fault(at, "unknown node %s%s", strictyaml.Shorten(name), strictyaml.Suggestion(name, slices.Sorted(maps.Keys(v.t.Nodes))))
		}
	}
}
