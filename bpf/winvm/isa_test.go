package winvm

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// one is a machine with an 8-byte cell, whose function ends by storing r0 there: a
// program returns but 32 bits.
func one(t testing.TB, code ...asm.Instruction) *Machine {
	return build(t, fixed(), []MapSpec{{Name: "cell", Type: Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
		source{"program", append(code, asm.LoadMapValue(asm.R5, 0, 0), asm.StoreMem(asm.R5, 0, asm.R0, asm.DWord), asm.Return())})
}

// evaluate runs the code and returns all of r0.
func evaluate(t testing.TB, code ...asm.Instruction) uint64 {
	t.Helper()
	m := one(t, code...)
	run(t, m)
	value, err := m.maps[0].Lookup(u32(0))
	must(t, err)
	return binary.LittleEndian.Uint64(value)
}

// constant loads all 64 bits.
func constant(r asm.Register, value uint64) asm.Instruction {
	return asm.LoadImm(r, int64(value), asm.DWord)
}

const (
	minInt64 = 1 << 63
	allOnes  = math.MaxUint64
)

// dst = dst op src, of the class ALU64 and of the class ALU, which uses the lower
// halves and clears the upper.
func TestRFC9669Section4_1Arithmetic(t *testing.T) {
	for _, c := range []struct {
		name       string
		op         asm.ALUOp
		dst, src   uint64
		want       uint64
		want32     uint64
		noRegister bool
	}{
		{"ADD", asm.Add, 7, 5, 12, 12, false},
		{"ADD wraps", asm.Add, allOnes, 2, 1, 1, false},
		{"ADD carries out of 32 bits", asm.Add, 0xffffffff, 1, 0x100000000, 0, false},
		{"SUB", asm.Sub, 7, 5, 2, 2, false},
		{"SUB wraps", asm.Sub, 5, 7, allOnes - 1, 0xfffffffe, false},
		{"MUL", asm.Mul, 7, 5, 35, 35, false},
		{"MUL overflows", asm.Mul, 0x123456789, 0x1000000000, 0x3456789000000000, 0, false},
		{"DIV", asm.Div, 35, 5, 7, 7, false},
		{"DIV is unsigned", asm.Div, allOnes, 2, 0x7fffffffffffffff, 0x7fffffff, false},
		{"DIV by zero is zero", asm.Div, 35, 0, 0, 0, false},
		{"DIV by an upper half", asm.Div, 0x500000000, 0x100000000, 5, 0, false},
		{"SDIV", asm.SDiv, 7, 2, 3, 3, false},
		{"SDIV truncates towards zero", asm.SDiv, negative(-7), 2, negative(-3), 0xfffffffd, false},
		{"SDIV by a negative", asm.SDiv, negative(-35), negative(-5), 7, 7, false},
		{"SDIV by zero is zero", asm.SDiv, negative(-35), 0, 0, 0, false},
		{"SDIV of the least integer by -1", asm.SDiv, minInt64, negative(-1), minInt64, 0, false},
		{"SDIV of the least 32-bit integer by -1", asm.SDiv, 0x80000000, negative(-1), 0xffffffff80000000, 0x80000000, false},
		{"OR", asm.Or, 0xf0, 0x0f, 0xff, 0xff, false},
		{"AND", asm.And, 0xf0f0f0f0f0f0f0f0, 0xff00ff00ff00ff00, 0xf000f000f000f000, 0xf000f000, false},
		{"LSH", asm.LSh, 1, 4, 16, 16, false},
		{"LSH by 63 and by 31 of it", asm.LSh, 1, 63, minInt64, 0x80000000, false},
		{"LSH masks the count", asm.LSh, 3, 65, 6, 6, false},
		{"LSH by 32", asm.LSh, 1, 32, 0x100000000, 1, false},
		{"RSH", asm.RSh, 0xf000000000000000, 60, 15, 0, false},
		{"RSH is unsigned", asm.RSh, negative(-1), 1, 0x7fffffffffffffff, 0x7fffffff, false},
		{"RSH masks the count", asm.RSh, 6, 65, 3, 3, false},
		{"NEG", asm.Neg, 5, 0, negative(-5), 0xfffffffb, true},
		{"NEG of the least integer", asm.Neg, minInt64, 0, minInt64, 0, true},
		{"MOD", asm.Mod, 37, 5, 2, 2, false},
		{"MOD is unsigned", asm.Mod, allOnes, 10, 5, 5, false},
		{"MOD by zero leaves dst, or its lower half", asm.Mod, 0x1122334455667788, 0, 0x1122334455667788, 0x55667788, false},
		{"SMOD has the dividend's sign", asm.SMod, negative(-7), 3, negative(-1), 0xffffffff, false},
		{"SMOD by a negative", asm.SMod, 13, negative(-3), 1, 1, false},
		{"SMOD by zero leaves dst", asm.SMod, negative(-7), 0, negative(-7), 0xfffffff9, false},
		{"SMOD of the least integer by -1", asm.SMod, minInt64, negative(-1), 0, 0, false},
		{"XOR", asm.Xor, 0xff, 0x0f, 0xf0, 0xf0, false},
		{"MOV", asm.Mov, 1, 0x1122334455667788, 0x1122334455667788, 0x55667788, false},
		{"MOVSX8", asm.MovSX8, 1, 0x1180, negative(-128), 0xffffff80, false},
		{"MOVSX8 of a positive", asm.MovSX8, 1, 0x117f, 0x7f, 0x7f, false},
		{"MOVSX16", asm.MovSX16, 1, 0x118000, negative(-32768), 0xffff8000, false},
		{"ARSH", asm.ArSh, negative(-16), 2, negative(-4), 0xfffffffc, false},
		{"ARSH masks the count", asm.ArSh, negative(-16), 66, negative(-4), 0xfffffffc, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			wide, narrow := c.op.Reg(asm.R0, asm.R1), c.op.Reg32(asm.R0, asm.R1)
			if c.noRegister {
				wide, narrow = c.op.Imm(asm.R0, 0), c.op.Imm32(asm.R0, 0)
			}
			if got := evaluate(t, constant(asm.R0, c.dst), constant(asm.R1, c.src), wide); got != c.want {
				t.Errorf("ALU64: %#x, want %#x", got, c.want)
			}
			if got := evaluate(t, constant(asm.R0, c.dst), constant(asm.R1, c.src), narrow); got != c.want32 {
				t.Errorf("ALU: %#x, want %#x", got, c.want32)
			}
			if isSignExtension(c.op) || c.noRegister || c.src != uint64(int64(int32(c.src))) {
				return
			}
			if got := evaluate(t, constant(asm.R0, c.dst), c.op.Imm(asm.R0, int32(c.src))); got != c.want {
				t.Errorf("ALU64 with an immediate: %#x, want %#x", got, c.want)
			}
			if got := evaluate(t, constant(asm.R0, c.dst), c.op.Imm32(asm.R0, int32(c.src))); got != c.want32 {
				t.Errorf("ALU with an immediate: %#x, want %#x", got, c.want32)
			}
		})
	}
}

func negative(n int64) uint64 { return uint64(n) }

func isSignExtension(op asm.ALUOp) bool {
	return op == asm.MovSX8 || op == asm.MovSX16 || op == asm.MovSX32
}

func TestRFC9669Section4_1MovsxFrom32Bits(t *testing.T) {
	got := evaluate(t, constant(asm.R1, 0x1180000000), asm.MovSX32.Reg(asm.R0, asm.R1))
	if want := negative(-0x80000000); got != want {
		t.Errorf("%#x, want %#x", got, want)
	}
}

func TestRFC9669Section4_1ImmediatesAreSignExtended(t *testing.T) {
	for name, c := range map[string]struct {
		in   asm.Instruction
		want uint64
	}{
		"DIV of ALU64 divides by 2^64-1": {asm.Div.Imm(asm.R0, -1), 0},
		"DIV of ALU divides by 2^32-1":   {asm.Div.Imm32(asm.R0, -1), 0},
		"MOD of ALU64":                   {asm.Mod.Imm(asm.R0, -1), 0x10},
		"OR":                             {asm.Or.Imm(asm.R0, -16), negative(-16)},
		"MOV":                            {asm.Mov.Imm(asm.R0, -1), allOnes},
		"MOV of ALU":                     {asm.Mov.Imm32(asm.R0, -1), 0xffffffff},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(t, asm.Mov.Imm(asm.R0, 0x10), c.in); got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
}

func TestRFC9669Section4_2ByteSwap(t *testing.T) {
	const value = 0x1122334455667788
	for name, c := range map[string]struct {
		in   asm.Instruction
		want uint64
	}{
		"le16 truncates":  {asm.HostTo(asm.LE, asm.R0, asm.Half), 0x7788},
		"le32 truncates":  {asm.HostTo(asm.LE, asm.R0, asm.Word), 0x55667788},
		"le64 is nothing": {asm.HostTo(asm.LE, asm.R0, asm.DWord), value},
		"be16":            {asm.HostTo(asm.BE, asm.R0, asm.Half), 0x8877},
		"be32":            {asm.HostTo(asm.BE, asm.R0, asm.Word), 0x88776655},
		"be64":            {asm.HostTo(asm.BE, asm.R0, asm.DWord), 0x8877665544332211},
		"bswap16":         {asm.BSwap(asm.R0, asm.Half), 0x8877},
		"bswap32":         {asm.BSwap(asm.R0, asm.Word), 0x88776655},
		"bswap64":         {asm.BSwap(asm.R0, asm.DWord), 0x8877665544332211},
	} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(t, constant(asm.R0, value), c.in); got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
}

func TestRFC9669Section4_3Jumps(t *testing.T) {
	one, two, minus := uint64(1), uint64(2), negative(-1)
	high := uint64(0x100000001) // 1 for JMP32
	for _, c := range []struct {
		name           string
		op             asm.JumpOp
		dst, src       uint64
		taken, taken32 bool
	}{
		{"JEQ", asm.JEq, one, one, true, true},
		{"JEQ of the lower halves", asm.JEq, high, one, false, true},
		{"JEQ not taken", asm.JEq, one, two, false, false},
		{"JNE", asm.JNE, one, two, true, true},
		{"JNE of the lower halves", asm.JNE, high, one, true, false},
		{"JGT", asm.JGT, two, one, true, true},
		{"JGT is unsigned", asm.JGT, minus, one, true, true},
		{"JGT of equals", asm.JGT, one, one, false, false},
		{"JGE", asm.JGE, one, one, true, true},
		{"JGE not taken", asm.JGE, one, two, false, false},
		{"JLT", asm.JLT, one, two, true, true},
		{"JLT is unsigned", asm.JLT, one, minus, true, true},
		{"JLT of the lower halves", asm.JLT, two, high, true, false},
		{"JLE", asm.JLE, one, one, true, true},
		{"JLE not taken", asm.JLE, two, one, false, false},
		{"JSET", asm.JSet, 6, two, true, true},
		{"JSET of an upper half", asm.JSet, 0x100000000, 0x100000000, true, false},
		{"JSET not taken", asm.JSet, 4, two, false, false},
		{"JSGT", asm.JSGT, one, minus, true, true},
		{"JSGT not taken", asm.JSGT, minus, one, false, false},
		{"JSGE", asm.JSGE, minus, minus, true, true},
		{"JSLT", asm.JSLT, minus, one, true, true},
		{"JSLT of a sign in 32 bits", asm.JSLT, 0x80000000, one, false, true},
		{"JSLE", asm.JSLE, minus, one, true, true},
		{"JSLE not taken", asm.JSLE, two, one, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			try := func(kind string, jump asm.Instruction, taken bool) {
				got := evaluate(t, constant(asm.R1, c.dst), constant(asm.R2, c.src),
					asm.Mov.Imm(asm.R0, 1), skip(jump, 1), asm.Mov.Imm(asm.R0, 0))
				if (got == 1) != taken {
					t.Errorf("%s: taken %v, want %v", kind, got == 1, taken)
				}
			}
			try("JMP", c.op.Reg(asm.R1, asm.R2, ""), c.taken)
			try("JMP32", c.op.Reg32(asm.R1, asm.R2, ""), c.taken32)
			if c.src == uint64(int64(int32(c.src))) {
				try("JMP with an immediate", c.op.Imm(asm.R1, int32(c.src), ""), c.taken)
				try("JMP32 with an immediate", c.op.Imm32(asm.R1, int32(c.src), ""), c.taken32)
			}
		})
	}
}

func TestRFC9669Section4_3UnconditionalJumps(t *testing.T) {
	long := asm.LongJump("")
	long.Constant = 1
	for name, jump := range map[string]asm.Instruction{"JA by the offset": skip(asm.Ja.Label(""), 1), "JA by the immediate": long} {
		t.Run(name, func(t *testing.T) {
			if got := evaluate(t, asm.Mov.Imm(asm.R0, 1), jump, asm.Mov.Imm(asm.R0, 0)); got != 1 {
				t.Error("not taken")
			}
		})
	}
	t.Run("backwards", func(t *testing.T) {
		got := evaluate(t, asm.Mov.Imm(asm.R0, 0), asm.Add.Imm(asm.R0, 3), skip(asm.JLT.Imm(asm.R0, 10, ""), -2))
		if got != 12 {
			t.Errorf("%d, want 12", got)
		}
	})
}

func TestRFC9669Section5_1LoadsAndStores(t *testing.T) {
	const value = 0x1122334455667788
	for _, c := range []struct {
		name   string
		size   asm.Size
		stored uint64 // what is then in a zeroed double word
	}{
		{"B", asm.Byte, 0x88}, {"H", asm.Half, 0x7788}, {"W", asm.Word, 0x55667788}, {"DW", asm.DWord, value},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := evaluate(t, constant(asm.R1, value),
				storeImmediate(asm.RFP, -8, 0, asm.DWord), asm.StoreMem(asm.RFP, -8, asm.R1, c.size),
				asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord))
			if got != c.stored {
				t.Errorf("STX: %#x, want %#x", got, c.stored)
			}
			got = evaluate(t, constant(asm.R1, value), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
				asm.LoadMem(asm.R0, asm.RFP, -8, c.size))
			if got != c.stored {
				t.Errorf("LDX: %#x, want %#x", got, c.stored)
			}
		})
	}
	got := evaluate(t, storeImmediate(asm.RFP, -8, -2, asm.DWord), asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord))
	if want := negative(-2); got != want {
		t.Errorf("ST extends the immediate's sign: %#x, want %#x", got, want)
	}
}

func TestRFC9669Section5_2SignExtendingLoads(t *testing.T) {
	for _, c := range []struct {
		name  string
		size  asm.Size
		value uint64
		want  uint64
	}{
		{"B", asm.Byte, 0x1180, negative(-128)}, {"H", asm.Half, 0x118000, negative(-32768)},
		{"W", asm.Word, 0x1180000000, negative(-0x80000000)}, {"a positive W", asm.Word, 0x1170000000, 0x70000000},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := evaluate(t, constant(asm.R1, c.value), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
				asm.LoadMemSX(asm.R0, asm.RFP, -8, c.size))
			if got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
}

func TestRFC9669Section5_3AtomicOperations(t *testing.T) {
	const old, operand = 0x1122334400000f0f, 0x00000001000000ff
	for _, c := range []struct {
		name             string
		op               asm.AtomicOp
		memory, memory32 uint64
		source, source32 uint64
	}{
		{"ADD", asm.AddAtomic, 0x112233450000100e, 0x112233440000100e, operand, operand},
		{"OR", asm.OrAtomic, 0x1122334500000fff, 0x1122334400000fff, operand, operand},
		{"AND", asm.AndAtomic, 0xf, 0x112233440000000f, operand, operand},
		{"XOR", asm.XorAtomic, 0x1122334500000ff0, 0x1122334400000ff0, operand, operand},
		{"ADD and FETCH", asm.FetchAdd, 0x112233450000100e, 0x112233440000100e, old, 0xf0f},
		{"OR and FETCH", asm.FetchOr, 0x1122334500000fff, 0x1122334400000fff, old, 0xf0f},
		{"AND and FETCH", asm.FetchAnd, 0xf, 0x112233440000000f, old, 0xf0f},
		{"XOR and FETCH", asm.FetchXor, 0x1122334500000ff0, 0x1122334400000ff0, old, 0xf0f},
		{"XCHG", asm.Xchg, operand, 0x11223344000000ff, old, 0xf0f},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, width := range []struct {
				size           asm.Size
				memory, source uint64
			}{{asm.DWord, c.memory, c.source}, {asm.Word, c.memory32, c.source32}} {
				code := []asm.Instruction{constant(asm.R1, old), constant(asm.R2, operand), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
					atomic(c.op, asm.RFP, asm.R2, width.size, -8)}
				if got := evaluate(t, append(code, asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord))...); got != width.memory {
					t.Errorf("%s: memory %#x, want %#x", width.size, got, width.memory)
				}
				if got := evaluate(t, append(code, asm.Mov.Reg(asm.R0, asm.R2))...); got != width.source {
					t.Errorf("%s: source %#x, want %#x", width.size, got, width.source)
				}
			}
		})
	}
}

func TestRFC9669Section5_3CompareAndExchange(t *testing.T) {
	const old, operand = 0x1122334400000f0f, 0x5566778800000001
	for _, c := range []struct {
		name     string
		size     asm.Size
		expected uint64
		memory   uint64
		r0       uint64
	}{
		{"equal", asm.DWord, old, operand, old},
		{"different", asm.DWord, old + 1, old, old},
		{"equal in 32 bits", asm.Word, 0x9999999900000f0f, 0x1122334400000001, 0xf0f},
		{"different in 32 bits", asm.Word, 1, old, 0xf0f},
	} {
		t.Run(c.name, func(t *testing.T) {
			code := []asm.Instruction{constant(asm.R1, old), constant(asm.R2, operand), constant(asm.R0, c.expected),
				asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord), atomic(asm.CmpXchg, asm.RFP, asm.R2, c.size, -8)}
			if got := evaluate(t, code...); got != c.r0 {
				t.Errorf("r0 %#x, want %#x", got, c.r0)
			}
			if got := evaluate(t, append(code, asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord))...); got != c.memory {
				t.Errorf("memory %#x, want %#x", got, c.memory)
			}
		})
	}
}

func TestRFC9669Section5_4Immediates(t *testing.T) {
	t.Run("a number", func(t *testing.T) {
		if got := evaluate(t, constant(asm.R0, 0x8877665544332211)); got != 0x8877665544332211 {
			t.Errorf("%#x", got)
		}
	})
	t.Run("a byte of a map's value", func(t *testing.T) {
		m := one(t, asm.LoadMapValue(asm.R1, 0, 4), asm.LoadMem(asm.R0, asm.R1, 0, asm.Word))
		must(t, m.maps[0].Update(u32(0), []byte{1, 2, 3, 4, 5, 6, 7, 8}, Any))
		if got := run(t, m); got.Instructions != 5 {
			t.Errorf("%d instructions", got.Instructions)
		}
		value, err := m.maps[0].Lookup(u32(0))
		must(t, err)
		if want := []byte{5, 6, 7, 8, 0, 0, 0, 0}; !bytes.Equal(value, want) {
			t.Errorf("%x, want %x", value, want)
		}
	})
}

// TestWhatRFC9669DoesNotDefineIsNotDecoded has one encoding for each reason to refuse one.
func TestWhatRFC9669DoesNotDefineIsNotDecoded(t *testing.T) {
	exit := "95 00 00 00 00 00 00 00"
	for name, code := range map[string]string{
		"no code":                          "",
		"half an instruction":              "95 00 00 00",
		"register 11":                      "bf 0b 00 00 00 00 00 00 " + exit,
		"a write to r10":                   "b7 0a 00 00 00 00 00 00 " + exit,
		"ALU operation 14":                 "e7 00 00 00 00 00 00 00 " + exit,
		"ADD with an offset":               "07 00 01 00 00 00 00 00 " + exit,
		"ADD of a register and a number":   "0f 10 00 00 01 00 00 00 " + exit,
		"MOV by a sign of 24 bits":         "bf 10 18 00 00 00 00 00 " + exit,
		"MOV of ALU by a sign of 32 bits":  "bc 10 20 00 00 00 00 00 " + exit,
		"NEG of a register":                "8f 10 00 00 00 00 00 00 " + exit,
		"a swap of 24 bits":                "dc 00 00 00 18 00 00 00 " + exit,
		"bswap with the source bit":        "df 00 00 00 10 00 00 00 " + exit,
		"jump operation 14":                "e5 00 00 00 00 00 00 00 " + exit,
		"a jump outside of the function":   "05 00 07 00 00 00 00 00 " + exit,
		"a jump in front of the function":  "05 00 f0 ff 00 00 00 00 " + exit,
		"a jump into an immediate":         "05 00 01 00 00 00 00 00 18 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 " + exit,
		"half of a 64-bit immediate":       "18 00 00 00 00 00 00 00",
		"a second half with an opcode":     "18 00 00 00 00 00 00 00 95 00 00 00 00 00 00 00 " + exit,
		"a map that is not there":          "18 11 00 00 05 00 00 00 00 00 00 00 00 00 00 00 " + exit,
		"a 64-bit immediate of kind 6":     "18 61 00 00 00 00 00 00 00 00 00 00 00 00 00 00 " + exit,
		"packet access of the old kind":    "30 00 00 00 00 00 00 00 " + exit,
		"a sign-extending load of 64 bits": "99 10 00 00 00 00 00 00 " + exit,
		"a load of mode 7":                 "e1 10 00 00 00 00 00 00 " + exit,
		"an atomic operation on a byte":    "d3 12 00 00 00 00 00 00 " + exit,
		"atomic operation 0x10":            "db 12 00 00 10 00 00 00 " + exit,
		"a call by BTF id":                 "85 20 00 00 01 00 00 00 " + exit,
		"a call through a register":        "8d 00 00 00 01 00 00 00 " + exit,
		"a call of no function":            "85 10 00 00 09 00 00 00 " + exit,
		"exit of JMP32":                    "96 00 00 00 00 00 00 00 " + exit,
	} {
		t.Run(name, func(t *testing.T) {
			m, err := newMachine(fixed())
			must(t, err)
			var bytecode []byte
			for _, b := range strings.Fields(code) {
				var v int
				for _, c := range b {
					v = v<<4 | strings.IndexRune("0123456789abcdef", c)
				}
				bytecode = append(bytecode, byte(v))
			}
			if err := m.addFunctions([]source{{name: "program"}}, [][]byte{bytecode}); err == nil {
				t.Errorf("decoded: %s", m.disassemble(0))
			}
		})
	}
}
