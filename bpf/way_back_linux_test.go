package bpf

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// establishedSNAT makes a flow from the pool's port 40000 that the fast path forwards.
func establishedSNAT(t testing.TB) *balancer {
	t.Helper()
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.forward(answer(3, 40000, 6, "SA"))
	b.forward(request(40000, "A"))
	b.wantHalves(true, true)
	return b
}

// proveLongAgo makes a flow's way back look as if it had last been seen that long ago.
func (b *balancer) proveLongAgo(p packet, by time.Duration) {
	b.t.Helper()
	k := key(p.from, p.to, uint8(p.proto))
	e, in := find[LBCtEntry](b.t, k, b.objects.Flows4, b.objects.NewFlows4)
	if in == nil {
		b.t.Fatal("no such flow")
	}
	e.WayBackNs = monotonic(b.t) - uint64(by)
	must(b.t, in.Put(k, e))
}

func TestALostWayBackOfAnEstablishedFlowIsRestoredWithinASecond(t *testing.T) {
	for name, p := range map[string]packet{
		"by a segment":                request(40000, "A"),
		"by a segment with data":      func() packet { p := request(40000, "PA"); p.payload = []byte("more"); return p }(),
		"by a farewell, on the spot":  request(40000, "FA"),
		"by a packet with IP options": func() packet { p := request(40000, "A"); p.options = ipOptions(2); return p }(),
	} {
		t.Run(name, func(t *testing.T) {
			b := establishedSNAT(t)
			was, err := b.way(40000)
			must(t, err)
			b.evictWayBack(answer(3, 40000, 6, ""))
			b.pass(answer(3, 40000, 6, "A").frame(t))
			b.proveLongAgo(p, time.Second+100*time.Millisecond)
			equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
			if now, err := b.way(40000); err != nil || now != was {
				t.Errorf("restored %+v (%v), was %+v", now, err, was)
			}
			b.wantHalves(true, true)
			reply := answer(3, 40000, 6, "A")
			equalFrames(t, b.forward(reply), translatedBack(reply, web, p.from).frame(t))
		})
	}
}

func TestAWayBackThatWasSeenLatelyIsNotLookedFor(t *testing.T) {
	// That is what makes the fast path fast.
	b := establishedSNAT(t)
	b.evictWayBack(answer(3, 40000, 6, ""))
	b.proveLongAgo(request(40000, ""), 500*time.Millisecond)
	b.forward(request(40000, "A"))
	if n := count(t, b.objects.Nat4) + count(t, b.objects.NewNat4); n != 0 {
		t.Errorf("%d ways back, want none", n)
	}
}

func TestEachReplyProvesTheWayBack(t *testing.T) {
	b := establishedSNAT(t)
	b.proveLongAgo(request(40000, ""), time.Minute)
	b.forward(answer(3, 40000, 6, "A"))
	if e := b.entry(request(40000, "")); monotonic(t)-e.WayBackNs > uint64(time.Second) {
		t.Errorf("the way back was last seen %v ago", time.Duration(monotonic(t)-e.WayBackNs))
	}
}

func TestAnEstablishedFlowThatWasLostIsEstablishedAgain(t *testing.T) {
	for name, restore := range map[string]packet{
		"after a reply":       answer(3, 40000, 6, "A"),
		"after a bare packet": request(40000, "A"),
	} {
		t.Run(name, func(t *testing.T) {
			b := establishedSNAT(t)
			b.evict(request(40000, ""))
			b.forward(restore)
			if b.established(request(40000, "")) {
				t.Error("one packet has established the flow")
			}
			b.wantFlows(1, 1)
			p := request(40000, "A")
			equalFrames(t, b.forward(p), translated(p, 40000, 3).frame(t))
			b.wantHalves(true, true)
			reply := answer(3, 40000, 6, "A")
			equalFrames(t, b.forward(reply), translatedBack(reply, web, p.from).frame(t))
		})
	}
}

func TestRepliesFollowAnEstablishedClientToAnotherRouterAtOnce(t *testing.T) {
	b := establishedSNAT(t)
	moved := request(40000, "A")
	for _, router := range []net.HardwareAddr{otherMAC, routerMAC} {
		moved.sourceMAC = router
		equalFrames(t, b.forward(moved), translated(moved, 40000, 3).frame(t))
		want := translatedBack(answer(3, 40000, 6, "A"), web, moved.from)
		want.destMAC = router
		equalFrames(t, b.forward(answer(3, 40000, 6, "A")), want.frame(t))
		// From now on the fast path knows the router as well.
		equalFrames(t, b.forward(moved), translated(moved, 40000, 3).frame(t))
		equalFrames(t, b.forward(answer(3, 40000, 6, "A")), want.frame(t))
	}
	b.wantHalves(true, true)
}

func TestAnEstablishedFlowWhosePortWasGivenAwayIsForgotten(t *testing.T) {
	b := establishedSNAT(t)
	b.evictWayBack(answer(3, 40000, 6, ""))
	thief := request(40000, "S")
	thief.from = addrPort("20.1.1.101:40000")
	if got := sourcePort(b.forward(thief)); got != 40000 {
		t.Fatalf("the second client got port %d", got)
	}
	b.proveLongAgo(request(40000, ""), 2*time.Second)
	b.drop(request(40000, "A").frame(t), "conntrack_failed")
	if got := sourcePort(b.forward(request(40000, "A"))); got == 40000 {
		t.Error("two flows share one port")
	}
	want := translatedBack(answer(3, 40000, 6, "SA"), web, thief.from)
	equalFrames(t, b.forward(answer(3, 40000, 6, "SA")), want.frame(t))
}

func TestALostWayBackIsRestoredByTheClientsNextPacket(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(1000, "S"))
	natPort := port(b.entry(request(1000, "S")).NatPort)
	lost, err := b.way(natPort)
	must(t, err)
	b.evictWayBack(answer(3, natPort, uint8(tcp), ""))
	b.pass(answer(3, natPort, uint8(tcp), "A").frame(t))
	if got := sourcePort(b.forward(request(1000, "A"))); got != natPort {
		t.Fatalf("the flow moved from port %d to %d", natPort, got)
	}
	if restored, err := b.way(natPort); err != nil || restored != lost {
		t.Errorf("restored %+v (%v), was %+v", restored, err, lost)
	}
	b.forward(answer(3, natPort, uint8(tcp), "A"))
}

func TestAFlowWhosePortWasGivenAwayIsForgotten(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.evictWayBack(answer(3, 40000, uint8(tcp), ""))
	thief := request(40000, "S")
	thief.from = addrPort("20.1.1.101:40000")
	if got := sourcePort(b.forward(thief)); got != 40000 {
		t.Fatalf("the second client got port %d", got)
	}
	b.drop(request(40000, "A").frame(t), "conntrack_failed")
	b.wantFlows(1, 1)
	if got := sourcePort(b.forward(request(40000, "A"))); got == 40000 {
		t.Error("two flows share one port")
	}
	b.forward(thief)
	b.wantFlows(2, 2)
}

func TestALostConntrackEntryIsRestoredByTheReply(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(1000, "S"))
	before := b.entry(request(1000, "S"))
	natPort := port(before.NatPort)
	b.evict(request(1000, "S"))
	reply := answer(3, natPort, uint8(tcp), "A")
	equalFrames(t, b.forward(reply), translatedBack(reply, web, request(1000, "").from).frame(t))
	after := b.entry(request(1000, "S"))
	if after.NatPort != before.NatPort || after.BackendId != 3 || after.Mode != before.Mode || after.TxPackets != 1 {
		t.Errorf("restored %+v, was %+v", after, before)
	}
	if got := sourcePort(b.forward(request(1000, "A"))); got != natPort {
		t.Errorf("the flow moved from port %d to %d", natPort, got)
	}
	b.wantFlows(1, 1)
}

func TestALostConntrackEntryIsNotRestoredForADeletedService(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.evict(request(40000, ""))
	must(t, b.objects.Services.Delete(serviceKey(web, 6)))
	b.pass(answer(3, 40000, uint8(tcp), "A").frame(t))
}

func TestALostConntrackEntryFindsItsOwnPortAgain(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	b.evict(request(40000, ""))
	if got := sourcePort(b.forward(request(40000, "A"))); got != 40000 {
		t.Errorf("the flow moved to port %d", got)
	}
	b.wantFlows(1, 1)
}

func TestAWayBackTakesTheBackendsNumberOfNow(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	// The same backend under another number, and a flow that was lost in between.
	b.evict(request(40000, ""))
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_SNAT, 251, 7)
	b.changeBackend(7, func(e *LBBackend) { e.Address, e.Mac[0] = wire(backendAddress(3)), backendMAC(3) })
	b.forward(request(40000, "A"))
	if way, err := b.way(40000); err != nil || way.BackendId != 7 {
		t.Errorf("the way back is %+v (%v), want backend 7", way, err)
	}
	b.evict(request(40000, ""))
	b.forward(answer(3, 40000, uint8(tcp), "A"))
	if e := b.entry(request(40000, "")); e.BackendId != 7 {
		t.Errorf("the reply restored %+v, want backend 7", e)
	}
}

func TestAReplyOfAnEarlierFlowIsNotTranslatedIntoTheNew(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	stale, err := b.way(40000)
	must(t, err)
	b.serve(1, web, uint8(tcp), LBLbModeLB_MODE_SNAT, 251, 4)
	b.forward(request(40000, "R"))
	b.forward(request(40000, "S"))
	// As if the way back of the flow that ended had survived.
	must(t, b.objects.NewNat4.Update(natKey(3, 40000, tcp), stale, ebpf.UpdateNoExist))
	b.pass(answer(3, 40000, uint8(tcp), "A").frame(t))
	b.forward(answer(4, 40000, uint8(tcp), "SA"))
}

func TestAReplyToAPortThatTheFlowHasLeftPasses(t *testing.T) {
	b := snatBalancer(t)
	b.forward(request(40000, "S"))
	way, err := b.way(40000)
	must(t, err)
	must(t, b.objects.Nat4.Put(natKey(3, 50000, tcp), way))
	b.pass(answer(3, 50000, uint8(tcp), "A").frame(t))
	b.forward(answer(3, 40000, uint8(tcp), "A"))
}
