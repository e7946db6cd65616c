package winvm

import "fmt"

// disassemble writes an instruction as llvm-objdump does, with jumps and calls by
// the number of their target.
func (m *Machine) disassemble(pc int) string {
	in := &m.code[pc]
	dst := fmt.Sprintf("r%d", in.dst)
	narrow := fmt.Sprintf("w%d", in.dst)
	source, narrowSource := fmt.Sprintf("r%d", in.src), fmt.Sprintf("w%d", in.src)
	if in.src == fromImmediate {
		source = fmt.Sprintf("%d", int64(in.imm))
		if int64(in.imm) > 1<<31 || int64(in.imm) < -1<<31 {
			source = fmt.Sprintf("%#x ll", in.imm)
		}
		narrowSource = fmt.Sprintf("%d", int32(in.imm))
	}
	switch {
	case in.op == opTrap:
		return "end of function"
	case in.op >= opAdd64 && in.op <= opMovsx64From32:
		return aluText(in.op, dst, source)
	case in.op >= opAdd32 && in.op <= opMovsx32From16:
		return aluText(in.op-opAdd32+opAdd64, narrow, narrowSource)
	case in.op >= opTrunc16 && in.op <= opNothing:
		name := [...]string{"le16", "le32", "be16", "be32", "be64", "le64"}[in.op-opTrunc16]
		return fmt.Sprintf("%s = %s %s", dst, name, dst)
	case in.op == opJa:
		return fmt.Sprintf("goto %d", m.slotOf(int(in.offset)))
	case in.op >= opJeq64 && in.op <= opJsle64:
		return fmt.Sprintf("if %s %s %s goto %d", dst, jumpSigns(in.op-opJeq64), source, m.slotOf(int(in.offset)))
	case in.op >= opJeq32 && in.op <= opJsle32:
		return fmt.Sprintf("if %s %s %s goto %d", narrow, jumpSigns(in.op-opJeq32), narrowSource, m.slotOf(int(in.offset)))
	case in.op >= opLoad8 && in.op <= opLoadSigned32:
		width := [...]string{"u8", "u16", "u32", "u64", "s8", "s16", "s32"}[in.op-opLoad8]
		return fmt.Sprintf("%s = *(%s *)(%s %+d)", dst, width, source, in.offset)
	case in.op >= opStore8 && in.op <= opStore64:
		width := [...]string{"u8", "u16", "u32", "u64"}[in.op-opStore8]
		return fmt.Sprintf("*(%s *)(%s %+d) = %s", width, dst, in.offset, source)
	case in.op == opAtomic32:
		return atomicText(in, "u32", narrowSource)
	case in.op == opAtomic64:
		return atomicText(in, "u64", source)
	case in.op == opHelper, in.op == opTailCall:
		return fmt.Sprintf("call %d (%s)", int32(in.imm), helperName(in.imm))
	case in.op == opLocalCall:
		return "call " + m.functionAt(int(in.offset))
	case in.op == opExit:
		return "exit"
	}
	return fmt.Sprintf("operation %d", in.op)
}

func aluText(op operation, dst, source string) string {
	switch op {
	case opNeg64:
		return fmt.Sprintf("%s = -%s", dst, dst)
	case opMovsx64From8, opMovsx64From16, opMovsx64From32:
		return fmt.Sprintf("%s = (s%d)%s", dst, 8<<(op-opMovsx64From8), source)
	}
	signs := [...]string{
		opAdd64: "+=", opSub64: "-=", opMul64: "*=", opDiv64: "/=", opSdiv64: "s/=", opOr64: "|=", opAnd64: "&=",
		opLsh64: "<<=", opRsh64: ">>=", opArsh64: "s>>=", opMod64: "%=", opSmod64: "s%=", opXor64: "^=", opMov64: "=",
	}
	return fmt.Sprintf("%s %s %s", dst, signs[op], source)
}

func jumpSigns(index operation) string {
	return [...]string{"==", "!=", ">", ">=", "<", "<=", "&", "s>", "s>=", "s<", "s<="}[index]
}

func atomicText(in *instruction, width, source string) string {
	place := fmt.Sprintf("(%s *)(r%d %+d)", width, in.dst, in.offset)
	switch in.imm {
	case atomicXchg:
		return fmt.Sprintf("%s = xchg(%s, %s)", source, place, source)
	case atomicCmpxchg:
		return fmt.Sprintf("r0 = cmpxchg(%s, r0, %s)", place, source)
	}
	names := map[uint64][2]string{atomicAdd: {"+=", "add"}, atomicOr: {"|=", "or"}, atomicAnd: {"&=", "and"}, atomicXor: {"^=", "xor"}}
	name := names[in.imm&^atomicFetch]
	if in.imm&atomicFetch != 0 {
		return fmt.Sprintf("%s = atomic_fetch_%s(%s, %s)", source, name[1], place, source)
	}
	return fmt.Sprintf("lock *%s %s %s", place, name[0], source)
}

// slotOf is the number that llvm-objdump gives an instruction in its function.
func (m *Machine) slotOf(pc int) int {
	for i := len(m.functions) - 1; i >= 0; i-- {
		if f := &m.functions[i]; pc >= f.first {
			return int(f.slots[pc-f.first])
		}
	}
	return pc
}

func (m *Machine) functionAt(pc int) string {
	for _, f := range m.functions {
		if f.first == pc {
			return f.name
		}
	}
	return "nothing"
}
