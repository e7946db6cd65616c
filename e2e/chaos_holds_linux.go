package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"

	"l4lab/agent/api"
	"l4lab/e2e/chaos"
	"l4lab/lab"
	"l4lab/topology"
)

// impossible are the reasons for which the balancer drops nothing of what a walk sends.
var impossible = []string{
	"malformed_ip", "malformed_l4", "fragment", "ttl_expired", "nat_exhausted", "mtu_exceeded", "adjust_head",
	"conntrack_failed", "source_denied", "extension_header", "no_stage", "vlan",
}

func balancerAddress() netip.Addr { return topology.Default().Nodes["lb"].Address }

// holds waits until the agent, new connections and labctl's status are as the
// model says.
func (w *randomWalk) holds(m chaos.Model) {
	GinkgoHelper()
	w.until("the agent has the services", func() string { return w.agentDiffers(m) })
	r := &reach{w: w, reached: map[string]bool{}}
	w.until("all backends that are to are reached by new connections", func() string { return r.missing(m) })
	w.until("labctl status says so", func() string { return w.statusDiffers(m) })
}

// until waits until nothing is missing; what takes longer than holdLimit is an
// invariant broken.
func (w *randomWalk) until(what string, missing func() string) {
	GinkgoHelper()
	limit := time.Now().Add(holdLimit)
	for {
		rest := missing()
		switch {
		case rest == "":
			return
		case time.Now().After(limit):
			w.breaks("within %s, %s: %s", holdLimit, what, rest)
		}
		if !sleep(w.stopped, 20*time.Millisecond) {
			w.expectNothingBroken()
			return
		}
	}
}

// agentDiffers says how the agent's services differ from the model's.
func (w *randomWalk) agentDiffers(m chaos.Model) string {
	if !m.AgentUp {
		return ""
	}
	have, err := w.agent.Services(w.stopped)
	if err != nil {
		return err.Error()
	}
	found := map[uint32]api.Service{}
	for _, s := range have {
		found[s.ID] = s
	}
	for _, s := range m.Services {
		a, exists := found[s.ID]
		if exists != s.InLab {
			return fmt.Sprintf("service %d is there: %t", s.ID, exists)
		}
		if text := w.serviceDiffers(m, s, a); s.InLab && text != "" {
			return fmt.Sprintf("service %d: %s", s.ID, text)
		}
	}
	return ""
}

func (w *randomWalk) serviceDiffers(m chaos.Model, s chaos.Service, a api.Service) string {
	if a.Mode != s.Mode {
		return fmt.Sprintf("its mode is %s, wanted %s", a.Mode, s.Mode)
	}
	known := map[string]bool{}
	for _, member := range s.Members {
		address := w.address(member.Backend, s.ID)
		known[address] = true
		i := slices.IndexFunc(a.Backends, func(b api.Backend) bool { return b.Address.String() == address })
		if text := memberDiffers(member, m.Backend(member.Backend).Condition(), a.Backends, i); text != "" {
			return member.Backend + " " + text
		}
	}
	for _, b := range a.Backends {
		if !known[b.Address.String()] {
			return fmt.Sprintf("it has %s, which is not the model's", b.Address)
		}
	}
	return ""
}

// memberDiffers compares one backend, the i-th of the agent's; it has none below 0.
func memberDiffers(member chaos.Member, condition chaos.Condition, all []api.Backend, i int) string {
	if i < 0 {
		if member.State == chaos.Gone || member.State == chaos.Draining { // left by itself
			return ""
		}
		return "is missing"
	}
	b := all[i]
	state := chaos.State(b.State)
	if state == "" {
		state = chaos.Active
	}
	health := map[chaos.Condition]string{chaos.Well: "healthy", chaos.Dead: "quarantined"}[condition]
	switch {
	case state != member.State:
		return fmt.Sprintf("is %s, wanted %s", state, member.State)
	case int(b.Share()) != member.Share:
		return fmt.Sprintf("has weight %d, wanted %d", b.Share(), member.Share)
	case state != chaos.Maintenance && health != "" && b.Health != health: // in maintenance it is not asked
		return fmt.Sprintf("is %q, wanted %q", b.Health, health)
	}
	return ""
}

// reach opens connections until each backend that is to answer has done so. None
// waits for another: one that a dead backend was given to takes its time.
type reach struct {
	w       *randomWalk
	mu      sync.Mutex
	opening int
	reached map[string]bool
}

// maxOpening is how many of a reach's connections wait for an answer at a time.
const maxOpening = 100

// missing says who has not answered yet, and opens connections to the services that lack one.
func (r *reach) missing(m chaos.Model) (missing string) {
	for _, s := range m.Services {
		for _, name := range m.Must(s) {
			if key := reachKey(name, s.ID); !r.has(key) {
				missing = key
				r.open(s.ID)
			}
		}
	}
	return missing
}

func reachKey(backend string, id uint32) string { return fmt.Sprintf("%s of service %d", backend, id) }

func (r *reach) has(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reached[key]
}

func (r *reach) open(id uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opening >= maxOpening {
		return
	}
	r.opening++
	r.w.dialing.Go(func() {
		c := r.w.converse(id)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opening--
		if c != nil {
			r.reached[reachKey(c.backend, id)] = true
			c.close()
		}
	})
}

// statusDiffers says how labctl's status differs from the model.
func (w *randomWalk) statusDiffers(m chaos.Model) string {
	// Not by labctl, which writes down what it runs: a night's walk asks for it ten thousand times.
	ctx, cancel := context.WithTimeout(context.Background(), w.suite.config.commandLimit())
	defer cancel()
	r := run(w.suite.command(ctx, "status", "--name", w.t.Name, "-o", "json"))
	var st lab.Status
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil {
		return fmt.Sprintf("%v: %s", err, r)
	}
	healthy := map[string]bool{"lb": m.AgentUp, w.t.Client.Name: true}
	for _, b := range m.Backends {
		if b.InLab {
			healthy[b.Name] = b.Node && b.Web && (b.Fault == chaos.NoFault || b.Fault == chaos.Loss)
		}
	}
	for _, n := range st.Nodes {
		if want, known := healthy[n.Name]; !known || n.Healthy != want {
			return fmt.Sprintf("node %s is healthy: %t, wanted %t: %s", n.Name, n.Healthy, want, n.Health)
		}
		delete(healthy, n.Name)
	}
	if len(healthy) > 0 {
		return fmt.Sprintf("nodes are missing: %v", healthy)
	}
	return servicesDiffer(m, st.Services)
}

func servicesDiffer(m chaos.Model, have []lab.ServiceStatus) string {
	for _, s := range m.Services {
		i := slices.IndexFunc(have, func(h lab.ServiceStatus) bool { return h.ID == s.ID })
		switch {
		case (i >= 0) != s.InLab:
			return fmt.Sprintf("service %d is shown: %t", s.ID, i >= 0)
		case !s.InLab:
		case have[i].Mode != s.Mode:
			return fmt.Sprintf("service %d is shown with mode %s, wanted %s", s.ID, have[i].Mode, s.Mode)
		case !m.AgentUp && !strings.Contains(have[i].Health, "agent does not answer"):
			return fmt.Sprintf("service %d, without an agent: %s", s.ID, have[i].Health)
		// The topology knows nothing of checks, weights and draining.
		case m.AgentUp && !strings.Contains(have[i].Health, "not as wanted: health check"):
			return fmt.Sprintf("service %d: %s", s.ID, have[i].Health)
		case m.AgentUp && plain(m, s) && strings.Contains(have[i].Health, "backends"):
			return fmt.Sprintf("service %d: %s", s.ID, have[i].Health)
		case m.AgentUp && special(s) && !strings.Contains(have[i].Health, "backends"):
			return fmt.Sprintf("service %d: %s", s.ID, have[i].Health)
		}
	}
	return ""
}

// plain says that a service's backends are as the topology has them; special that they are not.
func plain(m chaos.Model, s chaos.Service) bool {
	return !special(s) && !slices.ContainsFunc(s.Members, func(b chaos.Member) bool {
		return m.Backend(b.Backend).Condition() != chaos.Well
	})
}

func special(s chaos.Service) bool {
	return slices.ContainsFunc(s.Members, func(b chaos.Member) bool { return b.State != chaos.Active || b.Share != 1 })
}

// watchCounters has the counters never go backwards, and no frame dropped for
// a reason that there cannot be.
func (w *randomWalk) watchCounters(ctx context.Context) {
	last := map[string]uint64{}
	drops := map[string]uint64{}
	for first := true; sleep(ctx, 2*askEvery); {
		counters, err := w.agent.Counters(ctx)
		if err != nil {
			continue // holds says when one must answer
		}
		for key, n := range flatten(counters) {
			if n < last[key] {
				w.breaks("a counter went back: %s, from %d to %d", key, last[key], n)
			}
			last[key] = n
		}
		for _, reason := range impossible {
			n, known := counters.Drops[reason]
			if !known {
				w.breaks("no counter of drops is named %s", reason)
			}
			if n > drops[reason] {
				if !first {
					w.breaks("%d packets more were dropped: %s", n-drops[reason], reason)
				}
				drops[reason] = n
			}
		}
		first = false
	}
}

func flatten(c api.Counters) map[string]uint64 {
	all := map[string]uint64{}
	note := func(of string, t api.Traffic) {
		all[of+" rx packets"], all[of+" rx bytes"] = t.RxPackets, t.RxBytes
		all[of+" tx packets"], all[of+" tx bytes"] = t.TxPackets, t.TxBytes
		all[of+" connections"] = t.Connections
	}
	for _, s := range c.Services {
		note(fmt.Sprintf("service %d", s.ID), s.Traffic)
		for _, b := range s.Backends {
			note(fmt.Sprintf("service %d backend %s", s.ID, b.Address), b.Traffic)
		}
	}
	for reason, n := range c.Drops {
		all["drops "+reason] = n
	}
	return all
}
