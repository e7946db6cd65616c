package winvm

import (
	"encoding/binary"
	"fmt"
)

// An address is the number of a region and an offset into it. A pointer can
// therefore stray by half a terabyte without reaching another region, and 0 to
// 2^40-1 is nothing: small numbers are no pointers.
const (
	addressBits = 40
	offsetMask  = 1<<addressBits - 1
)

func address(region int, offset uint64) uint64 {
	return uint64(region)<<addressBits | offset
}

// The regions that every machine has; maps follow.
const (
	regionNull    = 0
	regionContext = 1
	// One region for each frame of program-local calls.
	regionStack = 2
	// The frame. bpf_xdp_adjust_head moves it on to the next of these regions, so
	// that a pointer from before is known as one.
	regionPacket  = regionStack + maxFrames
	packetRegions = 64
	regionMaps    = regionPacket + packetRegions
)

type access uint8

const (
	readAccess access = 1 << iota
	writeAccess
)

func (a access) String() string {
	if a == writeAccess {
		return "write"
	}
	return "read"
}

type regionKind uint8

const (
	kindUnused regionKind = iota
	kindContext
	kindStack
	kindPacket
	kindStalePacket
	kindMapHandle // a map's own address: an argument, not memory
	kindMapValue
)

// region is memory that a program may touch: slots of size bytes each, of which a
// program sees each 1<<shift bytes after the one before, so that it cannot walk
// from one map value into its neighbour, and which lie stride bytes apart in data.
type region struct {
	kind   regionKind
	allows access
	shift  uint8
	size   uint64
	stride uint64
	slots  uint64
	data   []byte
	// written has a byte for each byte of a stack frame: 1 once it was stored to.
	written []byte
	owner   *Map
}

// plain makes a region of one slot.
func plain(kind regionKind, allows access, data []byte) region {
	return region{kind: kind, allows: allows, shift: addressBits, size: uint64(len(data)), slots: 1, data: data}
}

// span finds size bytes at an address, or nil when the program may not touch them.
func (m *Machine) span(at, size uint64, how access) []byte {
	number := at >> addressBits
	if number >= uint64(len(m.regions)) {
		return nil
	}
	r := &m.regions[number]
	offset := at & offsetMask
	slot := offset >> r.shift
	offset &= 1<<r.shift - 1
	if slot >= r.slots || size > r.size || offset > r.size-size || r.allows&how != how {
		return nil
	}
	start := slot*r.stride + offset
	if r.written != nil && !r.track(start, size, how) {
		return nil
	}
	return r.data[start : start+size : start+size]
}

// track notes a store to the stack, and says whether all bytes of a load were stored.
func (r *region) track(start, size uint64, how access) bool {
	written := r.written[start : start+size]
	if how&readAccess != 0 {
		if size == 8 {
			if binary.LittleEndian.Uint64(written) != 0x0101010101010101 {
				return false
			}
		} else {
			for _, w := range written {
				if w == 0 {
					return false
				}
			}
		}
	}
	if how&writeAccess != 0 {
		if size == 8 {
			binary.LittleEndian.PutUint64(written, 0x0101010101010101)
		} else {
			for i := range written {
				written[i] = 1
			}
		}
	}
	return true
}

// writable is span for stores. The context is written so seldom that its region
// refuses, and what may be written of it is found here: PREVAIL lets a program
// store to any of its bytes, but one that overwrites data or data_end on Windows
// only loses the frame, so those two are refused.
func (m *Machine) writable(at, size uint64) []byte {
	if b := m.span(at, size, writeAccess); b != nil {
		return b
	}
	offset := at & offsetMask
	if at>>addressBits == regionContext && offset >= contextMeta && size <= contextSize && offset <= contextSize-size {
		return m.context[offset : offset+size]
	}
	return nil
}

// span is fast and silent; inaccessible says afterwards why it refused.
func (m *Machine) inaccessible(at, size uint64, how access) *Fault {
	what := fmt.Sprintf("%s of %d bytes", how, size)
	number := at >> addressBits
	switch {
	case at < 1<<16:
		return faultf(NullPointer, "%s at address %#x", what, at)
	case int64(at) < 0 && int64(at) > -1<<16:
		return faultf(NullPointer, "%s at address %d", what, int64(at))
	case number >= uint64(len(m.regions)):
		return faultf(NotAPointer, "%s at %#x", what, at)
	}
	r := &m.regions[number]
	offset := at & offsetMask
	var slot uint64
	// A pointer in front of a region looks like the far end of the one before it.
	if offset > offsetMask/2 && number+1 < uint64(len(m.regions)) {
		r = &m.regions[number+1]
		offset -= 1 << addressBits
	} else {
		slot = offset >> r.shift
		offset &= 1<<r.shift - 1
	}
	switch r.kind {
	case kindUnused:
		return faultf(NotAPointer, "%s at %#x", what, at)
	case kindMapHandle:
		return faultf(NotAPointer, "%s at the address of map %s itself", what, r.owner.name)
	case kindStalePacket:
		return faultf(StalePacket, "%s through a packet pointer from before bpf_xdp_adjust_head", what)
	case kindStack:
		if offset+size > r.size || offset > r.size {
			return faultf(OutOfBounds, "%s at r10%+d of a frame of %d bytes", what, int64(offset)-stackSize, stackSize)
		}
		return faultf(UninitializedStack, "%s at r10%+d, of which some were never written", what, int64(offset)-stackSize)
	case kindContext:
		if offset+size > uint64(len(r.data)) || offset > uint64(len(r.data)) {
			return faultf(OutOfBounds, "%s at offset %d of the context's %d", what, int64(offset), len(r.data))
		}
		return faultf(ReadOnly, "%s at offset %d of the context", what, offset)
	case kindPacket:
		return faultf(OutOfBounds, "%s at offset %d of a frame of %d", what, int64(offset), r.size)
	default:
		if slot >= r.slots {
			return faultf(NotAPointer, "%s behind the values of map %s", what, r.owner.name)
		}
		return faultf(OutOfBounds, "%s at offset %d of a value of %d bytes of map %s", what, int64(offset), r.size, r.owner.name)
	}
}

// bytes is span for helpers: it returns why the program may not touch the memory.
func (m *Machine) bytes(argument string, at, size uint64, how access) ([]byte, *Fault) {
	if size == 0 {
		return nil, nil
	}
	if b := m.span(at, size, how); b != nil {
		return b, nil
	}
	if how == writeAccess {
		if b := m.writable(at, size); b != nil {
			return b, nil
		}
	}
	f := m.inaccessible(at, size, how)
	f.Reason = argument + ": " + f.Reason
	return nil, f
}
