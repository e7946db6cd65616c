package winvm

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
)

const (
	stackSize    = 512
	maxFrames    = 8  // MAX_CALL_STACK_FRAMES of PREVAIL: the program and seven calls
	maxTailCalls = 33 // MAX_TAIL_CALL_CNT of include/ebpf_structs.h
)

// callFrame is what a program-local call keeps for its caller: RFC 9669 section 2
// has r6 to r9 survive it, and r10.
type callFrame struct {
	back  int
	saved [4]uint64
	stack uint64
	live  uint16
}

// execute runs a program and those that it tail-calls (ebpf_program_invoke of
// libs/execution_context/ebpf_program.c): a tail call is noted, the caller returns,
// and then its successor begins with the context alone.
func (m *Machine) execute(program *Program) (Result, *Fault) {
	result := Result{}
	for {
		next, fault := m.one(program, &result)
		if fault != nil || next == nil {
			return result, fault
		}
		program = next
		result.TailCalls++
	}
}

// begin sets up a frame of the stack with nothing written.
func (m *Machine) begin(depth int) {
	m.depth = depth
	number := regionStack + depth
	if !m.options.SharedStack || depth == 0 {
		clear(m.regions[number].written)
		m.registers[framePointer] = address(number, stackSize)
	}
}

// one runs one program to its exit. The cases of the switch stand in the order of the RFC.
func (m *Machine) one(program *Program, result *Result) (next *Program, fault *Fault) {
	regs := &m.registers
	m.begin(0)
	regs[1] = address(regionContext, 0)
	live := bit(1) | bit(framePointer)
	pc := program.entry
	left := m.options.Budget - result.Instructions
	defer func() { result.Instructions = m.options.Budget - left }()
	for {
		in := &m.code[pc]
		if left == 0 {
			return nil, m.faultAt(pc, faultf(BudgetExceeded, "more than %d instructions", m.options.Budget))
		}
		if in.reads&^live != 0 {
			return nil, m.faultAt(pc, faultf(UninitializedRegister, "%s", registerNames(in.reads&^live)))
		}
		left--
		live |= in.writes
		pc++
		dst := &regs[in.dst&15]
		operand := in.imm
		if in.src != fromImmediate {
			operand = regs[in.src&15]
		}
		switch in.op {
		case opTrap:
			left++
			return nil, m.faultAt(pc-1, faultf(MissingExit, "control runs off the end of the function"))

		case opAdd64:
			*dst += operand
		case opSub64:
			*dst -= operand
		case opMul64:
			*dst *= operand
		case opDiv64:
			*dst = divide(*dst, operand)
		case opSdiv64:
			*dst = uint64(divideSigned(int64(*dst), int64(operand)))
		case opOr64:
			*dst |= operand
		case opAnd64:
			*dst &= operand
		case opLsh64:
			*dst <<= operand & 63
		case opRsh64:
			*dst >>= operand & 63
		case opArsh64:
			*dst = uint64(int64(*dst) >> (operand & 63))
		case opNeg64:
			*dst = -*dst
		case opMod64:
			*dst = modulo(*dst, operand)
		case opSmod64:
			*dst = uint64(moduloSigned(int64(*dst), int64(operand)))
		case opXor64:
			*dst ^= operand
		case opMov64:
			*dst = operand
		case opMovsx64From8:
			*dst = uint64(int8(operand))
		case opMovsx64From16:
			*dst = uint64(int16(operand))
		case opMovsx64From32:
			*dst = uint64(int32(operand))

		case opAdd32:
			*dst = uint64(uint32(*dst) + uint32(operand))
		case opSub32:
			*dst = uint64(uint32(*dst) - uint32(operand))
		case opMul32:
			*dst = uint64(uint32(*dst) * uint32(operand))
		case opDiv32:
			*dst = divide(uint64(uint32(*dst)), uint64(uint32(operand)))
		case opSdiv32:
			*dst = uint64(uint32(divideSigned(int64(int32(*dst)), int64(int32(operand)))))
		case opOr32:
			*dst = uint64(uint32(*dst | operand))
		case opAnd32:
			*dst = uint64(uint32(*dst & operand))
		case opLsh32:
			*dst = uint64(uint32(*dst) << (operand & 31))
		case opRsh32:
			*dst = uint64(uint32(*dst) >> (operand & 31))
		case opArsh32:
			*dst = uint64(uint32(int32(*dst) >> (operand & 31)))
		case opNeg32:
			*dst = uint64(-uint32(*dst))
		case opMod32:
			*dst = modulo(uint64(uint32(*dst)), uint64(uint32(operand)))
		case opSmod32:
			*dst = uint64(uint32(moduloSigned(int64(int32(*dst)), int64(int32(operand)))))
		case opXor32:
			*dst = uint64(uint32(*dst ^ operand))
		case opMov32:
			*dst = uint64(uint32(operand))
		case opMovsx32From8:
			*dst = uint64(uint32(int8(operand)))
		case opMovsx32From16:
			*dst = uint64(uint32(int16(operand)))

		case opTrunc16:
			*dst = uint64(uint16(*dst))
		case opTrunc32:
			*dst = uint64(uint32(*dst))
		case opSwap16:
			*dst = uint64(bits.ReverseBytes16(uint16(*dst)))
		case opSwap32:
			*dst = uint64(bits.ReverseBytes32(uint32(*dst)))
		case opSwap64:
			*dst = bits.ReverseBytes64(*dst)
		case opNothing:

		case opJa:
			pc = int(in.offset)
		case opJeq64:
			pc = in.branch(pc, *dst == operand)
		case opJne64:
			pc = in.branch(pc, *dst != operand)
		case opJgt64:
			pc = in.branch(pc, *dst > operand)
		case opJge64:
			pc = in.branch(pc, *dst >= operand)
		case opJlt64:
			pc = in.branch(pc, *dst < operand)
		case opJle64:
			pc = in.branch(pc, *dst <= operand)
		case opJset64:
			pc = in.branch(pc, *dst&operand != 0)
		case opJsgt64:
			pc = in.branch(pc, int64(*dst) > int64(operand))
		case opJsge64:
			pc = in.branch(pc, int64(*dst) >= int64(operand))
		case opJslt64:
			pc = in.branch(pc, int64(*dst) < int64(operand))
		case opJsle64:
			pc = in.branch(pc, int64(*dst) <= int64(operand))
		case opJeq32:
			pc = in.branch(pc, uint32(*dst) == uint32(operand))
		case opJne32:
			pc = in.branch(pc, uint32(*dst) != uint32(operand))
		case opJgt32:
			pc = in.branch(pc, uint32(*dst) > uint32(operand))
		case opJge32:
			pc = in.branch(pc, uint32(*dst) >= uint32(operand))
		case opJlt32:
			pc = in.branch(pc, uint32(*dst) < uint32(operand))
		case opJle32:
			pc = in.branch(pc, uint32(*dst) <= uint32(operand))
		case opJset32:
			pc = in.branch(pc, uint32(*dst)&uint32(operand) != 0)
		case opJsgt32:
			pc = in.branch(pc, int32(*dst) > int32(operand))
		case opJsge32:
			pc = in.branch(pc, int32(*dst) >= int32(operand))
		case opJslt32:
			pc = in.branch(pc, int32(*dst) < int32(operand))
		case opJsle32:
			pc = in.branch(pc, int32(*dst) <= int32(operand))

		case opLoad8, opLoad16, opLoad32, opLoad64, opLoadSigned8, opLoadSigned16, opLoadSigned32:
			if fault = m.load(in, dst, operand+uint64(int64(in.offset))); fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}
		case opStore8, opStore16, opStore32, opStore64:
			if fault = m.store(in, *dst+uint64(int64(in.offset)), operand); fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}
		case opAtomic32:
			if fault = m.atomic(in, 4); fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}
		case opAtomic64:
			if fault = m.atomic(in, 8); fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}

		case opHelper:
			if regs[0], fault = m.callHelper(in.imm); fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}
			live &^= scratch
		case opTailCall:
			callee, code, fault := m.tailCall(result.TailCalls)
			if fault != nil {
				return nil, m.faultAt(pc-1, fault)
			}
			regs[0] = code.returned64()
			live &^= scratch
			if code == success {
				next = callee
				if m.depth == 0 {
					return next, nil
				}
				// bpf2c makes of it a return from the function that called, whose
				// caller goes on: emit of bpf_code_generator.cpp.
				pc, live = m.leave(live)
			}
		case opLocalCall:
			if m.depth+1 == maxFrames {
				return nil, m.faultAt(pc-1, faultf(CallDepth, "more than %d frames", maxFrames))
			}
			frame := &m.frames[m.depth]
			*frame = callFrame{back: pc, saved: [4]uint64(regs[6:10]), stack: regs[framePointer], live: live}
			m.begin(m.depth + 1)
			live &= scratch | bit(framePointer)
			pc = int(in.offset)
		case opExit:
			if m.depth == 0 {
				result.Action = Action(uint32(regs[0]))
				return next, nil
			}
			pc, live = m.leave(live)
		}
	}
}

// scratch are the registers that a call leaves without a value.
const scratch = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5

// leave returns from a program-local call.
func (m *Machine) leave(live uint16) (pc int, _ uint16) {
	m.depth--
	frame := &m.frames[m.depth]
	copy(m.registers[6:10], frame.saved[:])
	m.registers[framePointer] = frame.stack
	return frame.back, frame.live&^(scratch|bit(0)) | live&bit(0)
}

func (in *instruction) branch(pc int, taken bool) int {
	if taken {
		return int(in.offset)
	}
	return pc
}

func divide(a, b uint64) uint64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func modulo(a, b uint64) uint64 {
	if b == 0 {
		return a
	}
	return a % b
}

// Go defines the least integer divided by -1 as RFC 9669 does: it stays what it is.

func divideSigned(a, b int64) int64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func moduloSigned(a, b int64) int64 {
	if b == 0 {
		return a
	}
	return a % b
}

func (m *Machine) load(in *instruction, dst *uint64, at uint64) *Fault {
	size := uint64(1) << (in.op - opLoad8)
	if in.op >= opLoadSigned8 {
		size = 1 << (in.op - opLoadSigned8)
	}
	b := m.span(at, size, readAccess)
	if b == nil {
		return m.inaccessible(at, size, readAccess)
	}
	switch in.op {
	case opLoad8:
		*dst = uint64(b[0])
	case opLoad16:
		*dst = uint64(binary.LittleEndian.Uint16(b))
	case opLoad32:
		*dst = uint64(binary.LittleEndian.Uint32(b))
	case opLoad64:
		*dst = binary.LittleEndian.Uint64(b)
	case opLoadSigned8:
		*dst = uint64(int8(b[0]))
	case opLoadSigned16:
		*dst = uint64(int16(binary.LittleEndian.Uint16(b)))
	case opLoadSigned32:
		*dst = uint64(int32(binary.LittleEndian.Uint32(b)))
	}
	return nil
}

func (m *Machine) store(in *instruction, at, value uint64) *Fault {
	size := uint64(1) << (in.op - opStore8)
	b := m.writable(at, size)
	if b == nil {
		return m.inaccessible(at, size, writeAccess)
	}
	switch in.op {
	case opStore8:
		b[0] = byte(value)
	case opStore16:
		binary.LittleEndian.PutUint16(b, uint16(value))
	case opStore32:
		binary.LittleEndian.PutUint32(b, uint32(value))
	case opStore64:
		binary.LittleEndian.PutUint64(b, value)
	}
	return nil
}

func registerNames(set uint16) string {
	var names []string
	for r := range uint8(registers) {
		if set&bit(r) != 0 {
			names = append(names, fmt.Sprintf("r%d", r))
		}
	}
	return strings.Join(names, " and ") + " holds no value here"
}

// faultAt completes a fault with its place.
func (m *Machine) faultAt(pc int, f *Fault) *Fault {
	for i := len(m.functions) - 1; i >= 0; i-- {
		if function := &m.functions[i]; pc >= function.first {
			f.Function = function.name
			f.PC = int(function.slots[pc-function.first])
			break
		}
	}
	f.Instruction = m.disassemble(pc)
	return f
}
