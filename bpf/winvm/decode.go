package winvm

import "fmt"

func bit(register uint8) uint16 { return 1 << register }

// decoder turns one function's bytecode into instructions.
type decoder struct {
	code []byte
	// first is where the function will lie in Machine.code.
	first int
	out   []instruction
	// indexOf finds the instruction of a slot; the second slot of a 64-bit
	// immediate has none.
	indexOf []int32
	slots   []int32 // the reverse
	targets []int32 // of jumps, as slots, parallel to out; -1: no jump
	resolve resolver
}

// resolver tells a decoder what references mean.
type resolver interface {
	// mapHandle and mapValue give the addresses of a map and of its first value.
	mapHandle(index int32) (uint64, error)
	mapValue(index int32, offset int32) (uint64, error)
	// function gives the index in Machine.code of the function that the slot at
	// distance imm of this one begins.
	function(slot int, imm int32) (int32, error)
}

func (d *decoder) decode() error {
	if len(d.code) == 0 || len(d.code)%slotSize != 0 {
		return fmt.Errorf("%d bytes of code are no whole number of instructions", len(d.code))
	}
	count := len(d.code) / slotSize
	d.indexOf = make([]int32, count)
	for slot := 0; slot < count; {
		d.indexOf[slot] = int32(len(d.out))
		d.slots = append(d.slots, int32(slot))
		d.targets = append(d.targets, -1)
		width, err := d.one(slot)
		if err != nil {
			return fmt.Errorf("instruction %d: %w", slot, err)
		}
		if width == 2 {
			d.indexOf[slot+1] = -1
		}
		slot += width
	}
	for i, target := range d.targets {
		if target < 0 {
			continue
		}
		if int(target) >= count || d.indexOf[target] < 0 {
			return fmt.Errorf("instruction %d: jump to %d, which is no instruction of this function", d.slots[i], target)
		}
		d.out[i].offset = int32(d.first) + d.indexOf[target]
	}
	d.out = append(d.out, instruction{op: opTrap})
	d.slots = append(d.slots, int32(count))
	return nil
}

// one decodes the instruction at a slot and returns its width in slots.
func (d *decoder) one(slot int) (width int, err error) {
	raw := readInstruction(d.code[slot*slotSize:])
	if raw.dst >= registers || raw.src >= registers {
		return 0, fmt.Errorf("no such register in % x", d.code[slot*slotSize:][:2])
	}
	in := instruction{dst: raw.dst, src: raw.src, offset: int32(raw.offset)}
	width = 1
	switch raw.opcode & classMask {
	case classALU, classALU64:
		err = in.alu(raw)
	case classJMP, classJMP32:
		err = d.jump(&in, raw, slot)
	case classLDX:
		err = in.load(raw)
	case classST, classSTX:
		err = in.store(raw)
	case classLD:
		width, err = 2, d.immediate64(&in, raw, slot)
	}
	if err != nil {
		return 0, err
	}
	if in.writes&bit(framePointer) != 0 {
		return 0, fmt.Errorf("r10 is read-only (RFC 9669 section 2)")
	}
	d.out = append(d.out, in)
	return width, nil
}

func unknown(raw rawInstruction) error {
	return fmt.Errorf("opcode %#02x with source %d, offset %d, immediate %d is not defined by RFC 9669",
		raw.opcode, raw.src, raw.offset, raw.imm)
}

// aluOperations are the operations of section 4.1 by code, 64 bits wide; the
// 32-bit ones lie opAdd32-opAdd64 further on.
var aluOperations = [16]operation{
	0x0: opAdd64, 0x1: opSub64, 0x2: opMul64, 0x3: opDiv64, 0x4: opOr64, 0x5: opAnd64, 0x6: opLsh64,
	0x7: opRsh64, 0x8: opNeg64, 0x9: opMod64, 0xa: opXor64, 0xb: opMov64, 0xc: opArsh64,
}

// alu decodes sections 4.1 and 4.2.
func (in *instruction) alu(raw rawInstruction) error {
	code := raw.opcode >> 4
	if code == 0xd {
		return in.byteSwap(raw)
	}
	op := aluOperations[code]
	if op == opTrap {
		return unknown(raw)
	}
	in.reads, in.writes = bit(raw.dst), bit(raw.dst)
	register := raw.opcode&sourceX != 0
	switch {
	case op == opNeg64 && (register || raw.src != 0 || raw.imm != 0):
		return unknown(raw)
	case register && raw.imm != 0, !register && raw.src != 0:
		return unknown(raw)
	case register:
		in.reads |= bit(raw.src)
	default:
		in.src = fromImmediate
		in.imm = uint64(int64(raw.imm))
	}
	wide := raw.opcode&classMask == classALU64
	if raw.offset != 0 {
		if op = signedVariant(op, raw.offset, register, wide); op == opTrap {
			return unknown(raw)
		}
	}
	if op == opMov64 || op >= opMovsx64From8 && op <= opMovsx64From32 {
		in.reads &^= bit(raw.dst)
		if register {
			in.reads |= bit(raw.src)
		}
	}
	if !wide {
		op += opAdd32 - opAdd64
	}
	in.op, in.offset = op, 0
	return nil
}

// signedVariant is the operation that a non-zero offset selects, section 4.1.
func signedVariant(op operation, offset int16, register, wide bool) operation {
	switch {
	case op == opDiv64 && offset == 1:
		return opSdiv64
	case op == opMod64 && offset == 1:
		return opSmod64
	case op == opMov64 && register && offset == 8:
		return opMovsx64From8
	case op == opMov64 && register && offset == 16:
		return opMovsx64From16
	case op == opMov64 && register && offset == 32 && wide:
		return opMovsx64From32
	}
	return opTrap
}

// byteSwap decodes section 4.2. The simulated machine is little-endian, as every
// Windows is.
func (in *instruction) byteSwap(raw rawInstruction) error {
	in.reads, in.writes = bit(raw.dst), bit(raw.dst)
	if raw.src != 0 || raw.offset != 0 {
		return unknown(raw)
	}
	swap := raw.opcode&sourceX != 0
	if raw.opcode&classMask == classALU64 {
		if swap {
			return unknown(raw)
		}
		swap = true
	}
	in.offset = 0
	switch {
	case raw.imm == 16 && swap:
		in.op = opSwap16
	case raw.imm == 32 && swap:
		in.op = opSwap32
	case raw.imm == 64 && swap:
		in.op = opSwap64
	case raw.imm == 16:
		in.op = opTrunc16
	case raw.imm == 32:
		in.op = opTrunc32
	case raw.imm == 64:
		in.op = opNothing
	default:
		return unknown(raw)
	}
	return nil
}

// jumpOperations are section 4.3's conditional jumps by code, 64 bits wide.
var jumpOperations = [16]operation{
	0x1: opJeq64, 0x2: opJgt64, 0x3: opJge64, 0x4: opJset64, 0x5: opJne64, 0x6: opJsgt64,
	0x7: opJsge64, 0xa: opJlt64, 0xb: opJle64, 0xc: opJslt64, 0xd: opJsle64,
}

// jump decodes section 4.3: jumps, calls and the exit.
func (d *decoder) jump(in *instruction, raw rawInstruction, slot int) error {
	wide := raw.opcode&classMask == classJMP
	register := raw.opcode&sourceX != 0
	distance := int64(raw.offset)
	switch code := raw.opcode & 0xf0; {
	case code == 0x00 && !register && raw.dst == 0 && raw.src == 0:
		in.op = opJa
		if !wide {
			if raw.offset != 0 {
				return unknown(raw)
			}
			distance = int64(raw.imm)
		} else if raw.imm != 0 {
			return unknown(raw)
		}
	case code == jumpCall && wide && !register:
		return d.call(in, raw, slot)
	case code == jumpExit && wide && !register && raw.dst == 0 && raw.src == 0 && raw.offset == 0 && raw.imm == 0:
		in.op, in.reads = opExit, bit(0)
		return nil
	default:
		in.op = jumpOperations[raw.opcode>>4]
		if in.op == opTrap || register && raw.imm != 0 || !register && raw.src != 0 {
			return unknown(raw)
		}
		in.reads = bit(raw.dst)
		if register {
			in.reads |= bit(raw.src)
		} else {
			in.src, in.imm = fromImmediate, uint64(int64(raw.imm))
		}
		if !wide {
			in.op += opJeq32 - opJeq64
		}
	}
	target := int64(slot) + 1 + distance
	if target < 0 || target >= int64(len(d.code)/slotSize) {
		return fmt.Errorf("jump to %d, which is outside of this function", target)
	}
	d.targets[len(d.targets)-1] = int32(target)
	return nil
}

func (d *decoder) call(in *instruction, raw rawInstruction, slot int) error {
	if raw.dst != 0 || raw.offset != 0 {
		return unknown(raw)
	}
	switch raw.src {
	case callHelper:
		in.op, in.imm = opHelper, uint64(uint32(raw.imm))
		if raw.imm == helperTailCall {
			in.op = opTailCall
		}
		for r := range helperArguments(in.imm) {
			in.reads |= bit(uint8(r + 1))
		}
		in.writes = bit(0)
	case callLocal:
		target, err := d.resolve.function(slot, raw.imm)
		if err != nil {
			return err
		}
		// Which arguments the function takes is not said; it faults when it reads
		// one that was not given.
		in.op, in.offset = opLocalCall, target
	default:
		return fmt.Errorf("call of kind %d: eBPF for Windows 0.21 has no functions by BTF id", raw.src)
	}
	return nil
}

// widthOf counts the widths of section 5 from the narrowest: operations of one
// kind stand in that order.
func widthOf(opcode uint8) operation {
	switch opcode & sizeMask {
	case sizeB:
		return 0
	case sizeH:
		return 1
	case sizeW:
		return 2
	default:
		return 3
	}
}

// load decodes the loads of sections 5.1 and 5.2.
func (in *instruction) load(raw rawInstruction) error {
	in.reads, in.writes = bit(raw.src), bit(raw.dst)
	switch {
	case raw.imm != 0:
		return unknown(raw)
	case raw.opcode&modeMask == modeMEM:
		in.op = opLoad8 + widthOf(raw.opcode)
	case raw.opcode&modeMask == modeMEMSX && raw.opcode&sizeMask != sizeDW:
		in.op = opLoadSigned8 + widthOf(raw.opcode)
	default:
		return unknown(raw)
	}
	return nil
}

// store decodes the stores of section 5.1 and the atomic operations of 5.3.
func (in *instruction) store(raw rawInstruction) error {
	in.reads = bit(raw.dst)
	immediate := raw.opcode&classMask == classST
	if immediate {
		if raw.src != 0 {
			return unknown(raw)
		}
		in.src, in.imm = fromImmediate, uint64(int64(raw.imm))
	} else {
		in.reads |= bit(raw.src)
	}
	switch mode := raw.opcode & modeMask; {
	case mode == modeMEM && (immediate || raw.imm == 0):
		in.op = opStore8 + widthOf(raw.opcode)
	case mode == modeATOMIC && !immediate:
		return in.atomic(raw)
	default:
		return unknown(raw)
	}
	return nil
}

func (in *instruction) atomic(raw rawInstruction) error {
	switch raw.opcode & sizeMask {
	case sizeW:
		in.op = opAtomic32
	case sizeDW:
		in.op = opAtomic64
	default:
		return unknown(raw)
	}
	switch raw.imm {
	case atomicAdd, atomicOr, atomicAnd, atomicXor:
	case atomicAdd | atomicFetch, atomicOr | atomicFetch, atomicAnd | atomicFetch, atomicXor | atomicFetch, atomicXchg:
		in.writes = bit(raw.src)
	case atomicCmpxchg:
		in.reads |= bit(0)
		in.writes = bit(0)
	default:
		return unknown(raw)
	}
	in.imm = uint64(raw.imm)
	return nil
}

// immediate64 decodes section 5.4.
func (d *decoder) immediate64(in *instruction, raw rawInstruction, slot int) error {
	if raw.opcode != classLD|modeIMM|sizeDW || raw.offset != 0 {
		return fmt.Errorf("opcode %#02x: packet access of the old kind is not in eBPF for Windows", raw.opcode)
	}
	if (slot+2)*slotSize > len(d.code) {
		return fmt.Errorf("half of a 64-bit immediate")
	}
	next := readInstruction(d.code[(slot+1)*slotSize:])
	if next.opcode != 0 || next.dst != 0 || next.src != 0 || next.offset != 0 {
		return fmt.Errorf("the second half of a 64-bit immediate has fields that must be zero")
	}
	var err error
	switch raw.src {
	case immediateNumber:
		in.imm = uint64(uint32(raw.imm)) | uint64(uint32(next.imm))<<32
	case immediateMap:
		in.imm, err = d.resolve.mapHandle(raw.imm)
	case immediateMapValue:
		in.imm, err = d.resolve.mapValue(raw.imm, next.imm)
	default:
		err = fmt.Errorf("64-bit immediate of kind %d: not in eBPF for Windows", raw.src)
	}
	in.op, in.src, in.offset = opMov64, fromImmediate, 0
	in.writes = bit(raw.dst)
	return err
}
