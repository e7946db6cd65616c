package neighbour

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/datapath"
)

func TestRefreshDoesNotReportAMACThatNobodyConfirmed(t *testing.T) {
	tracker, system, table := newTracker(t, nil)
	system.entries[be1] = Entry{State: Valid, MAC: macA}
	want(t, tracker, be1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	n, err := tracker.Refresh(ctx, be1) // its entry stays Unknown
	if err != nil || n.MAC != "" {
		t.Errorf("got %+v, %v", n, err)
	}
	if table.of(be1) != macA {
		t.Errorf("the map has %s: that nobody has answered yet says nothing", table.of(be1))
	}
}

func TestRunEndsAfterItsTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker, system, _ := newTracker(t, map[netip.Addr]datapath.MAC{})
		want(t, tracker, be1)
		ctx, cancel := context.WithCancel(t.Context())
		var ticking atomic.Bool
		read := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			_ = tracker.Run(ctx)
			if ticking.Load() {
				t.Error("Run has ended and its tick goes on")
			}
			close(ended)
		}()
		synctest.Wait() // Run has read everything once
		tracker.mu.Lock()
		system.onEntries = func() {
			ticking.Store(true)
			<-read
			ticking.Store(false)
		}
		tracker.mu.Unlock()
		time.Sleep(2 * tickEvery) // synctest's clock: the tick is at the system's table now
		synctest.Wait()
		if !ticking.Load() {
			t.Fatal("no tick came")
		}
		cancel()
		synctest.Wait()
		close(read)
		<-ended
	})
}

func TestPatienceIsForAllSilentBackendsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker, _, table := newTracker(t, nil)
		begin := time.Now()
		want(t, tracker, be1, be2, gateway)
		if waited := time.Since(begin); waited != patience {
			t.Errorf("waited %s for three, want %s", waited, patience)
		}
		want(t, tracker, be1, be2)
		if waited := time.Since(begin); waited != patience {
			t.Errorf("known ones are waited for again: %s", waited)
		}
		if left := slices.Collect(maps.Keys(table.macs)); len(left) != 0 {
			t.Errorf("the map has %v", left)
		}
	})
}
