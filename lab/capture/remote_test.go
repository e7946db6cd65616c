package capture

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// streaming sends a fake capture over a pipe, as a machine elsewhere would, until stop.
func streaming(src *fakeSource) (stream io.Reader, stop func() error, ended <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := streamTo(ctx, newEncoder(w), "t", src)
		w.CloseWithError(err) // nil is io.EOF
		done <- err
	}()
	return r, func() error { cancel(); return nil }, done
}

func TestRemoteIsWatchedWhileItRunsAndEndsWithTheOtherSidesCount(t *testing.T) {
	src := newFakeSource()
	src.taken, src.dropped = 3, 5
	stream, stop, ended := streaming(src)
	s, err := Remote("be3 eth0", stream, stop)
	if err != nil {
		t.Fatal(err)
	}
	first := frame(1)
	first.Outgoing, first.ChecksumPending, first.VLAN, first.Length = true, true, 7, 1500
	src.feed <- []Frame{first}
	if err := s.Wait(t.Context(), func(f []Frame) bool { return len(f) == 1 }); err != nil {
		t.Fatal(err)
	}
	go func() { src.feed <- []Frame{frame(2), frame(3)} }() // on its way when Stop is called
	result, err := s.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if result != (Result{Frames: 3, Dropped: 5}) || len(s.Frames()) != 3 {
		t.Errorf("Stop = %+v with %d frames, want 3 and 5 dropped", result, len(s.Frames()))
	}
	got := s.Frames()[0]
	if !got.Time.Equal(first.Time) || string(got.Data) != string(first.Data) || got.Length != 1500 || !got.Outgoing || !got.ChecksumPending || got.VLAN != 7 {
		t.Errorf("frame arrived as %+v, was %+v", got, first)
	}
	if err := <-ended; err != nil {
		t.Errorf("the other side ended with %v", err)
	}
}

func TestRemoteWhoseStreamBreaksOffIsAnError(t *testing.T) {
	src := newFakeSource()
	r, w := io.Pipe()
	go func() {
		_ = streamTo(t.Context(), newEncoder(w), "t", src)
	}()
	s, err := Remote("be3 eth0", r, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	src.feed <- []Frame{frame(1)}
	if err := s.Wait(t.Context(), func(f []Frame) bool { return len(f) == 1 }); err != nil {
		t.Fatal(err)
	}
	w.CloseWithError(errors.New("the cable was pulled"))
	if err := s.Wait(t.Context(), func([]Frame) bool { return false }); !errors.Is(err, ErrBroken) {
		t.Errorf("Wait = %v, want ErrBroken", err)
	}
	if _, err := s.Stop(); !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "the cable was pulled") {
		t.Errorf("Stop = %v, want ErrBroken and the reason", err)
	}
	if len(s.Frames()) != 1 {
		t.Errorf("%d frames are left of the one that came", len(s.Frames()))
	}
}

func TestRemoteSaysWhyTheOtherSideCouldNotBegin(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		err := Stream(t.Context(), w, "no-such-if", Options{})
		w.CloseWithError(err)
	}()
	_, err := Remote("be3 eth0", r, func() error { return nil })
	if err == nil || !strings.Contains(err.Error(), "no-such-if") {
		t.Errorf("Remote = %v, want the other side's error", err)
	}
}

func TestRemoteOfSomethingElseIsAnError(t *testing.T) {
	for _, text := range []string{"", "bash: lbagent: not found\n", strings.Repeat("x", 5000)} {
		stopped := false
		_, err := Remote("be3 eth0", strings.NewReader(text), func() error { stopped = true; return nil })
		if !errors.Is(err, ErrBroken) || !stopped {
			t.Errorf("Remote of %.10q = %v, stopped %v; want ErrBroken", text, err, stopped)
		}
	}
}

func TestStreamWhoseReaderGoesAwayEnds(t *testing.T) {
	src := newFakeSource()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- streamTo(t.Context(), newEncoder(w), "t", src) }()
	if _, err := newDecoder(r).decode(); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	r.CloseWithError(gone)
	src.feed <- []Frame{frame(1)}
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("Stream = %v, want the writer's error", err)
	}
}

func TestLateGivesItsFramesAtTheEnd(t *testing.T) {
	calls := 0
	s := Late("lb port", func() ([]Frame, uint64, error) { calls++; return []Frame{frame(1), frame(2)}, 4, nil })
	began := time.Now()
	if err := s.Wait(t.Context(), func(f []Frame) bool { return len(f) > 0 }); !errors.Is(err, ErrNotLive) {
		t.Errorf("Wait = %v, want ErrNotLive", err)
	}
	if time.Since(began) < latePause {
		t.Error("Wait did not pause: who asks in a loop would burn a processor")
	}
	if err := s.Wait(t.Context(), func([]Frame) bool { return true }); err != nil {
		t.Errorf("Wait for what holds already = %v", err)
	}
	for range 2 {
		result, err := s.Stop()
		if err != nil || result != (Result{Frames: 2, Dropped: 4}) || calls != 1 {
			t.Errorf("Stop = %+v, %v after %d calls; want 2 frames, 4 dropped, 1 call", result, err, calls)
		}
	}
	if err := s.Wait(t.Context(), func(f []Frame) bool { return len(f) == 2 }); err != nil {
		t.Errorf("Wait after the end = %v", err)
	}
}

func TestLateThatFailsKeepsWhatItGot(t *testing.T) {
	broken := errors.New("file is damaged")
	s := Late("lb port", func() ([]Frame, uint64, error) { return []Frame{frame(1)}, 0, broken })
	if _, err := s.Stop(); !errors.Is(err, broken) {
		t.Errorf("Stop = %v, want the reason", err)
	}
	if len(s.Frames()) != 1 {
		t.Errorf("%d frames, want the one", len(s.Frames()))
	}
}
