package winvm

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

func benchmark(b *testing.B, m *Machine) {
	b.Helper()
	frame := frame60()
	instructions := 0
	for range 100 { // maps and buffers reach their size
		_, err := m.Run(m.programs[0], frame)
		must(b, err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		result, err := m.Run(m.programs[0], frame)
		if err != nil {
			b.Fatal(err)
		}
		instructions += result.Instructions
	}
	b.ReportMetric(float64(instructions)/b.Elapsed().Seconds()/1e6, "M-insn/s")
}

// BenchmarkArithmetic is a loop of ALU operations and a jump.
func BenchmarkArithmetic(b *testing.B) {
	benchmark(b, build(b, fixed(), nil, source{"program", asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.Mov.Imm(asm.R1, 1000),
		asm.Add.Reg(asm.R0, asm.R1), asm.Xor.Imm(asm.R0, 0x55), asm.LSh.Imm32(asm.R0, 1), asm.Sub.Imm(asm.R1, 1),
		skip(asm.JNE.Imm(asm.R1, 0, ""), -5),
		asm.Return(),
	}}))
}

// BenchmarkMemory copies a frame's bytes to the stack and back.
func BenchmarkMemory(b *testing.B) {
	code := packetPointers()
	for at := int16(0); at+8 <= 56; at += 8 {
		code = append(code, asm.LoadMem(asm.R4, asm.R2, at, asm.DWord), asm.StoreMem(asm.RFP, at-64, asm.R4, asm.DWord),
			asm.LoadMem(asm.R4, asm.RFP, at-64, asm.Word), asm.StoreMem(asm.R2, at, asm.R4, asm.Word))
	}
	benchmark(b, build(b, fixed(), nil, source{"program", returning(append(code, asm.Mov.Imm(asm.R0, 1))...)}))
}

// BenchmarkMaps inserts, finds and deletes an element of an LRU map, and grows the frame.
func BenchmarkMaps(b *testing.B) {
	key := asm.Instructions{asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4)}
	benchmark(b, build(b, fixed(), []MapSpec{{Name: "map", Type: LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 1024}},
		source{"program", join(asm.Mov.Reg(asm.R6, asm.R1), storeImmediate(asm.RFP, -4, 1, asm.Word),
			key, asm.Mov.Reg(asm.R3, asm.R2), asm.Mov.Imm(asm.R4, 0), callID(2), key, callID(1), key, callID(3),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, -20), callID(helperAdjustHead), asm.Return())}))
}

func TestARunAllocatesNothing(t *testing.T) {
	key := asm.Instructions{asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4)}
	m := build(t, fixed(), []MapSpec{{Name: "map", Type: LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 64},
		{Name: "ring", Type: RingBuf, MaxEntries: pageSize}},
		source{"program", join(asm.Mov.Reg(asm.R6, asm.R1), callID(6), asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
			key, asm.Mov.Reg(asm.R3, asm.R2), asm.Mov.Imm(asm.R4, 0), callID(2), key, callID(1),
			asm.LoadMapPtr(asm.R1, 1), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.Mov.Imm(asm.R3, 4), asm.Mov.Imm(asm.R4, 0), callID(11),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, -20), callID(helperAdjustHead), callFunction(1), asm.Return())},
		source{"function", returning(asm.Mov.Imm(asm.R0, 1))})
	next := uint32(0)
	m.options.Random = func() uint32 { next++; return next }
	frame := frame60()
	step := func() {
		if _, err := m.Run(m.programs[0], frame); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRunsAreRepeatable(t *testing.T) {
	var first string
	for i := range 3 {
		m := build(t, fixed(), everyMap(), source{"program", join(asm.Mov.Reg(asm.R6, asm.R1), callID(6), asm.Mov.Reg(asm.R7, asm.R0), callID(7), asm.Xor.Reg(asm.R7, asm.R0),
			asm.LoadMapPtr(asm.R1, 7), asm.StoreMem(asm.RFP, -8, asm.R7, asm.DWord), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0), callID(2), asm.LoadMapPtr(asm.R0, 3), asm.Add.Reg(asm.R0, asm.R6), asm.Return())})
		got := ""
		for range 5 {
			result := run(t, m)
			got += string(u32(uint32(result.Action))) + string(result.Frame)
		}
		for key, value := range m.maps[7].All() {
			got += string(key) + string(value)
		}
		if i == 0 {
			first = got
		}
		if got != first {
			t.Errorf("run %d differs", i)
		}
	}
}
