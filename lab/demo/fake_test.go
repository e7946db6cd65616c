package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"l4lab/agent/api"
	"l4lab/lab"
	"l4lab/lab/capture"
	"l4lab/lab/guest"
	"l4lab/lab/plan"
	"l4lab/lab/probe"
	"l4lab/lab/probe/oracle"
	"l4lab/lab/provider"
	"l4lab/topology"
)

// fakeLab is a lab in memory that forwards as a balancer does: by the Maglev table,
// in the service's mode, not to who is drained or quarantined. Its fields spoil it.
type fakeLab struct {
	mu       sync.Mutex
	t        topology.Topology
	mode     topology.Mode
	checked  bool
	dead     map[string]bool // whose web server does not run
	drained  string
	flows    []flow
	open     map[string][]net.Conn // by backend
	servers  map[string]*http.Server
	incoming map[string]chan net.Conn
	tables   map[string]oracle.Table // by who is in them
	calls    []string
	// running are the servers and their connections.
	running sync.WaitGroup

	// leaks has replies cross the balancer in DSR, loses is how many captures lose
	// frames, silent has the agent answer nothing, upErr is what Up fails with,
	// impossible why it cannot begin.
	leaks  bool
	loses  int
	silent bool
	// then happens at the end of Up.
	upErr, impossible error
	then              func()
	report            probe.Report
}

// flow is a connection that was made.
type flow struct {
	client  netip.AddrPort
	backend string
	mode    topology.Mode
}

func newFakeLab() *fakeLab {
	f := &fakeLab{
		t: topology.Default(), mode: topology.SNAT, dead: map[string]bool{}, open: map[string][]net.Conn{},
		servers: map[string]*http.Server{}, incoming: map[string]chan net.Conn{}, tables: map[string]oracle.Table{},
		report: probe.Report{Checks: []probe.Check{{Mode: "dsr", Name: "replies go straight", Status: probe.Pass, Seen: "3 packets"}}},
	}
	f.serve("agent", api.Handler(fakeAgent{f: f}))
	for _, b := range f.t.Backends() {
		f.serve(b, f.pageOf(b))
	}
	return f
}

// serve has a handler take the connections of a name.
func (f *fakeLab) serve(name string, h http.Handler) {
	f.incoming[name] = make(chan net.Conn)
	s := &http.Server{Handler: h, ConnState: func(_ net.Conn, state http.ConnState) {
		switch state { // a connection begins in Serve, and closes once its handler has ended
		case http.StateNew:
			f.running.Add(1)
		case http.StateClosed, http.StateHijacked:
			f.running.Done()
		}
	}}
	f.servers[name] = s
	q := queue{f.incoming[name], make(chan struct{}), new(sync.Once)}
	f.running.Go(func() { _ = s.Serve(q) })
}

func (f *fakeLab) close() {
	for _, s := range f.servers {
		s.Close()
	}
	f.running.Wait()
}

// queue is a listener of connections that are handed to it.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  *sync.Once
}

func (q queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}
func (q queue) Close() error   { q.once.Do(func() { close(q.done) }); return nil }
func (q queue) Addr() net.Addr { return &net.TCPAddr{} }

// from is a connection whose other end is known by an address.
type from struct {
	net.Conn
	peer netip.AddrPort
}

func (c from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.peer) }

func (f *fakeLab) pageOf(backend string) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, h func(w http.ResponseWriter, r *http.Request)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Backend", backend)
			h(w, r)
		})
	}
	handle("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "<title>%s</title><style>x{}</style><h1>%s</h1><dt>Backend address</dt><dd>%s</dd>", backend, backend, f.t.Nodes[backend].Address)
	})
	handle("/whoami", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{"name": backend, "client": r.RemoteAddr})
	})
	handle("/bytes", func(w http.ResponseWriter, _ *http.Request) {
		for {
			time.Sleep(10 * time.Millisecond)
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	return mux
}

// choose returns the backend of a new connection: as the agent has the table.
func (f *fakeLab) choose(client netip.AddrPort) string {
	var backends []oracle.Backend
	members := ""
	for _, b := range f.t.Backends() {
		if b != f.drained && !(f.checked && f.dead[b]) {
			backends = append(backends, oracle.Backend{Address: netip.AddrPortFrom(f.t.Nodes[b].Address, 80), Weight: 1})
			members += b
		}
	}
	table, known := f.tables[members]
	if !known {
		var err error
		if table, err = oracle.NewTable(topology.DefaultTableSize, "TCP", backends); err != nil {
			panic(err)
		}
		f.tables[members] = table
	}
	name, _ := f.t.MachineAt(table.Lookup(client, 80, 6).Addr())
	return name
}

// dial is the client's way through the VIP.
func (f *fakeLab) dial(ctx context.Context, local string) (net.Conn, error) {
	time.Sleep(10 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	client := netip.MustParseAddrPort(local)
	backend := f.choose(client)
	if f.dead[backend] {
		return nil, syscall.ECONNREFUSED
	}
	f.flows = append(f.flows, flow{client, backend, f.mode})
	peer := client
	if f.mode == topology.SNAT {
		peer = netip.AddrPortFrom(f.t.Nodes["lb"].Address, client.Port())
	}
	near, far := net.Pipe()
	f.incoming[backend] <- from{far, peer}
	f.open[backend] = append(f.open[backend], far)
	return near, nil
}

// fakeGuest is the way into one machine.
type fakeGuest struct {
	guest.Guest
	f *fakeLab
}

func (g fakeGuest) Dial(ctx context.Context, _, local, _ string) (net.Conn, error) {
	return g.f.dial(ctx, local)
}

// Run is lbagent on the balancer.
func (g fakeGuest) Run(_ context.Context, c guest.Command) error {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	command := strings.Join(c.Argv, " ")
	g.f.calls = append(g.f.calls, command)
	switch {
	case strings.HasPrefix(command, "lbagent service update"):
		g.f.checked, g.f.drained = strings.Contains(command, "--check=http"), ""
	case strings.HasPrefix(command, "lbagent service drain"):
		g.f.drained = "be1"
	case command == "lbagent mode update dsr":
		g.f.mode = topology.DSR
	}
	fmt.Fprintln(c.Stdout, "done")
	return nil
}

func (f *fakeLab) Name() string { return "fake" }

func (f *fakeLab) Check(context.Context, topology.Topology, lab.UpOptions) error {
	return f.impossible
}

func (f *fakeLab) Up(context.Context, topology.Topology, lab.UpOptions) ([]plan.Step, error) {
	if f.then != nil {
		f.then()
	}
	return []plan.Step{{Action: plan.Create}}, f.upErr
}

func (f *fakeLab) Status(context.Context) (lab.Status, error) {
	st := lab.Status{Provider: "fake"}
	for _, name := range f.t.MachineNames() {
		a, _ := f.t.Address(name)
		n := f.t.Nodes[name]
		st.Nodes = append(st.Nodes, lab.NodeStatus{Name: name, Role: n.Role, OS: n.OS, Address: a, Healthy: true, Emulated: n.OS == topology.Windows})
	}
	return st, nil
}

func (f *fakeLab) MACs(context.Context) (map[string]string, error) {
	macs := map[string]string{}
	for _, name := range f.t.MachineNames() {
		macs[name] = f.mac(name).String()
	}
	return macs, nil
}

// mac is a machine's: its address behind 02:00.
func (f *fakeLab) mac(name string) net.HardwareAddr {
	a, _ := f.t.Address(name)
	return append(net.HardwareAddr{2, 0}, a.AsSlice()...)
}

func (f *fakeLab) Agent() (*api.Client, error) {
	return api.NewClient(func(context.Context) (net.Conn, error) {
		if f.silent {
			return nil, errors.New("nobody listens")
		}
		near, far := net.Pipe()
		f.incoming["agent"] <- far
		return near, nil
	}), nil
}

func (f *fakeLab) Machine(string) (provider.Machine, error) {
	return provider.Machine{Guest: fakeGuest{f: f}}, nil
}

func (f *fakeLab) Capture(_ context.Context, place capture.Place) (*capture.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	begin := len(f.flows)
	return capture.Late(place.String(), func() ([]capture.Frame, uint64, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.loses > 0 {
			f.loses--
			return nil, 1, nil
		}
		return f.framesAt(place, f.flows[begin:]), 0, nil
	}), nil
}

func (f *fakeLab) Mode(_ context.Context, _ uint32, mode topology.Mode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
	return nil
}

func (f *fakeLab) StopPage(_ context.Context, backend string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[backend] = true
	for _, c := range f.open[backend] {
		c.Close()
	}
	return nil
}

func (f *fakeLab) StartPage(_ context.Context, backend string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dead, backend)
	return nil
}

func (f *fakeLab) Test(context.Context, probe.Options) (probe.Report, error) { return f.report, nil }

// fakeAgent is the balancer's agent.
type fakeAgent struct {
	api.Agent
	f *fakeLab
}

func (a fakeAgent) Status(context.Context) (api.Status, error) {
	return api.Status{
		AttachMode: "native", Steps: []string{"attached to eth0: native XDP"},
		Interface: api.Interface{Name: "eth0", Index: 2, MTU: 1500, Address: a.f.t.Nodes["lb"].Address, MAC: a.f.mac("lb").String()},
	}, nil
}

func (a fakeAgent) Service(context.Context, uint32) (api.Service, error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	wanted := a.f.t.Services[0]
	wanted.Mode = a.f.mode
	s := plan.ServiceOf(a.f.t, wanted)
	for i, b := range s.Backends {
		if name, _ := a.f.t.MachineAt(b.Address.Addr()); a.f.checked && a.f.dead[name] {
			s.Backends[i].Health = "quarantined"
		}
	}
	return s, nil
}

func (a fakeAgent) Neighbours(context.Context) (list []api.Neighbour, err error) {
	for _, b := range a.f.t.Backends() {
		list = append(list, api.Neighbour{Address: a.f.t.Nodes[b].Address, NextHop: a.f.t.Nodes[b].Address, MAC: a.f.mac(b).String()})
	}
	return list, nil
}

func (a fakeAgent) Connections(context.Context, uint32) (list []api.Connection, err error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	for _, x := range slices.Backward(a.f.flows) {
		c := api.Connection{
			ServiceID: 1, Source: x.client, Dest: a.f.t.Services[0].Frontend(), Mode: string(x.mode), RxBytes: 400, State: api.Closing,
			Backend: netip.AddrPortFrom(a.f.t.Nodes[x.backend].Address, 80), IdleFor: float64(len(list)),
		}
		if x.mode == topology.SNAT {
			sent := uint64(500)
			c.TxBytes, c.NATPort = &sent, x.client.Port()
		}
		list = append(list, c)
	}
	return list, nil
}

func (a fakeAgent) Counters(context.Context) (api.Counters, error) {
	return api.Counters{Services: []api.ServiceCounters{{ID: 1, Traffic: api.Traffic{Connections: 7}}}}, nil
}

func (a fakeAgent) Health(context.Context) (list []api.BackendHealth, err error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	for _, b := range a.f.t.Backends() {
		h := api.BackendHealth{ServiceID: 1, Backend: netip.AddrPortFrom(a.f.t.Nodes[b].Address, 80), Health: "healthy", Result: "passed"}
		if a.f.dead[b] {
			h.Result = "failed"
		}
		list = append(list, h)
	}
	return list, nil
}

var _ Lab = (*fakeLab)(nil)
