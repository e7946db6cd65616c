package conntrack

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
)

// fakeTable is the data path's tables in memory. before, if set, is called
// right before each look at a single flow: a packet that comes just then.
type fakeTable struct {
	config   datapath.Config
	backends map[uint32]datapath.Backend
	conns    map[datapath.Flow]datapath.Conn
	nats     map[datapath.Flow]datapath.NAT
	before   func()
	// twice are flows that a walk meets in the table of new flows too.
	twice map[datapath.Flow]datapath.Conn
	// onBackends, if set, is called before the backends are read.
	onBackends func()
}

func newFakeTable() *fakeTable {
	config := datapath.DefaultConfig()
	config.Address4, config.Address6 = netip.MustParseAddr("20.1.1.1"), netip.MustParseAddr("fd00::1")
	return &fakeTable{
		config: config,
		backends: map[uint32]datapath.Backend{
			1: {Address: backend, State: datapath.Active, ServiceID: 1},
			2: {Address: backend6, State: datapath.Draining, ServiceID: 2},
		},
		conns: make(map[datapath.Flow]datapath.Conn),
		nats:  make(map[datapath.Flow]datapath.NAT),
	}
}

func (f *fakeTable) Config() (datapath.Config, error) { return f.config, nil }

func (f *fakeTable) Backends() (map[uint32]datapath.Backend, error) {
	if f.onBackends != nil {
		f.onBackends()
	}
	return maps.Clone(f.backends), nil
}

func (f *fakeTable) Conns() iter.Seq2[datapath.FlowConn, error] {
	return func(yield func(datapath.FlowConn, error) bool) {
		for flow, c := range maps.Clone(f.twice) {
			if !yield(datapath.FlowConn{Flow: flow, Conn: c}, nil) {
				return
			}
		}
		for flow, c := range maps.Clone(f.conns) {
			if !yield(datapath.FlowConn{Flow: flow, Conn: c}, nil) {
				return
			}
		}
	}
}

func (f *fakeTable) Conn(flow datapath.Flow) (datapath.Conn, bool, error) {
	if f.before != nil {
		f.before()
	}
	c, ok := f.conns[flow]
	return c, ok, nil
}

func (f *fakeTable) DeleteConn(flow datapath.Flow) error {
	delete(f.conns, flow)
	return nil
}

func (f *fakeTable) NATs() iter.Seq2[datapath.FlowNAT, error] {
	return func(yield func(datapath.FlowNAT, error) bool) {
		for flow, n := range maps.Clone(f.nats) {
			if !yield(datapath.FlowNAT{Flow: flow, NAT: n}, nil) {
				return
			}
		}
	}
}

func (f *fakeTable) NAT(flow datapath.Flow) (datapath.NAT, bool, error) {
	n, ok := f.nats[flow]
	return n, ok, nil
}

func (f *fakeTable) DeleteNAT(flow datapath.Flow) error {
	delete(f.nats, flow)
	return nil
}

var (
	client  = netip.MustParseAddrPort("20.1.1.100:40000")
	vip     = netip.MustParseAddrPort("40.1.1.1:80")
	backend = netip.MustParseAddrPort("20.1.1.10:80")
	// backend6 is of an all-ports service.
	client6  = netip.MustParseAddrPort("[fd00::100]:40000")
	vip6     = netip.MustParseAddrPort("[fd00:40::1]:443")
	backend6 = netip.MustParseAddrPort("[fd00::10]:0")
	tcpFlow6 = datapath.Flow{Source: client6, Dest: vip6, Protocol: datapath.TCP}
	reply6   = datapath.Flow{Source: netip.MustParseAddrPort("[fd00::10]:443"), Dest: netip.MustParseAddrPort("[fd00::1]:40000"), Protocol: datapath.TCP}
	tcpFlow  = datapath.Flow{Source: client, Dest: vip, Protocol: datapath.TCP}
	udpFlow  = datapath.Flow{Source: client, Dest: vip, Protocol: datapath.UDP}
	// reply is the way back of tcpFlow with NAT port 40000.
	reply = datapath.Flow{Source: backend, Dest: netip.MustParseAddrPort("20.1.1.1:40000"), Protocol: datapath.TCP}
)

// now is a time of the data path's clock, long after boot.
const now = 100 * time.Hour

// conn was seen an age ago.
func conn(mode datapath.Mode, flags datapath.FlowFlags, age time.Duration) datapath.Conn {
	c := datapath.Conn{LastSeen: now - age, BackendID: 1, Mode: mode, Flags: flags}
	if mode == datapath.SNAT {
		c.NATPort = 40000
	}
	return c
}

// conn6 is an IPv6 flow's, seen an age ago.
func conn6(mode datapath.Mode, age time.Duration) datapath.Conn {
	c := conn(mode, datapath.SeenNonSYN|datapath.Reset, age)
	c.BackendID = 2
	return c
}

func TestLifetimesAreTheDataPathsOwn(t *testing.T) {
	const established, syn, closing, nonTCP = 8000 * time.Second, 60 * time.Second, 10 * time.Second, 60 * time.Second
	for _, c := range []struct {
		name  string
		flow  datapath.Flow
		mode  datapath.Mode
		flags datapath.FlowFlags
		want  time.Duration
	}{
		{"a SYN alone", tcpFlow, datapath.DSR, 0, syn},
		{"an established flow", tcpFlow, datapath.DSR, datapath.SeenNonSYN, established},
		{"the client's FIN in DSR, where the backend's is not seen", tcpFlow, datapath.DSR, datapath.SeenNonSYN | datapath.RxClosing, closing},
		{"the client's FIN in SNAT", tcpFlow, datapath.SNAT, datapath.SeenNonSYN | datapath.RxClosing, established},
		{"the backend's FIN in SNAT", tcpFlow, datapath.SNAT, datapath.SeenNonSYN | datapath.TxClosing, established},
		{"both FINs in SNAT", tcpFlow, datapath.SNAT, datapath.SeenNonSYN | datapath.RxClosing | datapath.TxClosing, closing},
		{"a reset", tcpFlow, datapath.SNAT, datapath.SeenNonSYN | datapath.Reset, closing},
		{"UDP", udpFlow, datapath.SNAT, 0, nonTCP},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := newFakeTable()
			sweep := func(age time.Duration) bool {
				table.conns[c.flow] = conn(c.mode, c.flags, age)
				if _, err := newSweeper(table, now).Sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, alive := table.conns[c.flow]
				return alive
			}
			if !sweep(c.want) {
				t.Errorf("it was swept at the age of %s", c.want)
			}
			if sweep(c.want + time.Nanosecond) {
				t.Errorf("it was not swept after the age of %s", c.want)
			}
		})
	}
}

func TestListDescribesFlows(t *testing.T) {
	for _, c := range []struct {
		name  string
		flow  datapath.Flow
		conn  datapath.Conn
		state api.ConnectionState
	}{
		{"active", tcpFlow, conn(datapath.DSR, datapath.SeenNonSYN, time.Second), api.Active},
		{"active when its last packet came after the clock was read", tcpFlow, conn(datapath.DSR, 0, -time.Millisecond), api.Active},
		{"idle", tcpFlow, conn(datapath.DSR, datapath.SeenNonSYN, 10*time.Second), api.Idle},
		{"closing", tcpFlow, conn(datapath.SNAT, datapath.SeenNonSYN|datapath.TxClosing, time.Second), api.Closing},
		{"closing rather than idle", tcpFlow, conn(datapath.SNAT, datapath.SeenNonSYN|datapath.RxClosing, time.Minute), api.Closing},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := newFakeTable()
			table.conns[c.flow] = c.conn
			list, err := List(table, 1, now)
			if err != nil || len(list) != 1 {
				t.Fatalf("got %v, %v", list, err)
			}
			if list[0].State != c.state {
				t.Errorf("state %s, want %s", list[0].State, c.state)
			}
			if snat := c.conn.Mode == datapath.SNAT; (list[0].TxBytes != nil) != snat || (list[0].NATPort != 0) != snat {
				t.Errorf("in mode %s: tx %v, port %d", c.conn.Mode, list[0].TxBytes, list[0].NATPort)
			}
		})
	}
}

func TestListLeavesOutTheDeadAndOtherServices(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.DSR, 0, time.Hour)
	table.conns[udpFlow] = conn(datapath.DSR, 0, time.Second)
	list, err := List(table, 0, now)
	if err != nil || len(list) != 1 || list[0].Protocol != "udp" || list[0].IdleFor != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, _ := List(table, 2, now); len(list) != 0 || list == nil {
		t.Errorf("service 2 got %#v", list)
	}
}

func TestSweepTakesTheWayBackAlong(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.SNAT, 0, time.Hour)
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if err != nil || swept.Expired != 1 || len(swept.InUse) != 0 {
		t.Errorf("got %+v, %v", swept, err)
	}
	if len(table.conns)+len(table.nats) != 0 {
		t.Errorf("left: %v %v", table.conns, table.nats)
	}
}

func TestSweepLeavesAWayBackThatAnotherFlowHas(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.SNAT, 0, time.Hour)
	other := netip.MustParseAddrPort("20.1.1.101:40000")
	table.nats[reply] = datapath.NAT{Client: other, VIP: vip, BackendID: 1}
	table.conns[datapath.Flow{Source: other, Dest: vip, Protocol: datapath.TCP}] = conn(datapath.SNAT, datapath.SeenNonSYN, 0)
	if _, err := newSweeper(table, now).Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(table.nats) != 1 || len(table.conns) != 1 {
		t.Errorf("left: %v %v", table.conns, table.nats)
	}
}

func TestFlowThatSpeaksDuringTheSweepLives(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.SNAT, 0, time.Hour)
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	table.before = func() { table.conns[tcpFlow] = conn(datapath.SNAT, 0, 0) }
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if err != nil || swept.Expired != 0 || swept.InUse[1] != 1 {
		t.Errorf("got %+v, %v", swept, err)
	}
	if len(table.conns) != 1 || len(table.nats) != 1 {
		t.Errorf("left: %v %v", table.conns, table.nats)
	}
}

func TestOrphanIsSweptAfterItsGrace(t *testing.T) {
	table := newFakeTable()
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	at := now
	s := NewSweeper(table, func() time.Duration { return at }, quiet())
	for _, step := range []struct {
		at   time.Duration
		left int
	}{{now, 1}, {now + OrphanGrace - 1, 1}, {now + OrphanGrace, 0}} {
		at = step.at
		if _, err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(table.nats) != step.left {
			t.Errorf("at %s: %d left, want %d", step.at-now, len(table.nats), step.left)
		}
	}
}

func TestOrphanWhoseFlowComesBackLives(t *testing.T) {
	table := newFakeTable()
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	at := now
	s := NewSweeper(table, func() time.Duration { return at }, quiet())
	sweep := func() {
		t.Helper()
		if _, err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	at += OrphanGrace / 2
	table.conns[tcpFlow] = datapath.Conn{LastSeen: at, BackendID: 1, NATPort: 40000, Mode: datapath.SNAT}
	sweep()
	delete(table.conns, tcpFlow)
	at += OrphanGrace / 2
	sweep() // an orphan again, from now on
	if len(table.nats) != 1 {
		t.Error("its grace did not begin anew")
	}
}

func TestSweepCountsWhatEachBackendHas(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.DSR, datapath.SeenNonSYN, time.Minute)
	table.conns[udpFlow] = conn(datapath.DSR, 0, time.Second)
	table.conns[tcpFlow6] = conn6(datapath.DSR, time.Hour) // over
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if want := map[uint32]int{1: 2}; err != nil || !maps.Equal(swept.InUse, want) || swept.Flows != 3 {
		t.Errorf("got %+v, %v, want %v", swept, err, want)
	}
}

// Its next packet would restore the flow, and go to that backend.
func TestWayBackWithoutItsFlowIsCountedWhileItMayComeBack(t *testing.T) {
	table := newFakeTable()
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if err != nil || swept.InUse[1] != 1 {
		t.Errorf("got %+v, %v", swept, err)
	}
}

func TestFlowsOfABackendThatHasGoneAreCut(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.SNAT, datapath.SeenNonSYN, 0)
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	table.conns[tcpFlow6] = conn6(datapath.SNAT, 0)
	table.nats[reply6] = datapath.NAT{Client: client6, VIP: vip6, BackendID: 2}
	delete(table.backends, 1)
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if err != nil || swept.Cut != 1 || swept.Orphans != 1 || swept.Expired != 0 || !maps.Equal(swept.InUse, map[uint32]int{2: 1}) {
		t.Errorf("got %+v, %v", swept, err)
	}
	if _, left := table.conns[tcpFlow]; left || len(table.conns) != 1 || len(table.nats) != 1 {
		t.Errorf("left: %v %v", table.conns, table.nats)
	}
}

// The backend, and a flow to it, come after the backends were read.
func TestFlowOfABackendThatComesDuringTheSweepLives(t *testing.T) {
	table := newFakeTable()
	delete(table.backends, 1)
	table.conns[tcpFlow] = conn(datapath.SNAT, datapath.SeenNonSYN, 0)
	table.nats[reply] = datapath.NAT{Client: client, VIP: vip, BackendID: 1}
	reads := 0
	table.onBackends = func() {
		if reads++; reads == 2 {
			table.backends[1] = datapath.Backend{Address: backend, State: datapath.Active, ServiceID: 1}
		}
	}
	swept, err := newSweeper(table, now).Sweep(t.Context())
	if err != nil || swept.Cut+swept.Orphans != 0 || swept.InUse[1] != 1 || len(table.conns)+len(table.nats) != 2 {
		t.Errorf("got %+v, %v; left: %v %v", swept, err, table.conns, table.nats)
	}
}

// An IPv6 flow of an all-ports service: the backend's port is the one that the client asked for.
func TestWayBackOfAnAllPortsServiceIsFound(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow6] = conn6(datapath.SNAT, 0)
	table.nats[reply6] = datapath.NAT{Client: client6, VIP: vip6, BackendID: 2}
	at := now
	s := NewSweeper(table, func() time.Duration { return at }, quiet())
	for range 2 {
		swept, err := s.Sweep(t.Context())
		if err != nil || swept.InUse[2] != 1 || len(table.nats) != 1 {
			t.Fatalf("while it lives: got %+v, %v", swept, err)
		}
		at += OrphanGrace
		c := table.conns[tcpFlow6]
		c.LastSeen = at
		table.conns[tcpFlow6] = c
	}
	at += time.Hour
	if swept, err := s.Sweep(t.Context()); err != nil || swept.Expired != 1 || len(table.conns)+len(table.nats) != 0 {
		t.Errorf("when it is over: got %+v, %v; left: %v %v", swept, err, table.conns, table.nats)
	}
}

func TestListShowsBothFamiliesWithTheirBackends(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.DSR, datapath.SeenNonSYN, time.Second)
	table.conns[tcpFlow6] = conn6(datapath.SNAT, 2*time.Second)
	table.conns[udpFlow] = conn(datapath.DSR, 0, time.Second)
	c := table.conns[udpFlow]
	c.BackendID = 9 // which has gone
	table.conns[udpFlow] = c
	list, err := List(table, 0, now)
	if err != nil || len(list) != 2 {
		t.Fatalf("got %+v, %v", list, err)
	}
	if list[0].Backend != backend || list[0].ServiceID != 1 {
		t.Errorf("IPv4: got %+v", list[0])
	}
	if list[1].Backend != reply6.Source || list[1].ServiceID != 2 || list[1].NATPort != 40000 {
		t.Errorf("IPv6: got %+v", list[1])
	}
}

func TestFlowThatIsInBothTablesIsListedOnce(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.DSR, datapath.SeenNonSYN, 0)
	first := conn(datapath.DSR, 0, 0)
	first.New = true
	table.twice = map[datapath.Flow]datapath.Conn{tcpFlow: first}
	c := table.conns[tcpFlow]
	c.RxPackets = 2
	table.conns[tcpFlow] = c
	if list, err := List(table, 0, now); err != nil || len(list) != 1 || list[0].RxPackets != 2 {
		t.Errorf("got %+v, %v", list, err)
	}
}

func newSweeper(table Table, at time.Duration) *Sweeper {
	return NewSweeper(table, func() time.Duration { return at }, quiet())
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// An agent that ends does not wait until millions of flows were looked at.
func TestSweepEndsWithItsContext(t *testing.T) {
	table := newFakeTable()
	table.conns[tcpFlow] = conn(datapath.DSR, 0, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	table.onBackends = cancel
	if _, err := newSweeper(table, now).Sweep(ctx); !errors.Is(err, context.Canceled) || len(table.conns) != 1 {
		t.Errorf("got %v, %d flows are left", err, len(table.conns))
	}
}
