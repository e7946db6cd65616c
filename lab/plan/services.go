package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"l4lab/agent/api"
	"l4lab/topology"
)

// What the agent takes for encapsulation and selection when it is told none. A lab's services
// say them, for an agent keeps what a service has where it is told none.
const (
	usualEncap     = "ipip"
	usualSelection = "maglev"
)

// ServiceOf returns what the agent is to be told of a service.
func ServiceOf(t topology.Topology, s topology.Service) api.Service {
	a := api.Service{
		ID: s.ID, Frontend: s.Frontend(), Protocol: string(s.Protocol), Mode: string(s.Mode),
		Encap: usualEncap, Selection: usualSelection, TableSize: s.TableSize,
	}
	if a.TableSize == 0 {
		a.TableSize = topology.DefaultTableSize
	}
	for _, b := range s.Backends {
		a.Backends = append(a.Backends, api.Backend{Address: netip.AddrPortFrom(t.Nodes[b].Address, s.Port)})
	}
	return a
}

func (b *builder) services() {
	lb := b.Topology.LoadBalancer()
	found := map[uint32]api.Service{}
	for _, s := range b.Services {
		found[s.ID] = s
	}
	// Two services never have one frontend: who has one that another is to have
	// gives it up first, and comes back with its own.
	holder := map[string]uint32{}
	for _, s := range b.Services {
		holder[frontend(s)] = s.ID
	}
	released := map[uint32]string{}
	for _, s := range b.Topology.Services {
		want := ServiceOf(b.Topology, s)
		if id, held := holder[frontend(want)]; held && id != s.ID {
			released[id] = fmt.Sprintf("its frontend goes to service %d", s.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		s := Step{ID: releaseID(id), Kind: Service, Machine: lb, Service: id, Action: Remove, Reason: released[id], Needs: []string{"agent/" + lb}}
		if !b.hasService(id) {
			s.ID, s.Reason = serviceID(id), "not in the topology"
		}
		if s.Reason != "" {
			b.add(s)
		}
	}
	forgotten := b.forgotten(found)
	for _, s := range b.Topology.Services {
		step := b.service(s, found, holder, released)
		step.Needs = append(step.Needs, forgotten...) // they may have its frontend
		b.add(step)
	}
}

// forgotten adds the removals of services that are remembered alone, and returns their IDs.
func (b *builder) forgotten(found map[uint32]api.Service) (ids []string) {
	lb := b.Topology.LoadBalancer()
	for _, id := range b.Remembered {
		if _, known := found[id]; known || b.hasService(id) {
			continue
		}
		s := Step{ID: serviceID(id), Kind: Service, Machine: lb, Service: id, Action: Remove, Reason: "not in the topology", Needs: []string{"agent/" + lb}}
		b.add(s)
		ids = append(ids, s.ID)
	}
	return ids
}

// service returns the step of one service of the topology.
func (b *builder) service(s topology.Service, found map[uint32]api.Service, holder map[string]uint32, released map[uint32]string) Step {
	lb := b.Topology.LoadBalancer()
	want := ServiceOf(b.Topology, s)
	step := Step{ID: serviceID(s.ID), Kind: Service, Machine: lb, Service: s.ID, Action: Keep, Reason: "as wanted", Needs: b.needsOf(s)}
	if id, held := holder[frontend(want)]; held && id != s.ID {
		if b.hasService(id) {
			step.Needs = append(step.Needs, releaseID(id))
		} else {
			step.Needs = append(step.Needs, serviceID(id))
		}
	}
	have, ok := found[s.ID]
	switch {
	case released[s.ID] != "":
		step.Action, step.Reason = Create, describe(want)
		step.Needs = append(step.Needs, releaseID(s.ID))
	case !ok:
		step.Action, step.Reason = Create, describe(want)
	case Difference(have, want) != "":
		step.Action, step.Reason = Change, Difference(have, want)
	case b.touched[lb]:
		// Its agent may have to begin anew, and know of no service.
		step.Action, step.Reason = Change, "its machine changes"
	}
	return step
}

// frontend is what only one service can have.
func frontend(s api.Service) string { return s.Frontend.String() + "/" + s.Protocol }

func (b *builder) hasService(id uint32) bool {
	return slices.ContainsFunc(b.Topology.Services, func(s topology.Service) bool { return s.ID == id })
}

// releaseID is the step in which a service that stays gives its frontend up.
func releaseID(id uint32) string { return serviceID(id) + "/release" }

func serviceID(id uint32) string { return fmt.Sprintf("service/%d", id) }

// ServicesAmong returns the numbers of the services that steps of some IDs are about, in order.
func ServicesAmong(ids []string) (services []uint32) {
	for _, id := range ids {
		number, is := strings.CutPrefix(strings.TrimSuffix(id, "/release"), "service/")
		if n, err := strconv.ParseUint(number, 10, 32); is && err == nil {
			services = append(services, uint32(n))
		}
	}
	slices.Sort(services)
	return slices.Compact(services)
}

// needsOf says what must stand before a service may send traffic to it.
func (b *builder) needsOf(s topology.Service) []string {
	needs := []string{"agent/" + b.Topology.LoadBalancer()}
	for _, name := range s.Backends {
		needs = append(needs, "vip/"+name, "decap/"+name, "page/"+name)
	}
	return needs
}

// unusedVIPs takes VIPs off backends that no service uses any more. Until the
// services are changed, packets for them still arrive.
func (b *builder) unusedVIPs() {
	var changed []string
	for _, s := range b.steps {
		if s.Kind == Service {
			changed = append(changed, s.ID)
		}
	}
	for _, s := range b.unused {
		s.Needs = append(s.Needs, changed...)
		b.add(s)
	}
}

func describe(s api.Service) string {
	return fmt.Sprintf("%s/%s %s, backends %s", s.Frontend, s.Protocol, s.Mode, join(s.Backends))
}

// Difference says how a service that the agent has differs from the wanted one, "" when it does not.
func Difference(have, want api.Service) string {
	var parts []string
	for _, d := range []struct{ name, have, want string }{
		{"frontend", have.Frontend.String(), want.Frontend.String()},
		{"protocol", have.Protocol, want.Protocol},
		{"mode", have.Mode, want.Mode},
		{"encapsulation", cmp.Or(have.Encap, usualEncap), cmp.Or(want.Encap, usualEncap)},
		{"outer source", have.OuterSource, want.OuterSource},
		{"selection", cmp.Or(have.Selection, usualSelection), cmp.Or(want.Selection, usualSelection)},
		{"affinity", have.Affinity.String(), want.Affinity.String()},
		{"sources", join(have.Sources), join(want.Sources)},
		{"MSS", fmt.Sprint(have.MSS), fmt.Sprint(want.MSS)},
		{"health check", checkOf(have), checkOf(want)},
		{"table size", fmt.Sprint(have.TableSize), fmt.Sprint(want.TableSize)},
		{"backends", join(have.Backends), join(want.Backends)},
	} {
		if d.have != d.want {
			parts = append(parts, fmt.Sprintf("%s %s -> %s", d.name, cmp.Or(d.have, "none"), cmp.Or(d.want, "none")))
		}
	}
	return strings.Join(parts, "; ")
}

func checkOf(s api.Service) string {
	if s.HealthCheck == nil {
		return ""
	}
	return fmt.Sprintf("%+v", *s.HealthCheck)
}
