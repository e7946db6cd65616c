package capture

import (
	"context"
	"fmt"
	"time"
)

// LateStop ends a capture and returns all that it recorded.
type LateStop func() (frames []Frame, dropped uint64, err error)

// latePause is how long Wait takes to say that a capture cannot be watched:
// long enough that a caller who asks over and over does no harm.
const latePause = 20 * time.Millisecond

// Late returns the session of a capture that runs already and whose frames can
// be read only after its end: Wait returns ErrNotLive, Stop calls the function.
func Late(name string, stop LateStop) *Session {
	s := makeSession(name, 0)
	s.late = stop
	return s
}

func (s *Session) waitLate(ctx context.Context, condition func([]Frame) bool) error {
	s.mu.Lock()
	frames, ended := s.frames, s.ended
	s.mu.Unlock()
	if condition(frames) {
		return nil
	}
	if ended {
		return fmt.Errorf("capture on %s: %w after %d frames", s.name, ErrStopped, len(frames))
	}
	select {
	case <-ctx.Done():
	case <-time.After(latePause):
	}
	return fmt.Errorf("capture on %s: %w", s.name, ErrNotLive)
}

func (s *Session) finishLate() (Result, error) {
	frames, dropped, err := s.late()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(frames)
	s.ended = true
	result := Result{Frames: uint64(len(s.frames)), Dropped: dropped}
	if err != nil {
		return result, fmt.Errorf("stop capture on %s: %w", s.name, err)
	}
	return result, s.err
}
