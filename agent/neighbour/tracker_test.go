package neighbour

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"l4lab/agent/datapath"
)

// fakeSystem is routes and neighbours in memory.
type fakeSystem struct {
	mu       sync.Mutex
	gateways map[netip.Addr]netip.Addr // next hop by backend; itself when not here
	noRoute  map[netip.Addr]bool
	entries  map[netip.Addr]Entry
	asked    map[netip.Addr]int
	// onEntries is called, without the lock, before the table is read.
	onEntries func()
	// onResolve answers a request, from another goroutine as the kernel does.
	onResolve func(nextHop netip.Addr)
}

func newFakeSystem() *fakeSystem {
	return &fakeSystem{
		gateways: make(map[netip.Addr]netip.Addr),
		noRoute:  make(map[netip.Addr]bool),
		entries:  make(map[netip.Addr]Entry),
		asked:    make(map[netip.Addr]int),
	}
}

func (f *fakeSystem) NextHop(backend netip.Addr) (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noRoute[backend] {
		return netip.Addr{}, errors.New("no route")
	}
	if g, ok := f.gateways[backend]; ok {
		return g, nil
	}
	return backend, nil
}

func (f *fakeSystem) Entries() (map[netip.Addr]Entry, error) {
	if f.onEntries != nil {
		f.onEntries()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.entries), nil
}

func (f *fakeSystem) Resolve(nextHop netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[nextHop]++
	if f.onResolve != nil {
		go f.onResolve(nextHop)
	}
	return nil
}

func (f *fakeSystem) Forget(nextHop netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, nextHop)
	return nil
}

func (f *fakeSystem) Watch(ctx context.Context, _ func(netip.Addr, Entry), resync func()) error {
	resync()
	<-ctx.Done()
	return ctx.Err()
}

// set changes an entry as the kernel would, and tells the tracker.
func (f *fakeSystem) set(t *Tracker, nextHop netip.Addr, e Entry) {
	f.mu.Lock()
	f.entries[nextHop] = e
	f.mu.Unlock()
	t.observe(nextHop, e)
}

func (f *fakeSystem) timesAsked(nextHop netip.Addr) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[nextHop]
}

// fakeTable is the map neighbours.
type fakeTable struct {
	mu   sync.Mutex
	macs map[netip.Addr]datapath.MAC
}

func (f *fakeTable) Neighbours() (map[netip.Addr]datapath.MAC, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.macs), nil
}

func (f *fakeTable) PutNeighbour(backend netip.Addr, mac datapath.MAC) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.macs[backend] = mac
	return nil
}

func (f *fakeTable) DeleteNeighbour(backend netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.macs, backend)
	return nil
}

func (f *fakeTable) of(backend netip.Addr) datapath.MAC {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.macs[backend]
}

var (
	be1, be2 = netip.MustParseAddr("20.1.1.10"), netip.MustParseAddr("20.1.1.20")
	gateway  = netip.MustParseAddr("20.1.1.254")
	macA     = datapath.MAC{2, 0, 0, 0, 0, 0xa}
	macB     = datapath.MAC{2, 0, 0, 0, 0, 0xb}
)

func newTracker(t *testing.T, held map[netip.Addr]datapath.MAC) (*Tracker, *fakeSystem, *fakeTable) {
	t.Helper()
	if held == nil {
		held = make(map[netip.Addr]datapath.MAC)
	}
	system, table := newFakeSystem(), &fakeTable{macs: held}
	tracker, err := New(system, table, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return tracker, system, table
}

func want(t *testing.T, tracker *Tracker, backends ...netip.Addr) {
	t.Helper()
	if err := tracker.Want(t.Context(), backends); err != nil {
		t.Fatal(err)
	}
}

func TestKnownNeighbourIsCopiedAtOnce(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	if table.of(be1) != macA || system.timesAsked(be1) != 0 {
		t.Errorf("got %s, asked %d times", table.of(be1), system.timesAsked(be1))
	}
}

func TestWantWaitsForAnAnswer(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.onResolve = func(next netip.Addr) { system.set(tracker, next, Entry{State: Valid, MAC: macA}) }
	want(t, tracker, be1)
	if table.of(be1) != macA || system.timesAsked(be1) != 1 {
		t.Errorf("got %s, asked %d times", table.of(be1), system.timesAsked(be1))
	}
}

func TestWantDoesNotWaitLongForOneThatIsSilent(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	begin := time.Now()
	want(t, tracker, be1)
	if waited := time.Since(begin); waited < patience || waited > 10*patience {
		t.Errorf("waited %s", waited)
	}
	if (table.of(be1) != datapath.MAC{}) || system.timesAsked(be1) != 1 {
		t.Errorf("got %s, asked %d times", table.of(be1), system.timesAsked(be1))
	}
}

func TestBackendBehindAGatewayGetsTheGatewaysMAC(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.gateways[be1] = gateway
	system.entries[gateway] = Entry{State: Valid, MAC: macB}
	want(t, tracker, be1)
	if list := tracker.List(); table.of(be1) != macB || len(list) != 1 || list[0].NextHop != gateway || list[0].MAC != macB.String() {
		t.Errorf("got %s, listed %+v", table.of(be1), list)
	}
}

func TestChangedMACIsFollowed(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	system.set(tracker, be1, Entry{State: Valid, MAC: macB})
	if table.of(be1) != macB {
		t.Errorf("got %s", table.of(be1))
	}
}

func TestChangedRouteIsFollowed(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	system.entries[gateway] = Entry{State: Valid, MAC: macB}
	want(t, tracker, be1)
	system.gateways[be1] = gateway
	tracker.resync()
	if table.of(be1) != macB {
		t.Errorf("through the gateway: got %s", table.of(be1))
	}
	system.noRoute[be1] = true
	tracker.resync()
	if (table.of(be1) != datapath.MAC{}) {
		t.Errorf("without a route: got %s", table.of(be1))
	}
	delete(system.noRoute, be1)
	tracker.tick(time.Now().Add(time.Minute))
	if table.of(be1) != macB {
		t.Errorf("with a route again: got %s", table.of(be1))
	}
}

func TestFailedNeighbourLeavesTheMapAndIsTriedAgain(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	system.set(tracker, be1, Entry{State: Failed})
	if (table.of(be1) != datapath.MAC{}) {
		t.Errorf("got %s", table.of(be1))
	}
	for _, wait := range []time.Duration{tickEvery, time.Minute} {
		before := system.timesAsked(be1)
		tracker.tick(time.Now().Add(wait))
		if system.timesAsked(be1) != before+1 {
			t.Errorf("after %s: asked %d times more", wait, system.timesAsked(be1)-before)
		}
	}
	system.set(tracker, be1, Entry{State: Valid, MAC: macB})
	if table.of(be1) != macB {
		t.Errorf("when it came back: got %s", table.of(be1))
	}
}

func TestTriesBecomeRarer(t *testing.T) {
	tracker, system, _ := newTracker(t, nil)
	want(t, tracker, be1)
	start := time.Now()
	var tries []int
	for second := range 120 {
		// The planned times are counted from the real clock, which hardly moves here.
		tracker.mu.Lock()
		tracker.hops[be1].due = tracker.hops[be1].due.Add(-time.Second)
		tracker.mu.Unlock()
		before := system.timesAsked(be1)
		tracker.tick(start)
		if system.timesAsked(be1) > before {
			tries = append(tries, second)
		}
	}
	// One a second would be 120; a backend that comes back waits for the next one.
	if len(tries) < 15 || len(tries) > 25 {
		t.Errorf("tried in the seconds %v of two minutes", tries)
	}
	if last := len(tries) - 1; last > 0 && tries[last]-tries[last-1] > 7 {
		t.Errorf("the pauses grow without end: %v", tries)
	}
}

func TestEntryThatTheSystemDropsKeepsItsMACAndIsAskedFor(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	system.set(tracker, be1, Entry{})
	if table.of(be1) != macA {
		t.Errorf("got %s", table.of(be1))
	}
	tracker.tick(time.Now().Add(2 * tickEvery))
	if system.timesAsked(be1) != 1 {
		t.Errorf("asked %d times", system.timesAsked(be1))
	}
}

func TestKnownNeighboursAreProbed(t *testing.T) {
	tracker, system, _ := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	tracker.tick(time.Now().Add(probeEvery / 2))
	if system.timesAsked(be1) != 0 {
		t.Error("probed too early")
	}
	tracker.tick(time.Now().Add(probeEvery + time.Second))
	if system.timesAsked(be1) != 1 {
		t.Errorf("probed %d times", system.timesAsked(be1))
	}
}

func TestDroppedBackendLosesItsMAC(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	system.entries[be2] = Entry{State: Valid, MAC: macB}
	want(t, tracker, be1)
	want(t, tracker, be2) // be1 is wanted still
	if table.of(be1) != macA || table.of(be2) != macB {
		t.Fatalf("got %v", table.macs)
	}
	if err := tracker.Drop(be1); err != nil {
		t.Fatal(err)
	}
	if (table.of(be1) != datapath.MAC{}) || table.of(be2) != macB {
		t.Errorf("left: %v", table.macs)
	}
	if list := tracker.List(); len(list) != 1 || list[0].Address != be2 {
		t.Errorf("listed %+v", list)
	}
	if mac, err := tracker.MAC(be1); err == nil {
		t.Errorf("its MAC is %s", mac)
	}
	if mac, err := tracker.MAC(be2); err != nil || mac != macB {
		t.Errorf("the other's MAC is %s, %v", mac, err)
	}
	system.set(tracker, be1, Entry{State: Valid, MAC: macB})
	if (table.of(be1) != datapath.MAC{}) {
		t.Error("it is followed still")
	}
}

func TestTakenOverMACsStayUntilTheSystemKnowsBetter(t *testing.T) {
	tracker, system, table := newTracker(t, map[netip.Addr]datapath.MAC{be1: macA, be2: macA})
	system.entries[be2] = Entry{State: Valid, MAC: macB}
	begin := time.Now()
	want(t, tracker, be1, be2)
	if table.of(be1) != macA || table.of(be2) != macB {
		t.Errorf("got %v", table.macs)
	}
	if waited := time.Since(begin); waited > patience/2 {
		t.Errorf("waited %s for MACs that were there", waited)
	}
	tracker.tick(time.Now().Add(tickEvery))
	if system.timesAsked(be1) == 0 {
		t.Error("nobody asks whether the MAC is still right")
	}
}

func TestIPv6BackendsAreFollowedLikeIPv4s(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	direct, routed, router := netip.MustParseAddr("fd00::10"), netip.MustParseAddr("fd00:30::1"), netip.MustParseAddr("fe80::1")
	system.gateways[routed] = router
	system.entries[direct] = Entry{State: Valid, MAC: macA}
	system.entries[router] = Entry{State: Valid, MAC: macB}
	want(t, tracker, direct, routed, be1)
	if table.of(direct) != macA || table.of(routed) != macB || (table.of(be1) != datapath.MAC{}) {
		t.Errorf("got %v", table.macs)
	}
	system.set(tracker, router, Entry{State: Failed})
	if table.of(direct) != macA || (table.of(routed) != datapath.MAC{}) {
		t.Errorf("after the router failed: %v", table.macs)
	}
}

func TestRefreshAsksAnewAndKeepsTheOldMACMeanwhile(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	system.onResolve = func(next netip.Addr) {
		if table.of(be1) != macA {
			t.Errorf("while it asks the map has %s", table.of(be1))
		}
		system.set(tracker, next, Entry{State: Valid, MAC: macB})
	}
	n, err := tracker.Refresh(t.Context(), be1)
	if err != nil || n.MAC != macB.String() || table.of(be1) != macB {
		t.Errorf("got %+v, %v", n, err)
	}
}

func TestRefreshSaysThatNobodyAnswered(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	system.onResolve = func(next netip.Addr) { system.set(tracker, next, Entry{State: Failed}) }
	n, err := tracker.Refresh(t.Context(), be1)
	if err != nil || n.MAC != "" || (table.of(be1) != datapath.MAC{}) {
		t.Errorf("got %+v, %v; the map has %s", n, err, table.of(be1))
	}
}

func TestRefreshOfAStrangerIsRefused(t *testing.T) {
	tracker, _, _ := newTracker(t, nil)
	if _, err := tracker.Refresh(t.Context(), be1); err == nil {
		t.Error("no error")
	}
}
