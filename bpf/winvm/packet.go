package winvm

import "encoding/binary"

// The context, xdp_md_t of netebpfext/net_ebpf_ext_xdp_hooks.h: two pointers, where
// Linux has two u32, data_meta and ingress_ifindex. Its size is that of the C
// struct; the last four bytes are padding.
const (
	contextData    = 0
	contextDataEnd = 8
	contextMeta    = 16
	contextIfIndex = 24
	contextSize    = 32
)

// maxFrame is the longest frame, given or grown. Windows has no such limit but memory;
// a retreat that does not fit fails as one does there that finds no memory.
const maxFrame = 1 << 16

// staleByte fills the room in front of a frame, whose bytes on Windows are
// whatever lay there.
const staleByte = 0xa5

// packet is the buffer of the frame in a run.
type packet struct {
	buffer     []byte
	start, end int
	room       int // bytes in front of a received frame
	region     int // of regionPacket, the one that is valid
	moves      int // of bpf_xdp_adjust_head in this run
}

func (p *packet) frame() []byte { return p.buffer[p.start:p.end:p.end] }

// receive puts a frame into the buffer and writes the context.
func (m *Machine) receive(frame []byte) {
	p := &m.packet
	if need := p.room + len(frame); need > len(p.buffer) {
		p.buffer = make([]byte, need)
	}
	p.start, p.end = p.room, p.room+len(frame)
	for i := range p.buffer[:p.start] {
		p.buffer[i] = staleByte
	}
	copy(p.buffer[p.start:], frame)
	for i := range min(p.moves+1, packetRegions) {
		m.regions[regionPacket+i] = region{}
	}
	p.region, p.moves = 0, 0
	clear(m.context[:])
	binary.LittleEndian.PutUint32(m.context[contextIfIndex:], m.options.IfIndex)
	m.mapPacket()
}

// mapPacket makes the frame the memory of the current region, and the context's pointers
// its ends.
func (m *Machine) mapPacket() {
	number := regionPacket + m.packet.region
	m.regions[number] = plain(kindPacket, readAccess|writeAccess, m.packet.frame())
	binary.LittleEndian.PutUint64(m.context[contextData:], address(number, 0))
	binary.LittleEndian.PutUint64(m.context[contextDataEnd:], address(number, uint64(m.packet.end-m.packet.start)))
}

// helperAdjustHead is bpf_xdp_adjust_head: _net_ebpf_xdp_adjust_head of efW 0.21's
// netebpfext/net_ebpf_ext_xdp.c. It retreats with NdisRetreatNetBufferDataStart,
// which finds memory when there is no room in front, and then copies the frame to a new
// buffer whose new bytes are zero. It advances with NdisAdvanceNetBufferDataStart
// without asking whether the frame is that long. There is no least length, where
// Linux leaves at least an Ethernet header, and data_meta plays no part.
//
// PREVAIL takes all packet pointers for void afterwards, even when the helper failed or
// had nothing to do: the prototype says reallocate_packet. In profile XDP the
// prototype does not, and the helper does nothing.
func (m *Machine) helperAdjustHead() (uint64, *Fault) {
	if f := m.contextArgument(); f != nil {
		return 0, f
	}
	if m.options.Profile == XDP {
		return returned32(-1), nil
	}
	p := &m.packet
	delta := int(int32(m.registers[2]))
	length := p.end - p.start
	result := uint64(0)
	switch {
	case delta >= length:
		return 0, faultf(BadArgument, "bpf_xdp_adjust_head by %d of a frame of %d bytes: efW does not check it, and hands out a null or wild pointer", delta, length)
	case length-delta > maxFrame:
		result = returned32(-1)
	case delta > 0 || -delta <= p.start:
		p.start += delta
	default:
		p.reallocate(length - delta)
	}
	m.regions[regionPacket+p.region] = region{kind: kindStalePacket}
	p.moves++
	p.region = p.moves % packetRegions
	m.mapPacket()
	return result, nil
}

// reallocate moves the frame to the end of a buffer of the given length, with zeroes
// in front: _net_ebpf_ext_allocate_cloned_nbl.
func (p *packet) reallocate(length int) {
	if length > len(p.buffer) {
		larger := make([]byte, length)
		copy(larger[length-(p.end-p.start):], p.frame())
		p.buffer = larger
	} else {
		copy(p.buffer[length-(p.end-p.start):], p.frame())
		clear(p.buffer[:length-(p.end-p.start)])
	}
	p.start, p.end = 0, length
}

// contextArgument checks that r1 is the context.
func (m *Machine) contextArgument() *Fault {
	if m.registers[1] != address(regionContext, 0) {
		return faultf(BadArgument, "r1 is %#x, not the context", m.registers[1])
	}
	return nil
}
