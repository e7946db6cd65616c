package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// fakeSource hands over what a test feeds it.
type fakeSource struct {
	feed           chan []Frame
	closed         chan struct{}
	taken, dropped uint64
}

func newFakeSource() *fakeSource {
	return &fakeSource{feed: make(chan []Frame), closed: make(chan struct{})}
}

func (f *fakeSource) next() ([]Frame, error) {
	select {
	case frames := <-f.feed:
		return frames, nil
	case <-f.closed:
		return nil, io.EOF
	}
}

func (f *fakeSource) mute() error                         { return nil }
func (f *fakeSource) statistics() (uint64, uint64, error) { return f.taken, f.dropped, nil }
func (f *fakeSource) close() error                        { close(f.closed); return nil }
func (f *fakeSource) release() error                      { return nil }

func frame(n int) Frame {
	return Frame{Time: time.Unix(1, int64(n)), Data: bytes.Repeat([]byte{byte(n)}, 60), Length: 60}
}

func TestWaitReturnsOnceTheConditionHolds(t *testing.T) {
	src := newFakeSource()
	s := newSession("t", src, 0)
	done := make(chan error, 1)
	go func() {
		done <- s.Wait(t.Context(), func(frames []Frame) bool { return len(frames) == 3 })
	}()
	src.feed <- []Frame{frame(1)}
	src.feed <- []Frame{frame(2), frame(3)}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestWaitEndsWithTheContextAndNamesItsCause(t *testing.T) {
	s := newSession("t", newFakeSource(), 0)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the reason")
	cancel(cause)
	if err := s.Wait(ctx, func([]Frame) bool { return false }); !errors.Is(err, cause) {
		t.Errorf("Wait = %v, want the cause", err)
	}
	if _, err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), func([]Frame) bool { return false }); !errors.Is(err, ErrStopped) {
		t.Errorf("Wait after Stop = %v, want ErrStopped", err)
	}
}

func TestStopWaitsForFramesThatTheKernelHasTakenIn(t *testing.T) {
	src := newFakeSource()
	src.taken, src.dropped = 2, 7
	s := newSession("t", src, 0)
	src.feed <- []Frame{frame(1)}
	stopped := make(chan Result, 1)
	go func() {
		r, err := s.Stop()
		if err != nil {
			t.Error(err)
		}
		stopped <- r
	}()
	src.feed <- []Frame{frame(2)}
	if r := <-stopped; r != (Result{Frames: 2, Dropped: 7}) {
		t.Errorf("Stop = %+v, want 2 frames and 7 dropped", r)
	}
	again, err := s.Stop()
	if err != nil || again.Frames != 2 {
		t.Errorf("second Stop = %+v, %v, want the same again", again, err)
	}
}

func TestMemoryBoundIsAnErrorAndKeepsTheEarlierFrames(t *testing.T) {
	src := newFakeSource()
	src.taken = 3
	s := newSession("t", src, 130)
	src.feed <- []Frame{frame(1), frame(2), frame(3)}
	r, err := s.Stop()
	if !errors.Is(err, ErrMemoryBound) {
		t.Errorf("Stop error = %v, want ErrMemoryBound", err)
	}
	if r.Frames != 2 || len(s.Frames()) != 2 {
		t.Errorf("kept %d frames, want 2", r.Frames)
	}
}

func TestPlaceNamesItself(t *testing.T) {
	for _, p := range []Place{{"lb", true}, {"be1", false}} {
		back, err := ParsePlace(p.String())
		if err != nil || back != p {
			t.Errorf("ParsePlace(%q) = %v, %v", p.String(), back, err)
		}
	}
	for _, bad := range []string{"", "lb", "lb wire", " port"} {
		if p, err := ParsePlace(bad); err == nil {
			t.Errorf("ParsePlace(%q) = %v, want an error", bad, p)
		}
	}
}
