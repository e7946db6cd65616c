package winvm

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestALocalCallKeepsTheCallersRegistersAndStack(t *testing.T) {
	m := build(t, fixed(), nil,
		source{"program", asm.Instructions{
			asm.Mov.Imm(asm.R6, 60), asm.Mov.Imm(asm.R7, 70), storeImmediate(asm.RFP, -8, 800, asm.DWord),
			asm.Mov.Imm(asm.R1, 5), asm.Mov.Reg(asm.R2, asm.RFP),
			callFunction(1),
			asm.Add.Reg(asm.R0, asm.R6), asm.Add.Reg(asm.R0, asm.R7),
			asm.LoadMem(asm.R1, asm.RFP, -8, asm.DWord), asm.Add.Reg(asm.R0, asm.R1),
			asm.Return(),
		}},
		source{"callee", asm.Instructions{
			asm.Mov.Imm(asm.R6, 1), storeImmediate(asm.RFP, -8, 1, asm.DWord),
			// The caller's stack, by its pointer.
			asm.LoadMem(asm.R3, asm.R2, -8, asm.DWord), asm.Add.Imm(asm.R3, 1), asm.StoreMem(asm.R2, -8, asm.R3, asm.DWord),
			asm.Mov.Reg(asm.R0, asm.R1), asm.Return(),
		}})
	if got := run(t, m).Action; got != 5+60+70+801 {
		t.Errorf("%d, want %d", got, 5+60+70+801)
	}
}

// TestSharedStack is what happens in a native image, whose functions get their caller's r10.
func TestWithASharedStackAFunctionOverwritesItsCallersVariables(t *testing.T) {
	functions := []source{
		{"program", asm.Instructions{storeImmediate(asm.RFP, -8, 7, asm.DWord), callFunction(1), asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord), asm.Return()}},
		{"callee", asm.Instructions{storeImmediate(asm.RFP, -8, 9, asm.DWord), asm.Mov.Imm(asm.R0, 0), asm.Return()}},
	}
	for shared, want := range map[bool]Action{false: 7, true: 9} {
		options := fixed()
		options.SharedStack = shared
		if got := run(t, build(t, options, nil, functions...)).Action; got != want {
			t.Errorf("shared %v: %d, want %d", shared, got, want)
		}
	}
}

func TestACalledFunctionFindsNothingButItsArguments(t *testing.T) {
	for name, callee := range map[string]asm.Instructions{
		"r6":                             {asm.Mov.Reg(asm.R0, asm.R6), asm.Return()},
		"an argument that was not given": {asm.Mov.Reg(asm.R0, asm.R3), asm.Return()},
	} {
		t.Run(name, func(t *testing.T) {
			m := build(t, fixed(), nil,
				source{"program", asm.Instructions{asm.Mov.Imm(asm.R6, 1), asm.Mov.Imm(asm.R2, 1), callFunction(1), asm.Return()}},
				source{"callee", callee})
			if f := faults(t, m, UninitializedRegister); f.Function != "callee" || f.PC != 0 {
				t.Errorf("%v", f)
			}
		})
	}
	t.Run("the stack of an earlier call", func(t *testing.T) {
		m := build(t, fixed(), nil,
			source{"program", asm.Instructions{asm.Mov.Imm(asm.R1, 0), callFunction(1), asm.Mov.Imm(asm.R1, 1), callFunction(1), asm.Return()}},
			source{"callee", asm.Instructions{asm.Mov.Imm(asm.R0, 0), skip(asm.JNE.Imm(asm.R1, 0, ""), 1), storeImmediate(asm.RFP, -8, 0, asm.DWord),
				asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord), asm.Return()}})
		faults(t, m, UninitializedStack)
	})
	t.Run("the caller does not find the callee's arguments", func(t *testing.T) {
		m := build(t, fixed(), nil,
			source{"program", asm.Instructions{callFunction(1), asm.Mov.Reg(asm.R0, asm.R1), asm.Return()}},
			source{"callee", asm.Instructions{asm.Mov.Imm(asm.R1, 1), asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		if f := faults(t, m, UninitializedRegister); f.Function != "program" {
			t.Errorf("%v", f)
		}
	})
}

func TestSevenCallsDeepIsTheEnd(t *testing.T) {
	recursive := func(depth int32) []source {
		return []source{
			{"program", asm.Instructions{asm.Mov.Imm(asm.R1, depth), callFunction(1), asm.Return()}},
			{"down", asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Add.Imm(asm.R1, -1), skip(asm.JEq.Imm(asm.R1, 0, ""), 1), callFunction(1),
				asm.Add.Imm(asm.R0, 1), asm.Return()}},
		}
	}
	if got := run(t, build(t, fixed(), nil, recursive(7)...)).Action; got != 7 {
		t.Errorf("%d calls counted, want 7", got)
	}
	if f := faults(t, build(t, fixed(), nil, recursive(8)...), CallDepth); f.Function != "down" {
		t.Errorf("%v", f)
	}
}

func programs(entries uint32) MapSpec {
	return MapSpec{Name: "programs", Type: ProgArray, KeySize: 4, ValueSize: 4, MaxEntries: entries}
}

// tailCall calls the program at an index of the first map, and otherwise returns r0.
func tailCall(index int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.LoadMapPtr(asm.R2, 0), asm.Mov.Imm(asm.R3, index), callID(helperTailCall), asm.Return()}
}

func TestATailCallReplacesTheProgram(t *testing.T) {
	m := build(t, fixed(), []MapSpec{programs(4)},
		source{"program", tailCall(2)},
		source{"callee", asm.Instructions{asm.LoadMem(asm.R0, asm.R1, contextIfIndex, asm.Word), asm.Add.Imm(asm.R0, 42), asm.Return()}})
	must(t, m.maps[0].UpdateProgram(2, m.programs[1]))
	if got := run(t, m); got.Action != 42 || got.TailCalls != 1 || got.Instructions != 7 {
		t.Errorf("%+v", got)
	}
	p, err := m.maps[0].LookupProgram(2)
	must(t, err)
	if p.Name() != "callee" {
		t.Errorf("at 2 is %s", p.Name())
	}
	must(t, m.maps[0].Delete(u32(2)))
	if got := run(t, m).Action; got != negativeAction(InvalidArgument) {
		t.Errorf("after the deletion %d", int32(got))
	}
}

func negativeAction(c Code) Action { return Action(uint32(-int32(c))) }

func TestATailCallThatFailsReturnsItsCode(t *testing.T) {
	for name, c := range map[string]struct {
		spec  MapSpec
		index int32
	}{
		"an empty element":       {programs(4), 3},
		"beyond the array":       {programs(4), 4},
		"a map without programs": {MapSpec{Name: "array", Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 4}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := build(t, fixed(), []MapSpec{c.spec}, source{"program", tailCall(c.index)})
			if got := run(t, m).Action; got != negativeAction(InvalidArgument) {
				t.Errorf("%d", int32(got))
			}
		})
	}
}

func TestATailCallThatFailsClobbersItsArguments(t *testing.T) {
	m := build(t, fixed(), []MapSpec{programs(1)}, source{"program", append(tailCall(0)[:4:4], asm.Mov.Reg(asm.R0, asm.R2), asm.Return())})
	faults(t, m, UninitializedRegister)
}

func TestThirtyThreeTailCallsAreTheLimit(t *testing.T) {
	m := build(t, fixed(), []MapSpec{programs(1)}, source{"program", tailCall(0)})
	must(t, m.maps[0].UpdateProgram(0, m.programs[0]))
	if got := run(t, m); got.TailCalls != 33 || got.Action != negativeAction(NoMoreTailCalls) {
		t.Errorf("%d tail calls, then %d", got.TailCalls, int32(got.Action))
	}
}

// A tail call of a function ends the function, and the program goes on; its successor
// runs when it is done. On Linux the successor replaces both.
func TestATailCallOfAFunctionWaitsForItsProgram(t *testing.T) {
	m := build(t, fixed(), []MapSpec{programs(1), {Name: "seen", Type: Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
		source{"program", asm.Instructions{callFunction(1), asm.LoadMapValue(asm.R1, 1, 0), storeImmediate(asm.R1, 0, 77, asm.Word), asm.Return()}},
		source{"function", append(tailCall(0)[:4:4], asm.Mov.Imm(asm.R0, 5), asm.Return())},
		source{"successor", asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.Return()}})
	must(t, m.maps[0].UpdateProgram(0, m.programs[2]))
	if got := run(t, m); got.Action != 3 || got.TailCalls != 1 {
		t.Errorf("%+v", got)
	}
	value, err := m.maps[1].Lookup(u32(0))
	must(t, err)
	if got := binary.LittleEndian.Uint32(value); got != 77 {
		t.Errorf("the program did not go on: %d", got)
	}
}

func TestTheStackOfATailCalledProgramIsEmpty(t *testing.T) {
	m := build(t, fixed(), []MapSpec{programs(1)},
		source{"program", append(asm.Instructions{storeImmediate(asm.RFP, -8, 1, asm.DWord)}, tailCall(0)...)},
		source{"successor", asm.Instructions{asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord), asm.Return()}})
	must(t, m.maps[0].UpdateProgram(0, m.programs[1]))
	if f := faults(t, m, UninitializedStack); f.Function != "successor" {
		t.Errorf("%v", f)
	}
}
