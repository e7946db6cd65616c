package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// endLimit bounds how long the other side may take to send its rest.
const endLimit = 30 * time.Second

// Stream captures on an interface, as Start does, and writes the frames as they
// come, until the context ends; then it writes what it ends with. Nothing is
// kept: what a slow reader leaves waiting is bounded by the ring, and what does
// not fit there is counted as dropped. Remote reads it.
func Stream(ctx context.Context, w io.Writer, iface string, opts Options) error {
	encoder := newEncoder(w)
	src, err := openInterface(iface, opts)
	if err != nil {
		return errors.Join(err, encoder.encode(message{Version: streamVersion, Error: err.Error()}))
	}
	return streamTo(ctx, encoder, iface, src)
}

func streamTo(ctx context.Context, encoder *encoder, name string, src source) error {
	ready := encoder.encode(message{Version: streamVersion, Ready: true})
	s := makeSession(name, 0)
	s.source = src
	s.forward = func(frames []Frame) error { return encoder.encode(message{Frames: frames}) }
	go s.readAll()
	if ready == nil {
		// The end of the context is the capture's; another error is the stream's.
		_ = s.Wait(ctx, func([]Frame) bool { return false })
	}
	result, err := s.Stop()
	if ready != nil || s.err != nil {
		return errors.Join(ready, err)
	}
	last := message{Result: &result}
	if err != nil {
		last.Error = err.Error()
	}
	return errors.Join(err, encoder.encode(last))
}

// Remote returns the session of a capture on another machine, whose Stream
// comes out of a reader: once that has said that it captures. Stop asks
// the other side to end by calling stop, and waits for the rest. A stream that is an
// io.Closer is closed when that takes too long.
func Remote(name string, stream io.Reader, stop func() error) (*Session, error) {
	r := &remote{decoder: newDecoder(stream), stop: stop, over: make(chan struct{})}
	r.cut = func() error { return nil }
	if closer, ok := stream.(io.Closer); ok {
		r.cut = closer.Close
	}
	first, err := r.decoder.decode()
	switch {
	case errors.Is(err, errMalformed): // an agent before version 2 sends gob
		err = fmt.Errorf("%w before it began: %w; push the agent again (labctl up)", ErrBroken, err)
	case err != nil:
		err = fmt.Errorf("%w before it began: %w", ErrBroken, err)
	case first.Error != "":
		err = errors.New(first.Error)
	case !first.Ready || first.Version != streamVersion:
		err = fmt.Errorf("the other side speaks version %d of the stream, this one %d; push the agent again (labctl up)", first.Version, streamVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", name, errors.Join(err, stop()))
	}
	return newSession(name, r, 0), nil
}

// remote is the source of a capture elsewhere.
type remote struct {
	decoder *decoder
	stop    func() error
	cut     func() error

	finish sync.Once
	over   chan struct{} // closed when nothing more will come
	result Result
	err    error
}

func (r *remote) next() ([]Frame, error) {
	m, err := r.decoder.decode()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrBroken, err)
		r.ended(Result{}, err)
		return nil, err
	}
	if m.Result != nil || m.Error != "" {
		var result Result
		if m.Result != nil {
			result = *m.Result
		}
		var err error
		if m.Error != "" {
			err = fmt.Errorf("on the other side: %s", m.Error)
		}
		r.ended(result, err)
		return m.Frames, io.EOF
	}
	return m.Frames, nil
}

func (r *remote) ended(result Result, err error) {
	r.finish.Do(func() {
		r.result, r.err = result, err
		close(r.over)
	})
}

// mute asks the other side to end.
func (r *remote) mute() error { return r.stop() }

// statistics waits for the other side's word.
func (r *remote) statistics() (taken, dropped uint64, err error) {
	patience := time.NewTimer(endLimit)
	defer patience.Stop()
	select {
	case <-r.over:
		return r.result.Frames, r.result.Dropped, r.err
	case <-patience.C:
		return 0, 0, fmt.Errorf("%w: no result within %s of its end", ErrBroken, endLimit)
	}
}

func (r *remote) close() error {
	select {
	case <-r.over:
		return nil
	default:
		return r.cut() // next waits in it
	}
}

func (r *remote) release() error { return nil }
