// Package capture records the frames of one network interface, whole and with
// what the kernel says of each: when, in which direction, and whether its
// checksum was filled in yet. Nothing is lost silently: what the kernel could
// not hand over is counted in the Result.
//
//	session, err := capture.Start("be1", capture.Options{})
//	err = session.Wait(ctx, func(frames []capture.Frame) bool { return len(frames) >= 3 })
//	result, err := session.Stop()
//
// Start opens its socket in the network namespace of the calling thread; all
// else works from any thread. Frames are kept in memory: a capture is meant
// for the seconds of a test.
//
// Stream is Start for another machine, whose frames arrive over a stream at
// Remote; Late is for what can be read only at the end, such as a file that
// package pcapng reads. All three end in the same Session.
package capture

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors that a caller may want to tell apart.
var (
	// ErrNotSupported: captures need AF_PACKET sockets, which only Linux has.
	ErrNotSupported = errors.New("captures need Linux (AF_PACKET sockets)")
	// ErrMemoryBound: the frames exceeded Options.MaxBytes; later ones were not kept.
	ErrMemoryBound = errors.New("capture reached its memory bound")
	// ErrStopped: somebody waited for frames of a capture that has ended.
	ErrStopped = errors.New("capture has been stopped")
	// ErrNotLive: somebody waited for frames of a capture that gives them only
	// once it has ended. That is no fault of the capture's.
	ErrNotLive = errors.New("frames of this capture can be read only after its end")
	// ErrBroken: the stream of another machine's capture ended before the capture.
	ErrBroken = errors.New("stream of the capture broke off")
)

// Frame is one Ethernet frame as an interface saw it.
type Frame struct {
	Time time.Time
	// Data starts at the destination MAC. It is shorter than Length when a
	// filter asked for less.
	Data []byte
	// Length is the frame's length on the interface, in bytes. With
	// segmentation offload it can exceed the MTU.
	Length int
	// Outgoing says that the interface sent the frame (PACKET_OUTGOING). On
	// a machine's port of the switch that means: towards the machine.
	Outgoing bool
	// ChecksumPending says that the transport checksum was not filled in
	// when the frame was captured (TP_STATUS_CSUMNOTREADY): it is neither
	// right nor wrong.
	ChecksumPending bool
	// VLAN is the tag control information that the kernel took out of the
	// frame, 0 when there was none.
	VLAN uint16
}

// Truncated says that Data lacks the end of the frame.
func (f Frame) Truncated() bool { return len(f.Data) < f.Length }

// Direction is "out" for frames that the interface sent, else "in".
func (f Frame) Direction() string {
	if f.Outgoing {
		return "out"
	}
	return "in"
}

// Instruction is one instruction of a classic BPF filter, as the kernel's
// struct sock_filter and golang.org/x/net/bpf's RawInstruction have it.
type Instruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// Options tune a capture. The zero value records every frame in full.
type Options struct {
	// Filter, when given, runs in the kernel on each frame; what it returns
	// is the number of bytes kept, 0 for none.
	Filter []Instruction
	// RingBytes is the size of the buffer that the kernel fills, the bound
	// on what can wait unread; 0 means DefaultRingBytes.
	RingBytes int
	// MaxBytes bounds what the session keeps; 0 means DefaultMaxBytes.
	MaxBytes int
}

// Defaults of Options. The ring holds what a link of 1 Gbit/s carries in 60 ms, and
// what trickles in for 700 ms: on a busy machine a reader is kept waiting that long.
const (
	DefaultRingBytes = 8 << 20
	DefaultMaxBytes  = 512 << 20
)

// Result is what a capture ends with.
type Result struct {
	// Frames were recorded.
	Frames uint64
	// Dropped passed the interface and the filter, but found the ring full.
	Dropped uint64
}

// Place is where a capture listens: a machine's own interface, or its port on
// the switch. What the two see differs, since a program at the XDP hook
// changes packets before the machine's own interface shows them.
type Place struct {
	Machine string
	Port    bool
}

// String returns "lb port" or "be1 eth0".
func (p Place) String() string {
	if p.Port {
		return p.Machine + " port"
	}
	return p.Machine + " eth0"
}

// ParsePlace is the inverse of String.
func ParsePlace(s string) (Place, error) {
	machine, where, ok := strings.Cut(s, " ")
	if !ok || machine == "" || (where != "port" && where != "eth0") {
		return Place{}, fmt.Errorf("place %q: want \"MACHINE port\" or \"MACHINE eth0\"", s)
	}
	return Place{Machine: machine, Port: where == "port"}, nil
}

// Recording is what one place saw.
type Recording struct {
	Place  Place
	Frames []Frame
	// Dropped frames passed the place without being recorded.
	Dropped uint64
}
