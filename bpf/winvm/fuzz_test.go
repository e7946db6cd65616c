package winvm

import (
	"encoding/binary"
	"errors"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// model computes an operation of RFC 9669 sections 4.1 and 4.2 with integers of any size, from
// the text of the RFC and not from the interpreter.
func model(op asm.ALUOp, width uint, dst, src uint64) uint64 {
	modulus := new(big.Int).Lsh(big.NewInt(1), width)
	unsigned := func(v uint64) *big.Int { return new(big.Int).Mod(new(big.Int).SetUint64(v), modulus) }
	signed := func(v uint64, bits uint) *big.Int {
		half := new(big.Int).Lsh(big.NewInt(1), bits-1)
		n := new(big.Int).Mod(new(big.Int).SetUint64(v), new(big.Int).Lsh(half, 1))
		if n.Cmp(half) >= 0 {
			n.Sub(n, new(big.Int).Lsh(half, 1))
		}
		return n
	}
	a, b := unsigned(dst), unsigned(src)
	count := uint(new(big.Int).Mod(b, big.NewInt(int64(width))).Uint64())
	result := new(big.Int)
	switch op {
	case asm.Add:
		result.Add(a, b)
	case asm.Sub:
		result.Sub(a, b)
	case asm.Mul:
		result.Mul(a, b)
	case asm.Div:
		if b.Sign() != 0 {
			result.Quo(a, b)
		}
	case asm.SDiv:
		if b.Sign() != 0 {
			result.Quo(signed(dst, width), signed(src, width))
		}
	case asm.Mod:
		result.Set(a)
		if b.Sign() != 0 {
			result.Rem(a, b)
		}
	case asm.SMod:
		result.Set(a)
		if b.Sign() != 0 {
			result.Rem(signed(dst, width), signed(src, width))
		}
	case asm.Or:
		result.Or(a, b)
	case asm.And:
		result.And(a, b)
	case asm.Xor:
		result.Xor(a, b)
	case asm.Mov:
		result.Set(b)
	case asm.MovSX8:
		result.Set(signed(src, 8))
	case asm.MovSX16:
		result.Set(signed(src, 16))
	case asm.MovSX32:
		result.Set(signed(src, 32))
	case asm.Neg:
		result.Neg(a)
	case asm.LSh:
		result.Lsh(a, count)
	case asm.RSh:
		result.Rsh(a, count)
	case asm.ArSh:
		result.Rsh(signed(dst, width), count)
	}
	return result.Mod(result, modulus).Uint64()
}

func FuzzALU(f *testing.F) {
	for _, seed := range []uint64{0, 1, 31, 63, 64, 0x80000000, 0xffffffff, minInt64, allOnes} {
		for op := range uint8(18) {
			f.Add(op, true, seed, uint64(3))
			f.Add(op, false, allOnes-seed, seed)
		}
	}
	operations := []asm.ALUOp{asm.Add, asm.Sub, asm.Mul, asm.Div, asm.SDiv, asm.Or, asm.And, asm.LSh, asm.RSh, asm.ArSh,
		asm.Mod, asm.SMod, asm.Xor, asm.Mov, asm.MovSX8, asm.MovSX16, asm.MovSX32, asm.Neg}
	f.Fuzz(func(t *testing.T, number uint8, wide bool, dst, src uint64) {
		op := operations[int(number)%len(operations)]
		width := uint(64)
		if !wide {
			width = 32
		}
		if op == asm.MovSX32 && !wide {
			return
		}
		want := model(op, width, dst, src)
		in := op.Reg(asm.R0, asm.R1)
		if !wide {
			in = op.Reg32(asm.R0, asm.R1)
		}
		if op == asm.Neg {
			if in = op.Imm(asm.R0, 0); !wide {
				in = op.Imm32(asm.R0, 0)
			}
		}
		if got := evaluate(t, constant(asm.R0, dst), constant(asm.R1, src), in); got != want {
			t.Errorf("%v of %#x and %#x: %#x, want %#x", in, dst, src, got, want)
		}
		if op == asm.Neg || isSignExtension(op) {
			return
		}
		if in = op.Imm(asm.R0, int32(src)); !wide {
			in = op.Imm32(asm.R0, int32(src))
		}
		want = model(op, width, dst, uint64(int64(int32(src))))
		if got := evaluate(t, constant(asm.R0, dst), in); got != want {
			t.Errorf("%v of %#x: %#x, want %#x", in, dst, got, want)
		}
	})
}

// FuzzLoad gives anything to Load, and a frame to what comes of it.
func FuzzLoad(f *testing.F) {
	objects, err := filepath.Glob("../windows/*/*.o")
	if err != nil || len(objects) == 0 {
		f.Fatalf("no objects: %v", err)
	}
	for _, name := range objects {
		object, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(object) > 16<<10 {
			continue // the fuzzer would only shorten it
		}
		f.Add(object)
		f.Add(object[:len(object)/2])
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		options := fixed()
		options.Budget = 2000
		m, err := Load(object, options)
		if err != nil {
			return
		}
		for _, p := range m.Programs() {
			if _, err := m.Run(p, frame60()); err != nil {
				wantFault(t, err)
			}
		}
	})
}

func wantFault(t *testing.T, err error) {
	t.Helper()
	var fault *Fault
	if !errors.As(err, &fault) || fault.Kind.String() == "" || fault.Instruction == "" || fault.Reason == "" {
		t.Fatalf("an error that is no whole fault: %#v", err)
	}
}

// everyMap has one of each type.
func everyMap() []MapSpec {
	inner := &MapSpec{Name: "inner", Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 2}
	return []MapSpec{
		{"hash", Hash, 4, 8, 4, nil}, {"array", Array, 4, 8, 4, nil}, {"programs", ProgArray, 4, 4, 2, nil},
		{"percpu_hash", PerCPUHash, 4, 8, 4, nil}, {"percpu_array", PerCPUArray, 4, 8, 4, nil},
		{"hash_of_maps", HashOfMaps, 4, 4, 4, inner}, {"array_of_maps", ArrayOfMaps, 4, 4, 4, inner},
		{"lru", LRUHash, 4, 8, 4, nil}, {"lpm", LPMTrie, 8, 8, 4, nil}, {"queue", Queue, 0, 8, 2, nil},
		{"lru_percpu", LRUPerCPUHash, 4, 8, 4, nil}, {"stack", Stack, 0, 8, 2, nil},
		{"ring", RingBuf, 0, 0, pageSize, nil}, {"perf", PerfEventArray, 0, 0, pageSize, nil},
	}
}

// FuzzRun takes bytes for a program and its function, as they are or made likelier to run, and
// for a frame. Whatever they do, only a fault may come of it.
func FuzzRun(f *testing.F) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		code := make([]byte, 8*(4+random.IntN(40)))
		for i := range code {
			code[i] = byte(random.Uint32())
		}
		f.Add(code, []byte("frame"), true)
	}
	f.Add([]byte("\xb7\x00\x00\x00\x01\x00\x00\x00\x95\x00\x00\x00\x00\x00\x00\x00"), []byte("frame"), false)
	f.Fuzz(func(t *testing.T, code, frame []byte, mend bool) {
		code = code[:len(code)&^7]
		if mend {
			code = likely(code)
		}
		options := fixed()
		options.Budget, options.CPUs, options.Headroom = 5000, 2, 8
		m := build(t, options, everyMap())
		half := len(code) / 2 &^ 7
		if err := m.addFunctions([]source{{name: "program"}, {name: "function"}}, [][]byte{code[half:], code[:half]}); err != nil {
			return
		}
		must(t, m.maps[2].UpdateProgram(0, m.programs[1]))
		must(t, m.maps[2].UpdateProgram(1, m.programs[0]))
		for _, mp := range []*Map{m.maps[5], m.maps[6]} {
			inner, err := mp.NewInner("inner")
			must(t, err)
			must(t, mp.UpdateMap(u32(1), inner, Any))
		}
		for cpu := range 2 {
			must(t, m.SetCPU(cpu))
			if _, err := m.Run(m.programs[0], frame); err != nil && len(frame) > 0 && len(frame) <= maxFrame {
				wantFault(t, err)
			}
		}
		for _, mp := range m.Maps() {
			for range mp.All() {
			}
		}
		for i := range m.code {
			m.disassemble(i)
		}
	})
}

// likely makes instructions of bytes that mostly decode: a program that begins with an access
// through pointers that it has, calls helpers with maps, and ends.
func likely(bytes []byte) []byte {
	var code []byte
	emit := func(opcode, dst, src byte, offset int16, imm int32) {
		code = append(code, opcode, dst|src<<4)
		code = binary.LittleEndian.AppendUint16(code, uint16(offset))
		code = binary.LittleEndian.AppendUint32(code, uint32(imm))
	}
	// r6: the context, r7: the frame, r8: the stack, all written.
	emit(0xbf, 6, 1, 0, 0)
	emit(0x79, 7, 1, 0, 0)
	emit(0xbf, 8, 10, 0, 0)
	for at := int16(-64); at < 0; at += 8 {
		emit(0x7a, 10, 0, at, int32(at)&3)
	}
	for r := byte(0); r < 6; r++ {
		emit(0xb7, r, 0, 0, int32(r))
	}
	for ; len(bytes) >= 8; bytes = bytes[8:] {
		b := bytes[:8]
		imm := int32(binary.LittleEndian.Uint32(b[4:]))
		offset := int16(int8(b[2]))
		switch b[0] % 8 {
		case 0: // a helper with a map and pointers to the stack
			emit(0x18, 1, immediateMap, 0, int32(b[1]%14))
			emit(0x00, 0, 0, 0, 0)
			emit(0xbf, 2, 10, 0, 0)
			emit(0x07, 2, 0, 0, -8*int32(1+b[2]%8))
			emit(0xbf, 3, 10, 0, 0)
			emit(0x07, 3, 0, 0, -8*int32(1+b[3]%8))
			emit(0xb7, 4, 0, 0, int32(b[4]%4))
			emit(0xb7, 5, 0, 0, imm)
			emit(0x85, 0, 0, 0, int32(b[5]%34))
		case 1: // the hook's own
			emit(0xbf, 1, 6, 0, 0)
			emit(0xb7, 2, 0, 0, int32(offset))
			emit(0x85, 0, 0, 0, helperAdjustHead)
			emit(0x79, 7, 6, 0, 0)
		case 2: // a tail call, or a function
			emit(0xbf, 1, 6, 0, 0)
			emit(0x18, 2, immediateMap, 0, 2)
			emit(0x00, 0, 0, 0, 0)
			emit(0xb7, 3, 0, 0, int32(b[1]%3))
			emit(0x85, 0, 0, 0, helperTailCall)
		case 3:
			emit(0xbf, 1, 6, 0, 0)
			emit(0x85, 0, callLocal, 0, int32(b[1]%2))
		case 4: // loads and stores
			emit([]byte{0x61, 0x69, 0x71, 0x79, 0x81, 0x89, 0x91}[b[1]%7], b[3]%6, 6+b[4]%3, offset, 0)
			emit([]byte{0x62, 0x6a, 0x72, 0x7a}[b[1]%4], 6+b[4]%3, 0, offset, imm)
		case 5: // through what a helper returned
			emit(0x15, 0, 0, 1, 0)
			emit([]byte{0x61, 0x79}[b[1]%2], b[3]%6, 0, offset, 0)
		case 6:
			emit(0x05|b[1]&0xf0&^0x80, b[3]%9, 0, int16(b[2]%4), imm)
		default:
			emit(0x07|b[1]&0xf0, b[3]%6, 0, 0, imm)
		}
	}
	emit(0xb7, 0, 0, 0, 1)
	emit(0x95, 0, 0, 0, 0)
	return code
}
