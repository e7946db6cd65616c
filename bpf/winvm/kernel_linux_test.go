package winvm

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The same bytecode runs on the kernel and here: both give the number 1 to
// map_lookup_elem and 2 to an array, which is all that these programs need of their
// system. They take r0 to r7 and two double words of memory from a map, compute, and
// leave all of them there.

const (
	kernelPrograms = 2000
	kernelInputs   = 4 // of each program
	cells          = 10
)

func TestRandomProgramsComputeWhatTheKernelComputes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads programs into the kernel")
	}
	random := rand.New(rand.NewPCG(9669, 1))
	cell, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: cells * 8, MaxEntries: 1})
	must(t, err)
	defer cell.Close()
	executed := 0
	for range kernelPrograms {
		body := randomBody(random, 40)
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: withCells(body, cell.FD())})
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			t.Fatalf("%+v\n%v", verifier, body)
		}
		must(t, err)
		m := build(t, fixed(), []MapSpec{{Name: "cell", Type: Array, KeySize: 4, ValueSize: cells * 8, MaxEntries: 1}},
			source{"program", withCells(body, 0)})
		for range kernelInputs {
			input := randomCells(random)
			must(t, cell.Put(uint32(0), input))
			must(t, m.maps[0].Update(u32(0), input, Any))
			if _, err := program.Run(&ebpf.RunOptions{Data: frame60()}); err != nil {
				t.Fatal(err)
			}
			executed += run(t, m).Instructions
			var want []byte
			must(t, cell.Lookup(uint32(0), &want))
			got, err := m.maps[0].Lookup(u32(0))
			must(t, err)
			if string(got) != string(want) {
				t.Fatalf("input  %x\nkernel %x\nhere   %x\n%v", input, want, got, body)
			}
		}
		program.Close()
	}
	t.Logf("%d programs, %d instructions", kernelPrograms, executed)
}

// withCells puts a body between the loads and the stores of what it works on.
func withCells(body asm.Instructions, mapFD int) asm.Instructions {
	code := asm.Instructions{
		storeImmediate(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, mapFD),
		callID(1),
		skip(asm.JNE.Imm(asm.R0, 0, ""), 1),
		asm.Return(),
		asm.Mov.Reg(asm.R9, asm.R0),
		asm.LoadMem(asm.R0, asm.R9, 64, asm.DWord),
		asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R9, 72, asm.DWord),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
	}
	for r := asm.R0; r < asm.R8; r++ {
		code = append(code, asm.LoadMem(r, asm.R9, int16(r)*8, asm.DWord))
	}
	code = append(code, body...)
	for r := asm.R0; r < asm.R8; r++ {
		code = append(code, asm.StoreMem(asm.R9, int16(r)*8, r, asm.DWord))
	}
	return append(code,
		asm.LoadMem(asm.R0, asm.RFP, -16, asm.DWord),
		asm.StoreMem(asm.R9, 64, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord),
		asm.StoreMem(asm.R9, 72, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return())
}

// randomCells are numbers on whose edges arithmetic turns, and others.
func randomCells(random *rand.Rand) []byte {
	edges := []uint64{0, 1, 2, 31, 32, 63, 64, 127, 128, 255, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000,
		0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xffffffff80000000}
	var out []byte
	for range cells {
		value := random.Uint64() >> random.IntN(64)
		if random.IntN(2) == 0 {
			value = edges[random.IntN(len(edges))]
		}
		out = append(out, u64(value)...)
	}
	return out
}

// randomBody is straight code and jumps forward in it, of every operation that the
// kernel's verifier lets any number through.
func randomBody(random *rand.Rand, length int) asm.Instructions {
	var body asm.Instructions
	for i := range length {
		if left := length - i - 1; left > 0 && random.IntN(6) == 0 {
			body = append(body, skip(randomJump(random), int16(random.IntN(min(left, 5)))))
			continue
		}
		body = append(body, randomOperation(random))
	}
	// Until here jumps count instructions, of which LoadImm takes two slots.
	for i := range body {
		if over := body[i].Offset; body[i].OpCode.Class().IsJump() {
			body[i].Offset = 0
			for _, in := range body[i+1:][:over] {
				body[i].Offset += int16(in.Width())
			}
		}
	}
	return body
}

func pick[T any](random *rand.Rand, from ...T) T { return from[random.IntN(len(from))] }

func anyRegister(random *rand.Rand) asm.Register { return asm.Register(random.IntN(8)) }

func randomImmediate(random *rand.Rand) int32 {
	return pick(random, 0, 1, -1, 2, 7, 255, 256, -128, 0x7fffffff, -0x80000000, int32(random.Uint32()))
}

func randomJump(random *rand.Rand) asm.Instruction {
	op := pick(random, asm.JEq, asm.JNE, asm.JGT, asm.JGE, asm.JLT, asm.JLE, asm.JSet, asm.JSGT, asm.JSGE, asm.JSLT, asm.JSLE)
	dst, src := anyRegister(random), anyRegister(random)
	return pick(random, op.Reg(dst, src, ""), op.Reg32(dst, src, ""),
		op.Imm(dst, randomImmediate(random), ""), op.Imm32(dst, randomImmediate(random), ""))
}

func randomOperation(random *rand.Rand) asm.Instruction {
	dst, src := anyRegister(random), anyRegister(random)
	// The stack is read and written in whole double words, which are always numbers.
	slot := pick[int16](random, -8, -16)
	switch random.IntN(10) {
	case 0:
		return asm.HostTo(pick(random, asm.LE, asm.BE), dst, pick(random, asm.Half, asm.Word, asm.DWord))
	case 1:
		return asm.BSwap(dst, pick(random, asm.Half, asm.Word, asm.DWord))
	case 2:
		return pick(random, asm.MovSX8.Reg(dst, src), asm.MovSX16.Reg(dst, src), asm.MovSX32.Reg(dst, src),
			asm.MovSX8.Reg32(dst, src), asm.MovSX16.Reg32(dst, src), asm.Neg.Imm(dst, 0), asm.Neg.Imm32(dst, 0))
	case 3:
		size := pick(random, asm.Byte, asm.Half, asm.Word)
		return pick(random, asm.LoadMemSX(dst, asm.RFP, slot, size), asm.LoadMem(dst, asm.RFP, slot, size),
			asm.StoreMem(asm.R9, 64, src, size), asm.StoreMem(asm.RFP, slot, src, asm.DWord),
			storeImmediate(asm.RFP, slot, int64(randomImmediate(random)), asm.DWord))
	case 4:
		op := pick(random, asm.AddAtomic, asm.OrAtomic, asm.AndAtomic, asm.XorAtomic, asm.FetchAdd, asm.FetchOr,
			asm.FetchAnd, asm.FetchXor, asm.Xchg, asm.CmpXchg)
		return atomic(op, asm.RFP, src, pick(random, asm.Word, asm.DWord), slot)
	case 5:
		return asm.LoadImm(dst, int64(random.Uint64()), asm.DWord)
	}
	op := pick(random, asm.Add, asm.Sub, asm.Mul, asm.Div, asm.SDiv, asm.Or, asm.And, asm.LSh, asm.RSh, asm.ArSh,
		asm.Mod, asm.SMod, asm.Xor, asm.Mov)
	switch random.IntN(4) {
	case 0:
		return op.Reg(dst, src)
	case 1:
		return op.Reg32(dst, src)
	}
	immediate, narrow := randomImmediate(random), random.IntN(2) == 0
	switch op {
	case asm.LSh, asm.RSh, asm.ArSh: // the verifier refuses a constant count beyond the width
		immediate &= 31
	case asm.Div, asm.SDiv, asm.Mod, asm.SMod: // and a constant zero
		immediate |= 1
	}
	if narrow {
		return op.Imm32(dst, immediate)
	}
	return op.Imm(dst, immediate)
}
