package wsman

import (
	"context"
	"io"
	"sync"
	"time"
)

// buffered is how many bytes of a stream are kept before its writer waits, as
// a pipe's would.
const buffered = 1 << 20

// command is a process in a shell.
type command struct {
	id     string
	cancel context.CancelFunc
	stdin  *pipe

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	out     [2][]byte     // stdout, stderr: not delivered yet
	done    bool
	closed  bool // terminated: nothing more is delivered
	code    int
}

var streamNames = [2]string{"stdout", "stderr"}

// start runs a process; its context is not a request's, since it outlives them.
func start(run func(context.Context, Process) int, p Process) *command {
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{id: newID(), cancel: cancel, stdin: newPipe(), changed: make(chan struct{})}
	p.Stdin, p.Stdout, p.Stderr = c.stdin, outputStream{ctx, c, 0}, outputStream{ctx, c, 1}
	go func() {
		code := run(ctx, p)
		c.stdin.close(io.ErrClosedPipe)
		c.update(func() { c.done, c.code = true, code })
		cancel()
	}()
	return c
}

// update changes state and wakes who waits for it.
func (c *command) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// interrupt is Ctrl-C: the process hears of it and what it still writes arrives.
func (c *command) interrupt() {
	c.cancel()
	c.stdin.close(io.EOF)
}

// terminate ends the process; nothing more of it is delivered.
func (c *command) terminate() {
	// First, or a process that sees its input end has its last words delivered.
	c.update(func() { c.closed = true })
	c.interrupt()
}

// running says whether the process has not ended.
func (c *command) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.done
}

// output is what one Receive delivers.
type output struct {
	data [2][]byte
	done bool
	code int
}

// receive waits for output or the end. Without either in time it is a timeout's fault.
func (c *command) receive(ctx context.Context, limit int, wait time.Duration) (output, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return output{}, aborted()
		}
		if len(c.out[0])+len(c.out[1]) > 0 || c.done {
			o := c.take(limit)
			c.mu.Unlock()
			return o, nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			return output{}, timedOut()
		case <-ctx.Done():
			return output{}, ctx.Err()
		}
	}
}

// take removes up to limit bytes; the state is Done once all is delivered.
func (c *command) take(limit int) output {
	var o output
	for i := range c.out {
		n := min(len(c.out[i]), limit)
		o.data[i], c.out[i] = c.out[i][:n:n], c.out[i][n:]
		limit -= n
	}
	if len(c.out[0])+len(c.out[1]) == 0 {
		o.done, o.code = c.done, c.code
	}
	close(c.changed) // writers may go on
	c.changed = make(chan struct{})
	return o
}

// outputStream is a process's stdout or stderr.
type outputStream struct {
	ctx context.Context
	c   *command
	at  int
}

func (s outputStream) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		s.c.mu.Lock()
		room := buffered - len(s.c.out[s.at])
		closed, changed := s.c.closed, s.c.changed
		s.c.mu.Unlock()
		if closed {
			return written, io.ErrClosedPipe
		}
		if room <= 0 {
			select {
			case <-changed:
				continue
			case <-s.ctx.Done():
				return written, context.Cause(s.ctx)
			}
		}
		n := min(room, len(b))
		s.c.update(func() { s.c.out[s.at] = append(s.c.out[s.at], b[:n]...) })
		b, written = b[n:], written+n
	}
	return written, nil
}

// pipe is a process's standard input.
type pipe struct {
	mu      sync.Mutex
	changed *sync.Cond
	data    []byte
	end     error // once data is read
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 && p.end == nil {
		p.changed.Wait()
	}
	if len(p.data) == 0 {
		return 0, p.end
	}
	n := copy(b, p.data)
	p.data = p.data[n:]
	p.changed.Broadcast()
	return n, nil
}

// send appends what the process will read. It waits for room; what has none in
// time is not taken, and the fault says so.
func (p *pipe) send(b []byte, wait time.Duration) error {
	until := time.Now().Add(wait)
	defer time.AfterFunc(wait, func() {
		p.mu.Lock() // not between the check below and its Wait
		defer p.mu.Unlock()
		p.changed.Broadcast()
	}).Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) >= buffered && p.end == nil {
		if !time.Now().Before(until) {
			return timedOut()
		}
		p.changed.Wait()
	}
	if p.end != nil {
		return pipeClosing()
	}
	p.data = append(p.data, b...)
	p.changed.Broadcast()
	return nil
}

// close ends the stream after what was sent. The first reason stays.
func (p *pipe) close(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil {
		p.end = reason
	}
	p.changed.Broadcast()
}
