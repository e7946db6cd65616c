package winvm

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestInstructionsReadAsLlvmObjdumpWritesThem(t *testing.T) {
	for want, in := range map[string]asm.Instruction{
		"r1 += r2":                   asm.Add.Reg(asm.R1, asm.R2),
		"w1 s/= -5":                  asm.SDiv.Imm32(asm.R1, -5),
		"r1 = -r1":                   asm.Neg.Imm(asm.R1, 0),
		"r1 = (s8)r2":                asm.MovSX8.Reg(asm.R1, asm.R2),
		"w1 = (s16)w2":               asm.MovSX16.Reg32(asm.R1, asm.R2),
		"r1 s>>= 7":                  asm.ArSh.Imm(asm.R1, 7),
		"r1 = be16 r1":               asm.HostTo(asm.BE, asm.R1, asm.Half),
		"r1 = le32 r1":               asm.HostTo(asm.LE, asm.R1, asm.Word),
		"r1 = 0x1122334455667788 ll": constant(asm.R1, 0x1122334455667788),
		"r1 = *(s16 *)(r2 -6)":       asm.LoadMemSX(asm.R1, asm.R2, -6, asm.Half),
		"*(u64 *)(r10 -8) = 3":       storeImmediate(asm.RFP, -8, 3, asm.DWord),
		"goto 1":                     skip(asm.Ja.Label(""), 0),
		"if r1 s> -3 goto 2":         skip(asm.JSGT.Imm(asm.R1, -3, ""), 1),
		"if w1 & w2 goto 1":          skip(asm.JSet.Reg32(asm.R1, asm.R2, ""), 0),
		"lock *(u32 *)(r1 +4) |= w2": atomic(asm.OrAtomic, asm.R1, asm.R2, asm.Word, 4),
		"r2 = atomic_fetch_xor((u64 *)(r1 +8), r2)": atomic(asm.FetchXor, asm.R1, asm.R2, asm.DWord, 8),
		"r2 = xchg((u64 *)(r1 +0), r2)":             atomic(asm.Xchg, asm.R1, asm.R2, asm.DWord, 0),
		"r0 = cmpxchg((u64 *)(r1 +0), r0, r2)":      atomic(asm.CmpXchg, asm.R1, asm.R2, asm.DWord, 0),
		"call 22 (memcpy)":                          callID(22),
		"call program":                              callFunction(0),
		"exit":                                      asm.Return(),
	} {
		m := build(t, fixed(), nil, source{"program", asm.Instructions{in, asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		if got := m.disassemble(0); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
