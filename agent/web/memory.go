package web

import (
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// idleBeforeTrim is how long no connection is served before memory goes back.
const idleBeforeTrim = 200 * time.Millisecond

// connectionsBeforeTrim is how many connections make it worth a collection: a
// health check every second leaves nothing behind that is.
const connectionsBeforeTrim = 32

// Frugal tunes the Go runtime of this process, which is to do nothing else, for
// a small footprint: one processor, since each has caches of its own; a
// collection when the heap has grown by a quarter instead of doubled. Call it
// once, at the start.
func Frugal() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
}

// idleTrimmer returns freed memory to the system once the server has had no
// connection for a while. The runtime alone keeps what a burst left behind for
// minutes.
type idleTrimmer struct {
	mu    sync.Mutex
	busy  map[net.Conn]struct{}
	since int // connections since the last trim
	timer *time.Timer
}

func newIdleTrimmer() *idleTrimmer {
	t := &idleTrimmer{busy: map[net.Conn]struct{}{}}
	// Once after the start, whose garbage is a good part of a small heap.
	t.timer = time.AfterFunc(idleBeforeTrim, t.trim)
	return t
}

func (t *idleTrimmer) trim() {
	t.mu.Lock()
	t.since = 0
	t.mu.Unlock()
	debug.FreeOSMemory()
}

// connection is an http.Server's ConnState.
func (t *idleTrimmer) connection(c net.Conn, state http.ConnState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch state {
	case http.StateNew:
		t.since++
		fallthrough
	case http.StateActive:
		t.busy[c] = struct{}{}
		t.timer.Stop()
	case http.StateIdle, http.StateClosed, http.StateHijacked:
		delete(t.busy, c)
		if len(t.busy) == 0 && t.since >= connectionsBeforeTrim {
			t.timer.Reset(idleBeforeTrim)
		}
	}
}

func (t *idleTrimmer) stop() { t.timer.Stop() }
