package topology

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is one difference between two topologies. Old is "" for what is new,
// New is "" for what is gone.
type Change struct {
	// Path is as in a Fault, but services go by their id, which outlives their
	// place in the list: services[id=1].mode.
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// String is PATH: OLD -> NEW, or says that it is new or gone.
func (c Change) String() string {
	switch {
	case c.Old == "":
		return fmt.Sprintf("%s: new: %s", c.Path, c.New)
	case c.New == "":
		return fmt.Sprintf("%s: gone: %s", c.Path, c.Old)
	}
	return fmt.Sprintf("%s: %s -> %s", c.Path, c.Old, c.New)
}

// Diff returns what must change to get from one topology to another, in the
// order of the file: nothing when they describe the same lab. The order of
// services and of their backends does not count: it means nothing to a lab.
func Diff(old, new Topology) []Change {
	var d differ
	d.compare("name", old.Name, new.Name)
	d.compare("switch.type", old.Switch.Type, new.Switch.Type)
	d.compare("switch.subnet", old.Switch.Subnet.String(), new.Switch.Subnet.String())
	d.compare("switch.mtu", strconv.Itoa(old.Switch.MTU), strconv.Itoa(new.Switch.MTU))
	d.compare("client.name", old.Client.Name, new.Client.Name)
	d.compare("client.address", old.Client.Address.String(), new.Client.Address.String())
	d.nodes(old, new)
	d.services(old, new)
	d.providers(old.Providers, new.Providers)
	return d
}

type differ []Change

func (d *differ) compare(path, old, new string) {
	if old != new {
		*d = append(*d, Change{path, old, new})
	}
}

func (d *differ) nodes(old, new Topology) {
	names := new.NodeNames()
	for _, name := range old.NodeNames() {
		if _, kept := new.Nodes[name]; !kept {
			names = append(names, name)
		}
	}
	for _, name := range names {
		path := "nodes." + name
		before, was := old.Nodes[name]
		after, is := new.Nodes[name]
		switch {
		case !was:
			d.compare(path, "", after.describe())
		case !is:
			d.compare(path, before.describe(), "")
		default:
			d.compare(path+".role", string(before.Role), string(after.Role))
			d.compare(path+".os", string(before.OS), string(after.OS))
			d.compare(path+".address", before.Address.String(), after.Address.String())
		}
	}
}

func (d *differ) services(old, new Topology) {
	before, after := servicesByID(old), servicesByID(new)
	ids := slices.Sorted(maps.Keys(after))
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if _, kept := after[id]; !kept {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		path := fmt.Sprintf("services[id=%d]", id)
		b, was := before[id]
		a, is := after[id]
		switch {
		case !was:
			d.compare(path, "", a.describe())
		case !is:
			d.compare(path, b.describe(), "")
		default:
			d.compare(path+".vip", b.VIP.String(), a.VIP.String())
			d.compare(path+".port", fmt.Sprint(b.Port), fmt.Sprint(a.Port))
			d.compare(path+".protocol", string(b.Protocol), string(a.Protocol))
			d.compare(path+".mode", string(b.Mode), string(a.Mode))
			d.compare(path+".tableSize", fmt.Sprint(b.slots()), fmt.Sprint(a.slots()))
			d.compare(path+".backends", b.backendList(), a.backendList())
		}
	}
}

func servicesByID(t Topology) map[uint32]Service {
	byID := make(map[uint32]Service, len(t.Services))
	for _, s := range t.Services {
		byID[s.ID] = s
	}
	return byID
}

func (n Node) describe() string { return fmt.Sprintf("%s, %s, %s", n.Role, n.OS, n.Address) }

func (s Service) describe() string {
	return fmt.Sprintf("%s/%s, %s, %s", s.Frontend(), s.Protocol, s.Mode, s.backendList())
}

func (s Service) backendList() string {
	names := slices.Clone(s.Backends)
	slices.SortFunc(names, CompareNatural)
	return "[" + strings.Join(names, ", ") + "]"
}

// slots is TableSize with its default.
func (s Service) slots() uint32 {
	if s.TableSize == 0 {
		return DefaultTableSize
	}
	return s.TableSize
}
