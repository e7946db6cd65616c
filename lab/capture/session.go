package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// drainTimeout bounds how long Stop waits for frames that the kernel has
// counted but not yet handed over; it hands over every few milliseconds.
const drainTimeout = 2 * time.Second

// source is where frames come from.
type source interface {
	// next waits for frames and returns them, or an error once closed.
	next() ([]Frame, error)
	// mute ends the intake of new frames.
	mute() error
	// statistics returns how many frames were taken in and how many lost
	// since the start.
	statistics() (taken, dropped uint64, err error)
	// close ends next with an error.
	close() error
	// release frees memory, once next has returned for the last time.
	release() error
}

// Session is a running capture. Its methods may be called from any goroutine.
type Session struct {
	name     string
	source   source
	maxBytes int
	// forward, when not nil, gets the frames instead of the session's memory.
	forward func([]Frame) error
	// late, when not nil, stands in the place of source: see Late.
	late   LateStop
	reader chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	frames  []Frame
	bytes   int
	read    uint64 // frames handed over by the source, kept or not
	err     error
	ended   bool
	changed chan struct{} // closed and replaced whenever something above changes

	stop    sync.Once
	result  Result
	stopErr error
}

func newSession(name string, src source, maxBytes int) *Session {
	s := makeSession(name, maxBytes)
	s.source = src
	go s.readAll()
	return s
}

func makeSession(name string, maxBytes int) *Session {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBytes
	}
	return &Session{name: name, maxBytes: maxBytes, reader: make(chan struct{}), changed: make(chan struct{})}
}

func (s *Session) readAll() {
	defer close(s.reader)
	for {
		frames, err := s.source.next()
		var lost error
		if s.forward != nil && len(frames) > 0 {
			lost = s.forward(frames)
		}
		s.mu.Lock()
		s.keep(frames)
		switch {
		case s.err != nil:
		case lost != nil:
			s.err = fmt.Errorf("capture on %s: hand its frames on: %w", s.name, lost)
		case errors.Is(err, ErrBroken):
			s.err = fmt.Errorf("capture on %s: %w", s.name, err)
		}
		if err != nil {
			s.ended = true
		}
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// keep appends frames up to the memory bound. The caller holds the lock.
func (s *Session) keep(frames []Frame) {
	s.read += uint64(len(frames))
	if s.forward != nil {
		return
	}
	for i, f := range frames {
		if s.err != nil {
			return
		}
		if s.bytes+len(f.Data) > s.maxBytes {
			s.err = fmt.Errorf("capture on %s: %w: %d frames in %d bytes, %d more bytes would exceed %d; capture less or raise MaxBytes",
				s.name, ErrMemoryBound, len(s.frames), s.bytes, len(f.Data), s.maxBytes)
			return
		}
		s.bytes += len(f.Data)
		s.frames = append(s.frames, frames[i])
	}
}

// Frames returns what was recorded so far, in the order of the interface. The
// frames are shared: do not change them.
func (s *Session) Frames() []Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames[:len(s.frames):len(s.frames)]
}

// Wait returns nil as soon as the condition holds for the frames recorded so
// far. It asks anew whenever frames arrive, always with all frames. It fails
// when the context ends, the capture is stopped, or the memory bound is reached;
// with ErrNotLive when frames can be read only after the end.
func (s *Session) Wait(ctx context.Context, condition func([]Frame) bool) error {
	if s.late != nil {
		return s.waitLate(ctx, condition)
	}
	for {
		s.mu.Lock()
		frames, changed, ended, err := s.frames[:len(s.frames):len(s.frames)], s.changed, s.ended, s.err
		s.mu.Unlock()
		if condition(frames) {
			return nil
		}
		if err != nil {
			return err
		}
		if ended {
			return fmt.Errorf("capture on %s: %w after %d frames", s.name, ErrStopped, len(frames))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("capture on %s: waited for frames, %d came: %w", s.name, len(frames), context.Cause(ctx))
		}
	}
}

// Stop ends the capture and frees its resources. Every frame that passed the
// interface before the call is in Frames afterwards or counted as dropped.
// Further calls return the same again.
func (s *Session) Stop() (Result, error) {
	s.stop.Do(func() { s.result, s.stopErr = s.finish() })
	return s.result, s.stopErr
}

func (s *Session) finish() (Result, error) {
	if s.late != nil {
		return s.finishLate()
	}
	muteErr := s.source.mute()
	taken, dropped, statErr := s.source.statistics()
	var drainErr error
	if muteErr == nil && statErr == nil {
		drainErr = s.drain(taken)
	}
	closeErr := s.source.close()
	<-s.reader
	releaseErr := s.source.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	result := Result{Frames: uint64(len(s.frames)), Dropped: dropped}
	if s.forward != nil {
		result.Frames = s.read
	}
	if err := errors.Join(muteErr, statErr, drainErr, closeErr, releaseErr); err != nil {
		return result, fmt.Errorf("stop capture on %s: %w", s.name, err)
	}
	return result, s.err
}

// drain waits until the reader has seen as many frames as the kernel took in.
func (s *Session) drain(taken uint64) error {
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		read, changed, ended := s.read, s.changed, s.ended
		s.mu.Unlock()
		if read >= taken || ended {
			return nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return fmt.Errorf("the kernel took in %d frames but handed over only %d within %s", taken, read, drainTimeout)
		}
	}
}
