package winvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf/asm"
)

// source is a function of a test's machine. Maps and functions are named by their
// number: asm.LoadMapPtr(r, 0) is the first map, callFunction(1) the second function.
type source struct {
	name string
	code asm.Instructions
}

// callID calls a helper by Windows' number, which asm would take for Linux'.
func callID(id int32) asm.Instruction {
	return asm.Instruction{OpCode: classJMP | jumpCall, Src: callHelper, Constant: int64(id)}
}

func callFunction(number int32) asm.Instruction {
	return asm.Instruction{OpCode: classJMP | jumpCall, Src: callLocal, Constant: int64(number)}
}

// skip makes a jump that leaves out a number of slots.
func skip(jump asm.Instruction, slots int16) asm.Instruction {
	jump.Offset = slots
	return jump
}

// storeImmediate is asm.StoreImm, which has none of 64 bits.
func storeImmediate(dst asm.Register, offset int16, value int64, size asm.Size) asm.Instruction {
	return asm.Instruction{OpCode: asm.OpCode(classST | modeMEM | uint8(size)), Dst: dst, Offset: offset, Constant: value}
}

// atomic sets the immediate as well, which cilium/ebpf 0.22.0 forgets to write: its
// Instruction.Marshal reads it before it derives it from the opcode.
func atomic(op asm.AtomicOp, dst, src asm.Register, size asm.Size, offset int16) asm.Instruction {
	in := op.Mem(dst, src, size, offset)
	in.Constant = int64(op >> 8)
	return in
}

func assemble(t testing.TB, code asm.Instructions) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, in := range code {
		if in.OpCode == classJMP|jumpCall {
			slot := []byte{byte(in.OpCode), byte(in.Src) << 4, 0, 0, 0, 0, 0, 0}
			binary.LittleEndian.PutUint32(slot[4:], uint32(in.Constant))
			out.Write(slot)
			continue
		}
		if _, err := in.Marshal(&out, binary.LittleEndian); err != nil {
			t.Fatalf("%v: %v", in, err)
		}
	}
	return out.Bytes()
}

// assembled resolves the numbers of assembled functions.
type assembled struct {
	m      *Machine
	starts []int
}

func (a *assembled) mapHandle(index int32) (uint64, error)        { return a.m.mapHandle(index) }
func (a *assembled) mapValue(index, offset int32) (uint64, error) { return a.m.mapValue(index, offset) }

func (a *assembled) function(_ int, imm int32) (int32, error) {
	if imm < 0 || int(imm) >= len(a.starts) {
		return 0, errors.New("no such function")
	}
	return int32(a.starts[imm]), nil
}

// build makes a machine without an ELF file around the code.
func build(t testing.TB, options Options, maps []MapSpec, functions ...source) *Machine {
	t.Helper()
	m, err := newMachine(options)
	must(t, err)
	for _, spec := range maps {
		_, err := m.addMap(spec)
		must(t, err)
	}
	var codes [][]byte
	for _, f := range functions {
		codes = append(codes, assemble(t, f.code))
	}
	must(t, m.addFunctions(functions, codes))
	return m
}

func (m *Machine) addFunctions(functions []source, codes [][]byte) error {
	a := &assembled{m: m}
	at := 0
	for _, code := range codes {
		a.starts = append(a.starts, at)
		at += instructionCount(code) + 1
	}
	for i, code := range codes {
		d := &decoder{code: code, first: a.starts[i], resolve: a}
		if err := d.decode(); err != nil {
			return err
		}
		m.code = append(m.code, d.out...)
		m.functions = append(m.functions, function{functions[i].name, a.starts[i], d.slots})
		m.programs = append(m.programs, &Program{m, functions[i].name, "xdp_test", a.starts[i]})
	}
	return nil
}

// fixed are options under which every run is the same.
func fixed() Options {
	return Options{Clock: func() time.Duration { return 1234567890 * time.Nanosecond }, Random: func() uint32 { return 0xfeedbeef }}
}

// clockOf counts in Windows' ticks of 100 ns.
func clockOf(ticks *uint64) func() time.Duration {
	return func() time.Duration { return time.Duration(*ticks) * 100 * time.Nanosecond }
}

// frame60 is a frame whose bytes count up from 0.
func frame60() []byte {
	frame := make([]byte, 60)
	for i := range frame {
		frame[i] = byte(i)
	}
	return frame
}

// run runs the first program on frame60.
func run(t testing.TB, m *Machine) Result {
	t.Helper()
	result, err := m.Run(m.programs[0], frame60())
	must(t, err)
	return result
}

// faults runs the first program on frame60 and wants a fault.
func faults(t testing.TB, m *Machine, want FaultKind) *Fault {
	t.Helper()
	result, err := m.Run(m.programs[0], frame60())
	var fault *Fault
	if !errors.As(err, &fault) {
		t.Fatalf("no fault but %+v, %v; want %s", result, err, want)
	}
	if fault.Kind != want {
		t.Fatalf("%v; want %s", fault, want)
	}
	return fault
}

// returning is a program that ends with what the code left in r0.
func returning(code ...asm.Instruction) asm.Instructions {
	return append(code, asm.Return())
}

func u32(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
