package topology

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"l4lab/strictyaml"
)

// Limits on what a topology may say.
const (
	// MaxNameLength holds for labs and machines. Both together name a machine
	// on the host (l4lb-be1), and stand in the paths of unix sockets, of which
	// the kernel takes 107 bytes. 15 is also what a network interface's name
	// may have on Linux (IFNAMSIZ less the NUL): switch ports bear the
	// machines' names.
	MaxNameLength = 15
	// MinMTU is what every IPv4 host must accept (RFC 791); MaxMTU is a jumbo
	// frame's. A provider may have a lower limit and checks it itself.
	MinMTU = 576
	MaxMTU = 9000
	// MinPrefix and MaxPrefix bound the subnet: from a class A network to the
	// smallest that holds a balancer, a backend and a client with room to edit.
	MinPrefix = 8
	MaxPrefix = 29
	// MaxServiceID is what fits a signed 32-bit number.
	MaxServiceID = 1<<31 - 1
)

// TableSizes returns the numbers of slots that a Maglev table may have: primes
// near powers of two, the ones that Cilium takes.
func TableSizes() []uint32 {
	return []uint32{251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071}
}

// reservedNames would collide with what stands beside the nodes: the switch's
// namespace, its bridge, the loopback interface; and no network interface can
// bear the last two, which stand for all of them under /proc/sys/net.
func reservedNames() []string { return []string{"switch", "br0", "lo", "all", "default"} }

// Validate returns everything that is wrong with a topology, nil when nothing
// is. The faults have paths but no file and lines: Parse adds those.
func Validate(t Topology) Faults { return validate(t, t.NodeNames()) }

// validate takes the nodes in an order: of two that collide the later one is
// at fault.
func validate(t Topology, names []string) Faults {
	v := validator{t: t, names: names, owner: map[netip.Addr]string{}}
	v.lab()
	v.machines()
	v.services()
	v.hyperv()
	v.qemu()
	return v.faults
}

// validator collects faults.
type validator struct {
	t      Topology
	names  []string
	faults Faults
	// owner maps each address to the path of the machine that has it.
	owner map[netip.Addr]string
}

func (v *validator) fault(path, format string, args ...any) {
	v.faults = append(v.faults, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

// lab judges the name and the switch.
func (v *validator) lab() {
	if problem := nameProblem(v.t.Name); problem != "" {
		v.fault("name", "%s", problem)
	} else if strings.Contains(v.t.Name, "-") {
		v.fault("name", "%q has a hyphen: a lab's name has none, since the hyphen in LAB-NODE separates the two", v.t.Name)
	}
	if v.t.Switch.Type != DefaultSwitchType {
		v.fault("switch.type", "unknown type %s; allowed is internal", strictyaml.Shorten(v.t.Switch.Type))
	}
	if v.t.Switch.MTU < MinMTU || v.t.Switch.MTU > MaxMTU {
		v.fault("switch.mtu", "%d is not between %d and %d", v.t.Switch.MTU, MinMTU, MaxMTU)
	}
	if problem := subnetProblem(v.t.Switch.Subnet); problem != "" {
		v.fault("switch.subnet", "%s", problem)
	}
}

// machines judges the client and the nodes.
func (v *validator) machines() {
	if problem := machineNameProblem(v.t.Client.Name); problem != "" {
		v.fault("client.name", "%s", problem)
	} else if _, taken := v.t.Nodes[v.t.Client.Name]; taken {
		v.fault("client.name", "%q is a node's name, too: every machine has a name of its own", v.t.Client.Name)
	}
	v.address("client", v.t.Client.Address)

	balancers, backends, unknown := []string{}, 0, 0
	for _, name := range v.names {
		node, path := v.t.Nodes[name], "nodes."+name
		if problem := machineNameProblem(name); problem != "" {
			v.fault(path, "%s", problem)
		}
		switch node.Role {
		case RoleLoadBalancer:
			balancers = append(balancers, name)
		case RoleBackend:
			backends++
		case RoleClient:
			unknown++
			v.fault(path+".role", "the client is not among the nodes: it stands under `client`")
		case "":
			unknown++
			v.fault(path+".role", "is missing; allowed are %s, %s", RoleLoadBalancer, RoleBackend)
		default:
			unknown++
			v.fault(path+".role", "unknown role %s; allowed are %s, %s", strictyaml.Shorten(string(node.Role)), RoleLoadBalancer, RoleBackend)
		}
		if node.OS != Linux && node.OS != Windows {
			v.fault(path+".os", "unknown os %s; allowed are %s, %s", strictyaml.Shorten(string(node.OS)), Linux, Windows)
		}
		v.address(path, node.Address)
	}

	if len(v.t.Nodes) == 0 {
		v.fault("nodes", "there are none: a lab has one load balancer and at least one backend")
		return
	}
	for _, extra := range balancers[min(1, len(balancers)):] {
		v.fault("nodes."+extra+".role", "a second load balancer: %s is one already, and a lab has exactly one", balancers[0])
	}
	if len(balancers) == 0 && unknown == 0 {
		v.fault("nodes", "no node has the role %s: a lab has exactly one", RoleLoadBalancer)
	}
	if backends == 0 && unknown == 0 {
		v.fault("nodes", "no node has the role %s: a lab has at least one", RoleBackend)
	}
}

// address judges the address of the machine at a path.
func (v *validator) address(machine string, a netip.Addr) {
	path, subnet := machine+".address", v.t.Switch.Subnet
	if !a.IsValid() {
		v.fault(path, "is missing")
		return
	}
	if !a.Is4() {
		v.fault(path, "%s is not IPv4", a)
		return
	}
	if other, taken := v.owner[a]; taken {
		v.fault(path, "%s is the address of %s already", a, other)
	} else {
		v.owner[a] = machine
	}
	if subnetProblem(subnet) != "" {
		return // reported there; nothing to compare with
	}
	switch {
	case !subnet.Contains(a):
		v.fault(path, "%s is not in the subnet %s", a, subnet)
	case a == subnet.Addr():
		v.fault(path, "%s is the network address of %s: no machine can have it", a, subnet)
	case a == broadcast(subnet):
		v.fault(path, "%s is the broadcast address of %s: no machine can have it", a, subnet)
	}
}

// IsName says whether s can name a lab or a machine.
func IsName(s string) bool { return nameProblem(s) == "" }

// nameProblem says why s is no DNS label (RFC 1123, in lower case) of at most
// MaxNameLength characters; "" when it is one.
func nameProblem(s string) string {
	if s == "" {
		return "is empty: a name has 1 to 15 characters"
	}
	if len(s) > MaxNameLength {
		return fmt.Sprintf("%s has more than %d characters", strictyaml.Shorten(s), MaxNameLength)
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		inner := r == '-' && i > 0 && i < len(s)-1
		if !letter && !inner {
			return fmt.Sprintf("%q is no DNS label: a name has lower-case letters a-z, digits, and hyphens neither first nor last", s)
		}
	}
	return ""
}

// machineNameProblem is nameProblem for nodes and the client.
func machineNameProblem(s string) string {
	if slices.Contains(reservedNames(), s) {
		return fmt.Sprintf("%q is reserved: %s cannot name machines", s, strings.Join(reservedNames(), ", "))
	}
	return nameProblem(s)
}

// subnetProblem says why p cannot be a lab's subnet; "" when it can.
func subnetProblem(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "is missing: for instance 20.1.1.0/24"
	case !p.Addr().Is4():
		return fmt.Sprintf("%s is not IPv4", p)
	case p.Bits() < MinPrefix || p.Bits() > MaxPrefix:
		return fmt.Sprintf("%s: the prefix length is not between %d and %d", p, MinPrefix, MaxPrefix)
	case p != p.Masked():
		return fmt.Sprintf("%s has host bits: the subnet is %s", p, p.Masked())
	}
	if problem := unicastProblem(p.Addr()); problem != "" {
		return fmt.Sprintf("%s is %s", p, problem)
	}
	return ""
}

// unicastProblem says why no machine can be reached at a; "" when one can.
func unicastProblem(a netip.Addr) string {
	switch {
	case a.IsMulticast():
		return "multicast"
	case a.IsLoopback():
		return "loopback"
	case a.As4()[0] == 0:
		return "in 0.0.0.0/8, which stands for no host (RFC 1122)"
	case a.As4() == [4]byte{255, 255, 255, 255}:
		return "the limited broadcast address"
	case a.As4()[0] >= 240:
		return "in 240.0.0.0/4, which is reserved (RFC 1112)"
	}
	return ""
}

// broadcast returns the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	first := p.Masked().Addr().As4()
	last := binary.BigEndian.Uint32(first[:]) | (1<<(32-p.Bits()) - 1)
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], last)
	return netip.AddrFrom4(b)
}
