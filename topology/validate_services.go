package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
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
			v.fault(path+".protocol", "unknown protocol %s; allowed are %s, %s", shorten(string(s.Protocol)), TCP, UDP)
		}
		if s.Mode != DSR && s.Mode != SNAT {
			v.fault(path+".mode", "unknown mode %s; allowed are %s, %s", shorten(string(s.Mode)), DSR, SNAT)
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
			v.fault(at, "%s is named twice: it is backends[%d] already", shorten(name), before)
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
			v.fault(at, "unknown node %s%s", shorten(name), suggestion(name, slices.Sorted(maps.Keys(v.t.Nodes))))
		}
	}
}

// suggestion is `, did you mean "x"?` when a candidate is close to what was
// written, else "".
func suggestion(written string, candidates []string) string {
	// Long names are no typing errors, and every candidate costs.
	const longest, most = 30, 1000
	if len(written) > longest || len(candidates) > most {
		return ""
	}
	best, distance := "", 1+max(1, len(written)/3)
	for _, c := range candidates {
		if len(c) > longest {
			continue
		}
		if d := editDistance(written, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance is Levenshtein's: insertions, deletions and replacements of bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
