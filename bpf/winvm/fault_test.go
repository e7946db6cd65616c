package winvm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

func values(spec ...MapSpec) []MapSpec {
	return append([]MapSpec{{Name: "values", Type: Array, KeySize: 4, ValueSize: 12, MaxEntries: 4}}, spec...)
}

// lookup leaves in r0 the address of element 0 of the first map, unchecked.
func lookup() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		storeImmediate(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, 0), callID(1),
	}
}

// packet leaves the frame's start in r2 and its end in r3.
func packetPointers() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R1, contextData, asm.DWord), asm.LoadMem(asm.R3, asm.R1, contextDataEnd, asm.DWord),
	}
}

func join(parts ...any) asm.Instructions {
	var all asm.Instructions
	for _, p := range parts {
		switch p := p.(type) {
		case asm.Instruction:
			all = append(all, p)
		case asm.Instructions:
			all = append(all, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return all
}

func TestEachFaultIsFoundWhereItIs(t *testing.T) {
	exit := asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
	adjust := asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 4), callID(helperAdjustHead)}
	for _, c := range []struct {
		name   string
		code   asm.Instructions
		kind   FaultKind
		at     string // the instruction
		reason string // a part of it
	}{
		{"a lookup that found nothing", join(storeImmediate(asm.RFP, -4, 9, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, 0), callID(1), asm.LoadMem(asm.R1, asm.R0, 4, asm.Word), exit),
			NullPointer, "r1 = *(u32 *)(r0 +4)", "read of 4 bytes at address 0x4"},
		{"in front of null", join(asm.Mov.Imm(asm.R1, 0), storeImmediate(asm.R1, -8, 0, asm.DWord), exit),
			NullPointer, "*(u64 *)(r1 -8) = 0", "write of 8 bytes at address -8"},
		{"a number as an address", join(constant(asm.R1, 0x7fff00112233), asm.LoadMem(asm.R0, asm.R1, 0, asm.Byte), exit),
			NotAPointer, "r0 = *(u8 *)(r1 +0)", "read of 1 bytes at 0x7fff00112233"},
		{"an address of no region", join(constant(asm.R1, 0xffff000000000000), asm.LoadMem(asm.R0, asm.R1, 0, asm.Byte), exit),
			NotAPointer, "r0 = *(u8 *)(r1 +0)", "0xffff000000000000"},
		{"a map as memory", join(asm.LoadMapPtr(asm.R1, 0), asm.LoadMem(asm.R0, asm.R1, 0, asm.Byte), exit),
			NotAPointer, "r0 = *(u8 *)(r1 +0)", "address of map values itself"},
		{"behind a map's value", join(lookup(), asm.LoadMem(asm.R1, asm.R0, 9, asm.Word), exit),
			OutOfBounds, "r1 = *(u32 *)(r0 +9)", "offset 9 of a value of 12 bytes of map values"},
		{"the next value of a map", join(lookup(), asm.LoadMem(asm.R1, asm.R0, 16, asm.Word), exit),
			OutOfBounds, "r1 = *(u32 *)(r0 +16)", "of map values"},
		{"in front of a map's value", join(lookup(), asm.LoadMem(asm.R1, asm.R0, -1, asm.Byte), exit),
			OutOfBounds, "r1 = *(u8 *)(r0 -1)", "offset -1 of a value"},
		{"behind the frame", join(packetPointers(), asm.LoadMem(asm.R0, asm.R3, 0, asm.Byte), exit),
			OutOfBounds, "r0 = *(u8 *)(r3 +0)", "offset 60 of a frame of 60"},
		{"across the frame's end", join(packetPointers(), storeImmediate(asm.R3, -1, 0, asm.Half), exit),
			OutOfBounds, "*(u16 *)(r3 -1) = 0", "write of 2 bytes at offset 59 of a frame of 60"},
		{"in front of the frame", join(packetPointers(), asm.LoadMem(asm.R0, asm.R2, -2, asm.Half), exit),
			OutOfBounds, "r0 = *(u16 *)(r2 -2)", "offset -2 of a frame"},
		{"behind the context", join(asm.LoadMem(asm.R0, asm.R1, 32, asm.Word), exit),
			OutOfBounds, "r0 = *(u32 *)(r1 +32)", "offset 32 of the context's 32"},
		{"the context's pointers", join(asm.StoreMem(asm.R1, 0, asm.R1, asm.DWord), exit),
			ReadOnly, "*(u64 *)(r1 +0) = r1", "offset 0 of the context"},
		{"above the stack", join(storeImmediate(asm.RFP, 0, 0, asm.Byte), exit),
			OutOfBounds, "*(u8 *)(r10 +0) = 0", "r10+0 of a frame of 512"},
		{"below the stack", join(storeImmediate(asm.RFP, -516, 0, asm.Byte), exit),
			OutOfBounds, "*(u8 *)(r10 -516) = 0", "r10-516"},
		{"stack that was never written", join(storeImmediate(asm.RFP, -8, 0, asm.Word), asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord), exit),
			UninitializedStack, "r0 = *(u64 *)(r10 -8)", "read of 8 bytes at r10-8"},
		{"a key with padding that was never written", join(storeImmediate(asm.RFP, -4, 0, asm.Half), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, 0), callID(1), exit),
			UninitializedStack, "call 1 (map_lookup_elem)", "key in r2: read of 4 bytes at r10-4"},
		{"atomically, stack that was never written", join(asm.Mov.Imm(asm.R1, 0), atomic(asm.AddAtomic, asm.RFP, asm.R1, asm.DWord, -8), exit),
			UninitializedStack, "lock *(u64 *)(r10 -8) += r1", "read of 8 bytes"},
		{"a register that was never written", join(asm.Mov.Reg(asm.R0, asm.R3), asm.Return()),
			UninitializedRegister, "r0 = r3", "r3 holds no value here"},
		{"r0 at the exit", join(asm.Return()), UninitializedRegister, "exit", "r0"},
		{"an argument after the call", join(lookup(), asm.Mov.Reg(asm.R0, asm.R1), asm.Return()),
			UninitializedRegister, "r0 = r1", "r1"},
		{"a helper's argument", join(asm.LoadMapPtr(asm.R1, 0), callID(1), exit), UninitializedRegister, "call 1 (map_lookup_elem)", "r2"},
		{"a stale packet pointer", join(packetPointers(), asm.Mov.Reg(asm.R7, asm.R2), adjust, storeImmediate(asm.R7, 0, 0, asm.Byte), exit),
			StalePacket, "*(u8 *)(r7 +0) = 0", "from before bpf_xdp_adjust_head"},
		{"a stale packet pointer in front of the frame", join(packetPointers(), asm.Mov.Reg(asm.R7, asm.R2), adjust, storeImmediate(asm.R7, -4, 0, asm.Byte), exit),
			StalePacket, "*(u8 *)(r7 -4) = 0", "from before bpf_xdp_adjust_head"},
		{"a helper of Linux", join(callID(160), exit), UnknownHelper, "call 160 (unknown)", "efw-0.21 has no helper 160"},
		{"a negative helper", join(callID(-1), exit), UnknownHelper, "call -1 (unknown)", "no helper -1"},
		{"a number as a map", join(asm.Mov.Imm(asm.R1, 3), asm.Mov.Reg(asm.R2, asm.RFP), callID(1), exit),
			BadArgument, "call 1 (map_lookup_elem)", "r1 is 0x3, which is no map"},
		{"a map's inside as a map", join(asm.LoadMapPtr(asm.R1, 0), asm.Add.Imm(asm.R1, 8), asm.Mov.Reg(asm.R2, asm.RFP), callID(1), exit),
			BadArgument, "call 1 (map_lookup_elem)", "which is no map"},
		{"null as a key", join(asm.LoadMapPtr(asm.R1, 0), asm.Mov.Imm(asm.R2, 0), callID(1), exit),
			NullPointer, "call 1 (map_lookup_elem)", "key in r2"},
		{"a value that leaves the stack", join(storeImmediate(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.R2), asm.Mov.Imm(asm.R4, 0), asm.LoadMapPtr(asm.R1, 0), callID(2), exit),
			OutOfBounds, "call 2 (map_update_elem)", "value in r3: read of 12 bytes at r10-4"},
		{"another context", join(asm.Mov.Reg(asm.R1, asm.RFP), asm.Mov.Imm(asm.R2, 0), callID(helperAdjustHead), exit),
			BadArgument, "call 65536 (xdp_adjust_head)", "not the context"},
		{"an advance by the whole frame", join(asm.Mov.Imm(asm.R2, 60), callID(helperAdjustHead), exit),
			BadArgument, "call 65536 (xdp_adjust_head)", "by 60 of a frame of 60"},
		{"an endless loop", join(skip(asm.Ja.Label(""), -1)), BudgetExceeded, "goto 0", "1000000 instructions"},
		{"no exit", join(asm.Mov.Imm(asm.R0, 1)), MissingExit, "end of function", "runs off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := build(t, fixed(), values(), source{"program", c.code})
			fault := faults(t, m, c.kind)
			if fault.Instruction != c.at || !strings.Contains(fault.Reason, c.reason) {
				t.Errorf("%q because %q, want %q because %q", fault.Instruction, fault.Reason, c.at, c.reason)
			}
			if fault.Function != "program" || !strings.HasPrefix(fault.Error(), fmt.Sprintf("program+%d: ", fault.PC)) {
				t.Errorf("%v in %q", fault, fault.Function)
			}
			// The machine must be as good as new.
			if _, err := m.Run(m.programs[0], frame60()); err == nil || err.Error() != fault.Error() {
				t.Errorf("then %v, first %v", err, fault)
			}
		})
	}
}

func TestAFaultCountsItsPlaceAsLlvmObjdumpDoes(t *testing.T) {
	m := build(t, fixed(), values(), source{"program", join(constant(asm.R1, 7), asm.Mov.Imm(asm.R0, 0), asm.LoadMem(asm.R0, asm.R1, 0, asm.Byte))})
	if fault := faults(t, m, NullPointer); fault.PC != 3 {
		t.Errorf("at %d, want 3: a 64-bit immediate takes two slots", fault.PC)
	}
}

func TestWhatPREVAILLetsPassIsNoFault(t *testing.T) {
	for name, code := range map[string]asm.Instructions{
		"an unaligned load":                    join(packetPointers(), asm.LoadMem(asm.R0, asm.R2, 1, asm.DWord)),
		"the last byte of the frame":           join(packetPointers(), asm.LoadMem(asm.R0, asm.R3, -1, asm.Byte)),
		"the lowest byte of the stack":         join(storeImmediate(asm.RFP, -512, 0, asm.Byte), asm.Mov.Imm(asm.R0, 0)),
		"a store to the context's data_meta":   join(storeImmediate(asm.R1, contextMeta, 5, asm.DWord), asm.LoadMem(asm.R0, asm.R1, contextMeta, asm.DWord)),
		"a stack slot written in two halves":   join(storeImmediate(asm.RFP, -8, 0, asm.Word), storeImmediate(asm.RFP, -4, 0, asm.Word), asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord)),
		"pointers behind the end for compares": join(packetPointers(), asm.Add.Imm(asm.R2, 100000), asm.Mov.Imm(asm.R0, 0), skip(asm.JGT.Reg(asm.R2, asm.R3, ""), 1), asm.LoadMem(asm.R0, asm.R2, 0, asm.Byte)),
	} {
		t.Run(name, func(t *testing.T) {
			run(t, build(t, fixed(), values(), source{"program", returning(code...)}))
		})
	}
}
