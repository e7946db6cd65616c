package neighbour

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestChangesOfABurstAreSeenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changes, ended := make(chan struct{}, 1), make(chan struct{})
		calls := 0
		go func() {
			gather(ctx, changes, func() { calls++ })
			close(ended)
		}()
		for range 4 { // one each 20 ms, which must not put the call off for ever
			changes <- struct{}{}
			time.Sleep(resyncDelay * 2 / 5)
		}
		time.Sleep(2 * resyncDelay)
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls for a burst of 60 ms, want 2", calls)
		}
		changes <- struct{}{}
		synctest.Wait()
		cancel()
		<-ended
		time.Sleep(2 * resyncDelay)
		if calls != 2 {
			t.Error("called after its end")
		}
	})
}
