package powershell

import (
	"context"
	"io"
	"sync"
)

// input is a call's standard input between the caller's reader and the
// requests that carry it: what is there goes with the next request, so that
// single words travel at once and files in full envelopes.
type input struct {
	chunk int

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	data    []byte
	end     bool
	err     error
	gone    bool
}

func newInput(first []byte, stdin io.Reader, chunk int) *input {
	in := &input{chunk: chunk, changed: make(chan struct{}), data: first, end: stdin == nil}
	if stdin != nil {
		// It ends with the reader; a read that is under way when the command
		// ends is left behind, as nothing can interrupt it.
		go func() {
			err := copyLines(in, stdin)
			in.update(func() { in.end, in.err = true, err })
		}()
	}
	return in
}

func (in *input) update(change func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change()
	close(in.changed)
	in.changed = make(chan struct{})
}

// Write waits while two requests' worth is there.
func (in *input) Write(b []byte) (int, error) {
	for {
		in.mu.Lock()
		full, gone, changed := len(in.data) >= 2*in.chunk, in.gone, in.changed
		in.mu.Unlock()
		if gone {
			return 0, io.ErrClosedPipe
		}
		if !full {
			break
		}
		<-changed
	}
	in.update(func() { in.data = append(in.data, b...) })
	return len(b), nil
}

// abandon lets a writer that waits go.
func (in *input) abandon() { in.update(func() { in.gone = true }) }

// next returns what the next request carries; end says that it is the last.
func (in *input) next(ctx context.Context) (data []byte, end bool, err error) {
	for {
		in.mu.Lock()
		if in.end && in.err != nil {
			in.mu.Unlock()
			return nil, false, in.err
		}
		if len(in.data) > 0 || in.end {
			n := min(len(in.data), in.chunk)
			data, in.data = in.data[:n:n], in.data[n:]
			end = in.end && len(in.data) == 0
			close(in.changed)
			in.changed = make(chan struct{})
			in.mu.Unlock()
			return data, end, nil
		}
		changed := in.changed
		in.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}
