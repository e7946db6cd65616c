package winvm

import (
	"bytes"
	"encoding/binary"
)

// einval is what helpers for memory return, negative: C's, not efW's.
const einval = 22

// helperChecksumDiff is ebpf_core_csum_diff of ebpf_core.c. Unlike Linux' it adds
// 16-bit words into a signed 32-bit sum and folds nothing; a sum that comes out negative,
// as it does from a seed above 2^31, is an error.
func (m *Machine) helperChecksumDiff() (uint64, *Fault) {
	fromSize, toSize := int32(m.registers[2]), int32(m.registers[4])
	if fromSize%4 != 0 || toSize%4 != 0 {
		return returned32(-einval), nil
	}
	sum := int32(m.registers[5])
	for _, part := range []struct {
		name string
		at   uint64
		size int32
		flip uint16
	}{{"to in r3", m.registers[3], toSize, 0}, {"from in r1", m.registers[1], fromSize, 0xffff}} {
		if part.at == 0 || part.size <= 0 {
			continue
		}
		words, f := m.bytes(part.name, part.at, uint64(part.size), readAccess)
		if f != nil {
			return 0, f
		}
		for ; len(words) >= 2; words = words[2:] {
			sum += int32(binary.LittleEndian.Uint16(words) ^ part.flip)
		}
	}
	if sum < 0 {
		return returned32(-einval), nil
	}
	return returned32(sum), nil
}

// helperCopy is _ebpf_core_memcpy and _ebpf_core_memmove. Of memcpy_s with pieces that
// overlap Windows says nothing; here both move.
func (m *Machine) helperCopy() (uint64, *Fault) {
	size := m.registers[4]
	if size > m.registers[2] {
		return returned32(-einval), nil
	}
	from, f := m.bytes("source in r3", m.registers[3], size, readAccess)
	if f != nil {
		return 0, f
	}
	to, f := m.bytes("destination in r1", m.registers[1], m.registers[2], writeAccess)
	if f != nil {
		return 0, f
	}
	copy(to, from)
	return 0, nil
}

// helperCompare is _ebpf_core_memcmp: -1, 0 or 1, the shorter one first.
func (m *Machine) helperCompare() (uint64, *Fault) {
	a, f := m.bytes("buffer in r1", m.registers[1], m.registers[2], readAccess)
	if f != nil {
		return 0, f
	}
	b, f := m.bytes("buffer in r3", m.registers[3], m.registers[4], readAccess)
	if f != nil {
		return 0, f
	}
	return returned32(int32(bytes.Compare(a, b))), nil
}

// helperSet is _ebpf_core_memset, which returns the buffer.
func (m *Machine) helperSet() (uint64, *Fault) {
	to, f := m.bytes("buffer in r1", m.registers[1], m.registers[2], writeAccess)
	if f != nil {
		return 0, f
	}
	for i := range to {
		to[i] = byte(m.registers[3])
	}
	return m.registers[1], nil
}

// helperPrint is _ebpf_core_trace_printk while nobody traces: it looks at the length only.
func (m *Machine) helperPrint() (uint64, *Fault) {
	if _, f := m.bytes("format in r1", m.registers[1], m.registers[2], readAccess); f != nil {
		return 0, f
	}
	if m.registers[2] > 511 { // MAX_PRINTK_STRING_SIZE - 1
		return returned32(-1), nil
	}
	return 0, nil
}

// valueArgument finds the map of r1 and a value behind r2.
func (m *Machine) valueArgument(how access) (*Map, []byte, *Fault) {
	mp, f := m.mapArgument(1)
	if f != nil {
		return nil, nil, f
	}
	value, f := m.bytes("value in r2", m.registers[2], uint64(mp.ValueSize), how)
	return mp, value, f
}

// helperPush is _ebpf_core_map_push_elem. Of the flags only the bit of BPF_EXIST counts.
func (m *Machine) helperPush() (uint64, *Fault) {
	mp, value, f := m.valueArgument(readAccess)
	if f != nil {
		return 0, f
	}
	list, ok := mp.entries.(*listEntries)
	if !ok {
		// efW would hand a null key to the map, which refuses it.
		return returned32(-int32(InvalidArgument)), nil
	}
	return returned32(-int32(list.update(nil, value, Flag(m.registers[3])))), nil
}

// helperPop and helperPeek are _ebpf_core_map_pop_elem and _ebpf_core_map_peek_elem.
func (m *Machine) helperPop() (uint64, *Fault)  { return m.takeElement((*listEntries).pop) }
func (m *Machine) helperPeek() (uint64, *Fault) { return m.takeElement((*listEntries).peek) }

func (m *Machine) takeElement(take func(*listEntries) (int, Code)) (uint64, *Fault) {
	mp, value, f := m.valueArgument(writeAccess)
	if f != nil {
		return 0, f
	}
	list, ok := mp.entries.(*listEntries)
	if !ok {
		return returned32(-int32(InvalidArgument)), nil
	}
	slot, code := take(list)
	if code != success {
		return returned32(-int32(code)), nil
	}
	copy(value, mp.element(slot))
	return 0, nil
}

// helperRingOutput is _ebpf_core_ring_buffer_output, which ignores its flags.
func (m *Machine) helperRingOutput() (uint64, *Fault) {
	mp, f := m.mapArgument(1)
	if f != nil {
		return 0, f
	}
	if mp.Type != RingBuf {
		return 0, faultf(BadArgument, "r1 is map %s, a %s: efW does not check that it is a ring buffer", mp.name, mp.Type)
	}
	record, f := m.bytes("record in r2", m.registers[2], m.registers[3], readAccess)
	if f != nil {
		return 0, f
	}
	return returned32(-int32(mp.rings[0].output(record, nil))), nil
}

// Fields of bpf_perf_event_output's flags (include/ebpf_structs.h).
const (
	perfCPUMask     = 0xffffffff // also: the current processor
	perfCaptureBits = 32
	perfCaptureMask = 0xfffff
)

// helperPerfOutput is ebpf_perf_event_array_map_output_with_capture: the record, and
// behind it as much of the frame as the flags say.
func (m *Machine) helperPerfOutput() (uint64, *Fault) {
	if f := m.contextArgument(); f != nil {
		return 0, f
	}
	mp, f := m.mapArgument(2)
	if f != nil {
		return 0, f
	}
	if mp.Type != PerfEventArray {
		return 0, faultf(BadArgument, "r2 is map %s, a %s: efW does not check that it is a perf_event_array", mp.name, mp.Type)
	}
	flags := m.registers[3]
	record, f := m.bytes("record in r4", m.registers[4], m.registers[5], readAccess)
	if f != nil {
		return 0, f
	}
	capture := int(flags >> perfCaptureBits & perfCaptureMask)
	cpu := uint32(flags & perfCPUMask)
	if capture > len(m.packet.frame()) || cpu != perfCPUMask && int(cpu) != m.cpu {
		return returned32(-int32(InvalidArgument)), nil
	}
	r := mp.rings[m.cpu]
	code := r.output(record, m.packet.frame()[:capture])
	if code != success {
		r.lost++
	}
	return returned32(-int32(code)), nil
}
