package winvm

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Profile is a combination of efW and of what provides the XDP hook.
type Profile int

const (
	// EFW021 is efW 0.21.1 with its own hook XDP_TEST, whose bpf_xdp_adjust_head works.
	EFW021 Profile = iota
	// XDP is efW 1.0 and later with XDP for Windows, whose bpf_xdp_adjust_head always
	// returns -1 (EbpfXdpAdjustHead of src/xdp/program.c; issues 891 and 457).
	XDP
)

func (p Profile) String() string {
	switch p {
	case EFW021:
		return "efw-0.21"
	case XDP:
		return "xdp"
	}
	return fmt.Sprintf("profile %d", int(p))
}

// ParseProfile reads a profile's name: "efw-0.21" or "xdp".
func ParseProfile(name string) (Profile, error) {
	for _, p := range []Profile{EFW021, XDP} {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no profile %q: efw-0.21 and xdp are known", name)
}

// Options say what machine to simulate. The zero value is one processor of efW 0.21.
type Options struct {
	Profile Profile
	// CPUs is the number of processors, which is the number of values of a per-CPU
	// map's element. 0: one.
	CPUs int
	// Headroom is how many bytes in front of the frame belong to its buffer. When
	// bpf_xdp_adjust_head asks for more, efW copies the frame to new memory, which
	// no program can tell but by the bytes there: old ones (here 0xa5) in the
	// buffer, zeroes in new memory. 0: none, so that the copy is the rule.
	Headroom int
	// IfIndex is the context's ingress_ifindex.
	IfIndex uint32
	// MaxEntries overrides sizes of maps by name, also of an inner map by its outer
	// map's name and a dot: "maglev.". On Windows they are fixed in the image.
	MaxEntries map[string]uint32
	// Budget limits the instructions of one run. 0: a million.
	Budget int
	// SharedStack gives a function that a program calls its caller's stack frame
	// instead of one of its own. That is what bpf2c does, which makes the native
	// images: it passes r10 on as it is (emit_subprogram of bpf_code_generator.cpp,
	// 0.21.1 to 1.5.0), so that the function's variables overwrite its caller's.
	// PREVAIL reckons with a frame of its own.
	SharedStack bool
	// Clock is the time since the system started. Nil: since the machine was made.
	Clock func() time.Duration
	// Random gives bpf_get_prandom_u32 its numbers. Nil: random ones.
	Random func() uint32
	// Events takes the records of ring buffers and perf_event_arrays after each run,
	// in the order of the maps. Nil: they stay until [Map.Read], and a full ring
	// refuses more, as it does on Windows when nobody listens.
	Events func(from *Map, cpu int, record []byte)
}

const defaultBudget = 1_000_000

func (o Options) complete() (Options, error) {
	if o.Profile != EFW021 && o.Profile != XDP {
		return o, fmt.Errorf("winvm: %s", o.Profile)
	}
	if o.CPUs == 0 {
		o.CPUs = 1
	}
	if o.CPUs < 0 || o.CPUs > 1024 {
		return o, fmt.Errorf("winvm: %d processors", o.CPUs)
	}
	if o.Headroom < 0 || o.Headroom > maxFrame {
		return o, fmt.Errorf("winvm: headroom of %d bytes", o.Headroom)
	}
	if o.Budget == 0 {
		o.Budget = defaultBudget
	}
	if o.Clock == nil {
		start := time.Now()
		o.Clock = func() time.Duration { return time.Since(start) }
	}
	if o.Random == nil {
		o.Random = rand.Uint32
	}
	return o, nil
}
