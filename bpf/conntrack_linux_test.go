package bpf

import (
	"net/netip"
	"testing"
	"time"
)

// moved makes the services' new flows go to backend 4.
func (b *balancer) moved(mode LBLbMode) {
	b.t.Helper()
	b.serveBoth(mode, 4)
}

// backendOf sends a packet that must leave, and says to which backend it went.
func (b *balancer) backendOf(p packet) uint32 {
	b.t.Helper()
	out := b.forward(p)
	to, _ := netip.AddrFromSlice(out[30:34])
	for _, id := range []uint32{3, 4} {
		if to == backendAddress(id) {
			return id
		}
	}
	b.t.Fatalf("the packet went to %v", to)
	return 0
}

func TestAFlowLivesAsLongAsItsStateSays(t *testing.T) {
	const slack = time.Second
	cases := map[string]struct {
		mode     LBLbMode
		before   []packet
		probe    packet
		lifetime time.Duration
	}{
		"a handshake that has only begun": {LBLbModeLB_MODE_DSR,
			[]packet{request(40000, "S")}, request(40000, "A"), lifeSYN},
		"a handshake whose SYN came twice": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), request(40000, "S")}, request(40000, "A"), lifeSYN},
		"an established connection": {LBLbModeLB_MODE_DSR,
			[]packet{request(40000, "S"), request(40000, "A")}, request(40000, "A"), lifeEstablished},
		"a connection first seen in the middle": {LBLbModeLB_MODE_DSR,
			[]packet{request(40000, "A")}, request(40000, "A"), lifeSYN},
		"a connection that goes on in the middle": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "A"), request(40000, "A")}, request(40000, "A"), lifeEstablished},
		"a connection that the client closed, in DSR": {LBLbModeLB_MODE_DSR,
			[]packet{request(40000, "S"), request(40000, "A"), request(40000, "FA")}, request(40000, "A"), lifeClosing},
		"a connection that only the client closed, in SNAT": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), request(40000, "A"), request(40000, "FA")}, request(40000, "A"), lifeEstablished},
		"a connection that only the backend closed": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), request(40000, "A"), answer(3, 40000, 6, "FA")}, request(40000, "A"), lifeEstablished},
		"a connection that both sides closed": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), request(40000, "FA"), answer(3, 40000, 6, "FA")}, request(40000, "A"), lifeClosing},
		"a connection that the client reset": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), request(40000, "A"), request(40000, "R")}, request(40000, "A"), lifeClosing},
		"a connection that the backend reset": {LBLbModeLB_MODE_SNAT,
			[]packet{request(40000, "S"), answer(3, 40000, 6, "RA")}, request(40000, "A"), lifeClosing},
		"a UDP flow": {LBLbModeLB_MODE_SNAT,
			[]packet{datagram(40000, "a")}, datagram(40000, "b"), lifeOther},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			begin := func() *balancer {
				b := newBalancer(t)
				b.serveBoth(c.mode, 3)
				for _, p := range c.before {
					b.forward(p)
				}
				b.moved(c.mode)
				return b
			}
			b := begin()
			b.age(c.probe, c.lifetime-slack)
			if got := b.backendOf(c.probe); got != 3 {
				t.Errorf("the flow went to backend %d before its time was over", got)
			}
			b = begin()
			connections := total(b.counters().service).Connections
			b.age(c.probe, c.lifetime+slack)
			if got := b.backendOf(c.probe); got != 4 {
				t.Errorf("the flow went to backend %d after its time was over", got)
			}
			if n := total(b.counters().service).Connections - connections; n != 1 {
				t.Errorf("%d new connections counted, want 1", n)
			}
			if c.mode == LBLbModeLB_MODE_SNAT {
				b.wantFlows(1, 1)
			}
		})
	}
}

func TestEveryPacketRefreshesItsFlow(t *testing.T) {
	for name, p := range map[string]packet{
		"the client's":  request(40000, "A"),
		"the backend's": answer(3, 40000, 6, "A"),
	} {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			b.forward(request(40000, "S"))
			b.forward(request(40000, "A"))
			b.age(request(40000, ""), lifeEstablished-time.Second)
			b.forward(p)
			b.moved(LBLbModeLB_MODE_SNAT)
			e := b.entry(request(40000, ""))
			b.age(request(40000, ""), 0)
			if fresh := b.entry(request(40000, "")).LastSeenNs; fresh-e.LastSeenNs > uint64(time.Second) {
				t.Errorf("last seen %v ago", time.Duration(fresh-e.LastSeenNs))
			}
		})
	}
}

func TestAReplyOfAFlowWhoseTimeIsOverPasses(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.age(request(40000, ""), lifeSYN+time.Second)
	b.pass(answer(3, 40000, 6, "A").frame(t))
}

func TestASYNOpensAnewWhatIsOver(t *testing.T) {
	cases := map[string]struct {
		mode   LBLbMode
		before []packet
		anew   bool
	}{
		"after the client's FIN in DSR":         {LBLbModeLB_MODE_DSR, []packet{request(40000, "A"), request(40000, "FA")}, true},
		"after the client's RST in DSR":         {LBLbModeLB_MODE_DSR, []packet{request(40000, "A"), request(40000, "R")}, true},
		"after both FINs in SNAT":               {LBLbModeLB_MODE_SNAT, []packet{request(40000, "FA"), answer(3, 40000, 6, "FA")}, true},
		"after the backend's RST in SNAT":       {LBLbModeLB_MODE_SNAT, []packet{request(40000, "S"), answer(3, 40000, 6, "RA")}, true},
		"not after the client's FIN in SNAT":    {LBLbModeLB_MODE_SNAT, []packet{request(40000, "FA")}, false},
		"not while the connection lives in DSR": {LBLbModeLB_MODE_DSR, []packet{request(40000, "S"), request(40000, "A")}, false},
		"not when the SYN is sent again":        {LBLbModeLB_MODE_SNAT, []packet{request(40000, "S")}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBalancer(t)
			b.serve(1, web, uint8(tcp), c.mode, 251, 3)
			for _, p := range c.before {
				b.forward(p)
			}
			b.moved(c.mode)
			connections, backend := uint64(1), uint32(3)
			if c.anew {
				connections, backend = 2, 4
			}
			if got := b.backendOf(request(40000, "S")); got != backend {
				t.Errorf("the SYN went to backend %d, want %d", got, backend)
			}
			if got := total(b.counters().service).Connections; got != connections {
				t.Errorf("%d connections counted, want %d", got, connections)
			}
			e := b.entry(request(40000, ""))
			if c.anew && (e.Flags != 0 || e.RxPackets != 1 || e.TxPackets != 0) {
				t.Errorf("the new flow's entry remembers the old flow: %+v", e)
			}
			if c.mode == LBLbModeLB_MODE_SNAT {
				b.wantFlows(1, 1)
			}
		})
	}
}

func TestASYNOpensAnewWhatTheServiceWouldNotMakeAnyMore(t *testing.T) {
	const dsr, snat = LBLbModeLB_MODE_DSR, LBLbModeLB_MODE_SNAT
	established := []packet{request(40000, "S"), request(40000, "A")}
	state := func(state LBBackendState) func(*LBBackend) {
		return func(e *LBBackend) { e.State = state }
	}
	anotherService := func(e *LBBackend) { e.ServiceId, e.ServiceSlot = 3, 3 }
	cases := map[string]struct {
		before  []packet
		mode    LBLbMode // of the service when the SYN comes
		change  func(*LBBackend)
		backend uint32
		now     LBLbMode // of the flow afterwards
	}{
		"when the backend drains":                             {established, dsr, state(LBBackendStateBACKEND_DRAINING), 4, dsr},
		"when the backend is in quarantine":                   {established, dsr, state(LBBackendStateBACKEND_QUARANTINED), 4, dsr},
		"when the backend is in maintenance":                  {established, dsr, state(LBBackendStateBACKEND_MAINTENANCE), 4, dsr},
		"when the backend is gone":                            {established, dsr, state(LBBackendStateBACKEND_GONE), 4, dsr},
		"when its number is another service's backend":        {established, dsr, anotherService, 4, dsr},
		"when the backend began to drain amid the handshake":  {established[:1], dsr, state(LBBackendStateBACKEND_DRAINING), 4, dsr},
		"when the service of the connection has another mode": {established, snat, nil, 4, snat},
		"not when only the table has changed":                 {established, dsr, nil, 3, dsr},
		"not when the mode changed amid the handshake":        {established[:1], snat, nil, 3, dsr},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := dsrBalancer(t)
			for _, p := range c.before {
				b.forward(p)
			}
			b.moved(c.mode)
			if c.change != nil {
				b.changeBackend(3, c.change)
			}
			b.forward(request(40000, "S"))
			e := b.entry(request(40000, ""))
			if e.BackendId != c.backend || e.Mode != c.now {
				t.Errorf("the flow is %+v, want backend %d, mode %v", e, c.backend, c.now)
			}
			connections := uint64(1)
			if c.backend != 3 {
				connections = 2
			}
			if got := total(b.counters().service).Connections; got != connections {
				t.Errorf("%d connections counted, want %d", got, connections)
			}
		})
	}
}

func TestASYNWhoseBackendDrainsLeavesNoWayBackOfTheOldFlow(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.moved(LBLbModeLB_MODE_SNAT)
	b.changeBackend(3, func(e *LBBackend) { e.State = LBBackendStateBACKEND_DRAINING })
	p := request(40000, "S")
	equalFrames(t, b.forward(p), translated(p, 40000, 4).frame(t))
	b.wantFlows(1, 1)
	b.pass(answer(3, 40000, 6, "A").frame(t))
}

func TestAResetWithoutAFlowOpensNone(t *testing.T) {
	for _, flags := range []string{"R", "RA"} {
		t.Run(flags+" goes to the hash's backend in DSR", func(t *testing.T) {
			b := dsrBalancer(t)
			p := request(40000, flags)
			m := backendMAC(3)
			equalFrames(t, b.forward(p), encapsulated(t, p.frame(t), lbMAC, m[:], lbAddress, backendAddress(3)))
			b.wantFlows(0, 0)
			want := LBTraffic{RxPackets: 1, RxBytes: 40}
			if got := b.counters(); got.service[1] != want || got.backend[3] != want {
				t.Errorf("service %+v, backend %+v, want %+v", got.service, got.backend, want)
			}
		})
		t.Run(flags+" is dropped in SNAT", func(t *testing.T) {
			b := snatBalancer(t)
			b.drop(request(40000, flags).frame(t), "no_flow")
			b.wantFlows(0, 0)
		})
	}
	t.Run("when the flow's time is over", func(t *testing.T) {
		b := snatBalancer(t)
		b.forward(request(40000, "S"))
		b.age(request(40000, ""), lifeSYN+time.Second)
		b.drop(request(40000, "R").frame(t), "no_flow")
		b.wantFlows(0, 0)
	})
	t.Run("and needs a backend, a neighbour and room", func(t *testing.T) {
		b := dsrBalancer(t)
		long := request(40000, "R")
		long.payload = make([]byte, 1481-40)
		b.drop(long.frame(t), "mtu_exceeded")
		b.changeBackend(3, func(e *LBBackend) { e.MacSlot = 2 })
		b.drop(request(40000, "R").frame(t), "no_neighbour")
		must(t, b.objects.Backends.Put(uint32(3), LBBackend{}))
		b.drop(request(40000, "R").frame(t), "no_backend")
		b.wantFlows(0, 0)
	})
}

func TestAPacketOfAClosingFlowStillFollowsIt(t *testing.T) {
	b := dsrBalancer(t)
	b.forward(request(40000, "A"))
	b.forward(request(40000, "FA"))
	b.moved(LBLbModeLB_MODE_DSR)
	if got := b.backendOf(request(40000, "A")); got != 3 {
		t.Errorf("the last ACK went to backend %d", got)
	}
}

func TestAFlowKeepsTheModeItBeganIn(t *testing.T) {
	b := dsrBalancer(t)
	b.forward(request(40000, "S"))
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_SNAT, 251, 3)
	old := request(40000, "A")
	m := backendMAC(3)
	equalFrames(t, b.forward(old), encapsulated(t, old.frame(t), lbMAC, m[:], lbAddress, backendAddress(3)))
	young := request(40001, "S")
	equalFrames(t, b.forward(young), translated(young, 40001, 3).frame(t))
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	young = request(40001, "A")
	equalFrames(t, b.forward(young), translated(young, 40001, 3).frame(t))
	b.forward(answer(3, 40001, 6, "A"))
	b.wantFlows(2, 1)
}

func TestAFlowOpenedAnewTakesTheServicesModeOfNow(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.forward(request(40000, "R"))
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_DSR, 251, 3)
	again := request(40000, "S")
	m := backendMAC(3)
	equalFrames(t, b.forward(again), encapsulated(t, again.frame(t), lbMAC, m[:], lbAddress, backendAddress(3)))
	b.wantFlows(1, 0)
	b.pass(answer(3, 40000, 6, "A").frame(t))
}

func TestAnEntryFromTheFutureIsAlive(t *testing.T) {
	// Another CPU may have read the clock a tick later than this one did.
	b := dsrBalancer(t)
	b.forward(request(40000, "S"))
	e := b.entry(request(40000, ""))
	e.LastSeenNs += uint64(time.Minute)
	must(t, b.objects.NewFlows4.Put(key(request(40000, "").from, web, 6), e))
	b.moved(LBLbModeLB_MODE_DSR)
	if got := b.backendOf(request(40000, "A")); got != 3 {
		t.Errorf("the flow went to backend %d", got)
	}
}
