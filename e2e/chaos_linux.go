package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"l4lab/agent/api"
	"l4lab/e2e/chaos"
	"l4lab/e2e/oracle"
	"l4lab/lab/provider"
	"l4lab/lab/provider/fabric"
	"l4lab/topology"
)

const (
	// defaultChaos is how long a random walk takes when nobody says.
	defaultChaos = time.Minute
	// lastActions is how many of them a failure tells.
	lastActions = 12

	walkTable    = 1021 // slots of a service's Maglev table
	spareBackend = "be5"
	secondID     = 3 // a service of an address of its own, which comes and goes
)

// walkCheck finds a dead backend after at most fall * (interval + timeout), 2.4 s.
var walkCheck = api.HealthCheck{
	Type: "http", Path: "/whoami",
	Interval: api.Duration(400 * time.Millisecond), Timeout: api.Duration(400 * time.Millisecond), Rise: 2, Fall: 3,
}

// holdLimit bounds how long an action may take to hold: ten times what the checks need.
const holdLimit = 24 * time.Second

// randomWalk is one walk and all that it needs.
type randomWalk struct {
	*balanced
	seed   uint64
	length time.Duration
	client provider.Machine
	ports  *localPorts
	walk   *chaos.Walk
	line   *chaos.Timeline
	rounds rounds
	begin  time.Time
	// spoilt are the backends whose port has a program that loses frames.
	spoilt map[string]bool
	flows  int // that floods have used
	// dialing are the connections that nobody waits for until the end.
	dialing sync.WaitGroup

	mu      sync.Mutex
	log     []string
	seen    map[string]int
	broken  []string
	stopped context.Context
	stop    context.CancelFunc
}

// chaos is a random walk over what can befall a balancer, with clients all the while.
func (s *suite) chaos() {
	It("breaks nothing but what its actions account for", Label("churn", "faults", "slow", "needs-root"), func(ctx SpecContext) {
		s.needs(namespaces, processes)
		w := s.newRandomWalk(ctx)
		DeferCleanup(w.report)
		w.bringUp()
		w.goOn()
	})
}

func (s *suite) newRandomWalk(ctx context.Context) *randomWalk {
	w := &randomWalk{
		balanced: &balanced{suite: s}, seed: uint64(GinkgoRandomSeed()), length: s.config.Chaos,
		spoilt: map[string]bool{}, seen: map[string]int{},
	}
	if w.length == 0 {
		w.length = defaultChaos
	}
	w.stopped, w.stop = context.WithCancel(ctx)
	AddReportEntry("a random walk", w.command())
	return w
}

// command walks the same walk again.
func (w *randomWalk) command() string {
	return fmt.Sprintf("go test ./e2e -count=1 -timeout 0 -args -focus 'random walk' -chaos %s -seed %d", w.length, w.seed)
}

// first is the model of the lab that a walk begins with.
func (w *randomWalk) first() chaos.Model {
	return chaos.New(demo(w.name("chaos")).Backends(), []string{spareBackend},
		[]chaos.Service{{ID: directID, Mode: "dsr"}, {ID: translatedID, Mode: "snat"}}, []chaos.Service{{ID: secondID, Mode: "dsr"}})
}

// bringUp has the lab up with two services, and its model.
func (w *randomWalk) bringUp() {
	GinkgoHelper()
	model := w.first()
	w.walk = chaos.NewWalk(w.seed, model)
	w.t = w.topologyOf(model)
	w.up(w.t)
	w.l = w.open(w.t.Name)
	var err error
	w.agent, err = w.l.Agent()
	Expect(err).NotTo(HaveOccurred())
	w.client = w.machine("client")
	w.ports = newLocalPorts(w.t.Client.Address)
	w.letOrphansGo()
	w.begin = time.Now()
	w.line = chaos.NewTimeline(chaos.Settled(model), chooseByMaglev)
	w.check(model)
	w.holds(model)
}

// letOrphansGo has the kernels of both ends give a connection up soon that was closed
// while the other end was dead. They would send its end again for minutes, into the
// proof that ends the walk.
func (w *randomWalk) letOrphansGo() {
	GinkgoHelper()
	for _, machine := range append(w.t.Backends(), w.t.Client.Name) {
		_, err := in(w.t.Name+"-"+machine, func() (struct{}, error) {
			return struct{}{}, fabric.Setting{Path: "ipv4/tcp_orphan_retries", Value: "1"}.Write()
		})
		Expect(err).NotTo(HaveOccurred())
	}
}

// goOn walks until its time is over, and sees to it that the lab is then as it was.
func (w *randomWalk) goOn() {
	GinkgoHelper()
	end := w.startLoads()
	DeferCleanup(end)
	w.watchAWhile()
	steps := 0
	for time.Since(w.begin) < w.length && w.stopped.Err() == nil {
		w.step()
		steps++
	}
	w.note("%d actions; what clients saw: %v", steps, w.counted())
	w.restoreAll()
	end()
	w.expectNothingBroken()
	w.letOrphansGo() // of machines that were made since, too
	w.endEverything()
	Expect(w.labctl("up", "--name", w.t.Name)).To(Succeeds())
	w.expectHealthy(w.t.Name)
	Eventually(w.unfinished).WithTimeout(time.Minute).WithPolling(200*time.Millisecond).Should(BeEmpty(),
		"connections of the walk's, which a kernel still ends, would appear in the proof")
	for _, mode := range []string{"dsr", "snat"} { // one at a time: a busy machine needs a minute for each
		proof := w.proof("test", "--mode", mode, "--name", w.t.Name)
		if !w.onlyFloodedPorts(proof) {
			Expect(proof).To(Succeeds(), "%s", proof)
		}
	}
}

// unfinished lists the connections that either end's kernel may still send something
// of by itself: all but those in TIME_WAIT.
func (w *randomWalk) unfinished() ([]string, error) {
	const stateField, timeWait, listen = 3, "06", "0A" // proc(5), net/tcp_states.h
	var left []string
	for _, machine := range append(w.t.Backends(), w.t.Client.Name) {
		tables, err := in(w.t.Name+"-"+machine, func() ([]byte, error) {
			four, err := os.ReadFile("/proc/thread-self/net/tcp")
			six, err6 := os.ReadFile("/proc/thread-self/net/tcp6") // a server of both families has its connections there
			return slices.Concat(four, six), errors.Join(err, err6)
		})
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(tables)) {
			fields := strings.Fields(line)
			if len(fields) > stateField && fields[0] != "sl" && fields[stateField] != timeWait && fields[stateField] != listen {
				left = append(left, machine+": "+line)
			}
		}
	}
	return left, nil
}

// onlyFloodedPorts says that a proof found nothing wrong but a port that was taken, after
// a SYN flood. A flood pushes its own flows out of their table; their ways back keep
// their ports for minutes more (conntrack.OrphanGrace), and no list has them.
func (w *randomWalk) onlyFloodedPorts(proof result) bool {
	const fail = "FAIL: "
	failed := slices.DeleteFunc(strings.Split(proof.Stdout, "\n"), func(line string) bool { return !strings.Contains(line, fail) })
	return w.flows > 0 && len(failed) > 0 && !slices.ContainsFunc(failed, func(line string) bool {
		return !strings.Contains(line, fail+"the client's port is kept when it is free and in the pool")
	})
}

// step does the next action, and waits until it holds.
func (w *randomWalk) step() {
	GinkgoHelper()
	before := w.walk.Model()
	action := w.walk.Next()
	after := w.walk.Model()
	w.note("%s", action)
	w.line.Begin(w.now(), chaos.During(before, action, after))
	w.do(action, after)
	w.holds(after)
	w.line.Settle(w.now(), chaos.Settled(after))
	w.note("    holds")
	w.watchAWhile()
	w.expectNothingBroken()
}

// restoreAll goes back to the lab that the walk began with. It is one more action,
// which is not drawn.
func (w *randomWalk) restoreAll() {
	GinkgoHelper()
	before := w.walk.Model()
	action := chaos.Action{Kind: chaos.Restore}
	after := w.first()
	w.note("at last: %s, as it was", action)
	w.line.Begin(w.now(), chaos.During(before, action, after))
	w.do(action, after)
	w.holds(after)
	w.line.Settle(w.now(), chaos.Settled(after))
}

// watchAWhile leaves the lab alone, until clients have seen how it is now.
func (w *randomWalk) watchAWhile() {
	GinkgoHelper()
	w.rounds.begin(w.now())
	w.until("clients have used every service", func() string { return w.rounds.missing(w.line.Has) })
}

func (w *randomWalk) now() time.Duration { return time.Since(w.begin) }

// note writes a line of the walk's log.
func (w *randomWalk) note(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  %s", w.now().Seconds(), fmt.Sprintf(format, args...))
	fmt.Fprintln(GinkgoWriter, line)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, line)
}

// judge counts what a client saw, and stops the walk when it must not be.
func (w *randomWalk) judge(s chaos.Seen) {
	kind := "requests on established connections"
	if s.New {
		kind = "new connections"
	}
	if s.Err != nil {
		kind += " that failed, as they may"
	}
	fault := w.line.Judge(s)
	w.mu.Lock()
	w.seen[kind]++
	w.mu.Unlock()
	if fault != "" {
		w.breaks("service %d, client %s, backend %q, from %.3fs to %.3fs: %s",
			s.Service, s.Local, s.Backend, s.From.Seconds(), s.To.Seconds(), fault)
	}
}

// breaks notes that an invariant is broken, and ends the walk.
func (w *randomWalk) breaks(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) < 10 {
		w.broken = append(w.broken, fmt.Sprintf("%9.3fs  ", w.now().Seconds())+fmt.Sprintf(format, args...))
	}
	w.stop()
}

func (w *randomWalk) counted() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	counted := map[string]int{}
	for k, n := range w.seen {
		counted[k] = n
	}
	return counted
}

// expectNothingBroken fails with all that is needed to find out.
func (w *randomWalk) expectNothingBroken() {
	GinkgoHelper()
	w.mu.Lock()
	broken, log := w.broken, w.log[max(0, len(w.log)-2*lastActions):]
	w.mu.Unlock()
	if len(broken) > 0 {
		Fail(fmt.Sprintf("an invariant is broken:\n%s\nthe last actions:\n%s\nthe same walk again:\n  %s",
			strings.Join(broken, "\n"), strings.Join(log, "\n"), w.command()))
	}
}

// report adds the walk to the suite's report, and, where it failed, the command.
func (w *randomWalk) report() {
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	AddReportEntry(fmt.Sprintf("the walk of seed %d", w.seed), strings.Join(w.log, "\n"), ReportEntryVisibilityFailureOrVerbose)
}

// topologyOf is the lab of a model.
func (w *randomWalk) topologyOf(m chaos.Model) topology.Topology {
	t, all := topology.Default(), walkNodes()
	t.Name, t.Nodes = w.name("chaos"), map[string]topology.Node{"lb": all["lb"]}
	for _, b := range m.Backends {
		if b.InLab {
			t.Nodes[b.Name] = all[b.Name]
		}
	}
	first := t.Services[0]
	first.TableSize = walkTable
	first.Backends = t.Backends()
	t.Services = nil
	for _, s := range m.Services {
		if s.InLab {
			service := first
			service.ID, service.Mode = s.ID, topology.Mode(s.Mode)
			service.VIP, service.Port = frontendOf(s.ID).Addr(), frontendOf(s.ID).Port()
			t.Services = append(t.Services, service)
		}
	}
	return t
}

// walkNodes are the lab's machines, with those that it does not have all the time.
func walkNodes() map[string]topology.Node {
	all := topology.Default().Nodes
	all[spareBackend] = topology.Node{Role: topology.RoleBackend, OS: topology.Linux, Address: netip.MustParseAddr("20.1.1.50")}
	return all
}

// chooseByMaglev is the suite's own word on whom a connection is given to.
func chooseByMaglev(service uint32, t chaos.Table, local string) string {
	frontend, nodes := frontendOf(service), walkNodes()
	var backends []oracle.Backend
	names := map[netip.AddrPort]string{}
	for name, weight := range t {
		address := netip.AddrPortFrom(nodes[name].Address, frontend.Port())
		names[address] = name
		backends = append(backends, oracle.Backend{Address: address, Weight: weight})
	}
	flow := oracle.Flow{Client: netip.MustParseAddrPort(local), Frontend: frontend, Protocol: oracle.TCP}
	return names[flow.Choose(oracle.Table(backends, "TCP", walkTable), false)]
}

// frontendOf is a service's. The third has the first one's port, so that its
// coming changes no backend's web server.
func frontendOf(id uint32) netip.AddrPort {
	switch id {
	case directID:
		return vip()
	case translatedID:
		return translatedVIP()
	}
	return netip.AddrPortFrom(netip.MustParseAddr("40.1.1.2"), vip().Port())
}

// address is a backend's, of a service.
func (w *randomWalk) address(backend string, service uint32) string {
	return netip.AddrPortFrom(w.t.Nodes[backend].Address, frontendOf(service).Port()).String()
}

// record is what labctl remembers of a node's daemon.
func (w *randomWalk) record(node, daemon string) string {
	return filepath.Join(w.state, w.t.Name, "nodes", node, daemon+".json")
}
