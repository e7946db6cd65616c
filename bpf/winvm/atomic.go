package winvm

import "encoding/binary"

// atomic does the operations of RFC 9669 section 5.3. One processor runs at a
// time here, so that nothing comes between a read and its write.
func (m *Machine) atomic(in *instruction, size uint64) *Fault {
	regs := &m.registers
	at := regs[in.dst&15] + uint64(int64(in.offset))
	b := m.span(at, size, readAccess|writeAccess)
	if b == nil {
		if f := m.inaccessible(at, size, readAccess); m.span(at, size, readAccess) == nil {
			return f
		}
		return m.inaccessible(at, size, writeAccess)
	}
	narrow := size == 4
	var old uint64
	if narrow {
		old = uint64(binary.LittleEndian.Uint32(b))
	} else {
		old = binary.LittleEndian.Uint64(b)
	}
	operand, result := regs[in.src&15], old
	switch in.imm &^ atomicFetch {
	case atomicAdd:
		result += operand
	case atomicOr:
		result |= operand
	case atomicAnd:
		result &= operand
	case atomicXor:
		result ^= operand
	case atomicXchg &^ atomicFetch:
		result = operand
	case atomicCmpxchg &^ atomicFetch:
		expected := regs[0]
		if narrow {
			expected = uint64(uint32(expected))
		}
		if expected == old {
			result = operand
		}
	}
	if narrow {
		binary.LittleEndian.PutUint32(b, uint32(result))
	} else {
		binary.LittleEndian.PutUint64(b, result)
	}
	switch {
	case in.imm == atomicCmpxchg:
		regs[0] = old
	case in.imm&atomicFetch != 0:
		regs[in.src&15] = old
	}
	return nil
}
