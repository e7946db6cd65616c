package winvm

import "encoding/binary"

// Encoding of instructions, RFC 9669 sections 3 to 5.
const (
	slotSize = 8

	classMask  = 0x07
	classLD    = 0x00
	classLDX   = 0x01
	classST    = 0x02
	classSTX   = 0x03
	classALU   = 0x04
	classJMP   = 0x05
	classJMP32 = 0x06
	classALU64 = 0x07

	sourceX = 0x08 // the second operand is a register, or: to big-endian

	modeMask   = 0xe0
	modeIMM    = 0x00
	modeMEM    = 0x60
	modeMEMSX  = 0x80
	modeATOMIC = 0xc0

	sizeMask = 0x18
	sizeW    = 0x00
	sizeH    = 0x08
	sizeB    = 0x10
	sizeDW   = 0x18

	jumpCall = 0x80
	jumpExit = 0x90

	callHelper = 0
	callLocal  = 1

	// Sources of a 64-bit immediate, RFC 9669 section 5.4. The loader gives the
	// map's index instead of a file descriptor.
	immediateNumber   = 0
	immediateMap      = 1
	immediateMapValue = 2

	atomicAdd     = 0x00
	atomicOr      = 0x40
	atomicAnd     = 0x50
	atomicXor     = 0xa0
	atomicFetch   = 0x01
	atomicXchg    = 0xe1
	atomicCmpxchg = 0xf1
)

const (
	registers    = 11
	framePointer = 10
)

// rawInstruction is one slot of bytecode, RFC 9669 section 3.1.
type rawInstruction struct {
	opcode   uint8
	dst, src uint8
	offset   int16
	imm      int32
}

func readInstruction(code []byte) rawInstruction {
	return rawInstruction{
		opcode: code[0],
		dst:    code[1] & 15,
		src:    code[1] >> 4,
		offset: int16(binary.LittleEndian.Uint16(code[2:])),
		imm:    int32(binary.LittleEndian.Uint32(code[4:])),
	}
}

// operation is what an instruction does, once decoded: one number for each
// behaviour, whatever the encoding spreads over opcode, offset and immediate.
type operation uint8

const (
	opTrap operation = iota // behind a function's last instruction

	opAdd64
	opSub64
	opMul64
	opDiv64
	opSdiv64
	opOr64
	opAnd64
	opLsh64
	opRsh64
	opArsh64
	opNeg64
	opMod64
	opSmod64
	opXor64
	opMov64
	opMovsx64From8
	opMovsx64From16
	opMovsx64From32

	opAdd32
	opSub32
	opMul32
	opDiv32
	opSdiv32
	opOr32
	opAnd32
	opLsh32
	opRsh32
	opArsh32
	opNeg32
	opMod32
	opSmod32
	opXor32
	opMov32
	opMovsx32From8
	opMovsx32From16

	opTrunc16 // to little-endian: the simulated machine is one
	opTrunc32
	opSwap16
	opSwap32
	opSwap64
	opNothing // le64

	opJa
	opJeq64
	opJne64
	opJgt64
	opJge64
	opJlt64
	opJle64
	opJset64
	opJsgt64
	opJsge64
	opJslt64
	opJsle64
	opJeq32
	opJne32
	opJgt32
	opJge32
	opJlt32
	opJle32
	opJset32
	opJsgt32
	opJsge32
	opJslt32
	opJsle32

	opLoad8
	opLoad16
	opLoad32
	opLoad64
	opLoadSigned8
	opLoadSigned16
	opLoadSigned32
	opStore8
	opStore16
	opStore32
	opStore64
	opAtomic32
	opAtomic64

	opHelper
	opTailCall
	opLocalCall
	opExit
)

// fromImmediate as an instruction's source says that the second operand is imm.
const fromImmediate = 0xff

// instruction is the decoded form.
type instruction struct {
	op       operation
	dst, src uint8
	reads    uint16 // registers, as bits
	writes   uint16
	// offset is a distance in memory, or for jumps and local calls the index of
	// the target in Machine.code.
	offset int32
	imm    uint64
}
