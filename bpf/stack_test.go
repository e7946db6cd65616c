package bpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"testing"
)

// stackLimit is what a program and the functions it calls have together, on
// Linux (MAX_BPF_STACK) and in PREVAIL (EBPF_TOTAL_STACK_SIZE).
const stackLimit = 512

const (
	registerFrame = 10   // R10 is the frame pointer
	opMoveFrame   = 0xbf // R = R10
	opAddConstant = 0x07
	classLoad     = 0x01
	classStore    = 0x02
	classStoreReg = 0x03
)

// program is a function of an object: its instructions, and how deep its frame is.
type program struct {
	instructions, stack int
	calls               []string
}

// programs reads the functions of an object.
func programs(t *testing.T, object []byte) map[string]program {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(object))
	must(t, err)
	symbols, err := file.Symbols()
	must(t, err)
	found := map[string]program{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		section := file.Sections[s.Section]
		code, err := section.Data()
		must(t, err)
		p := program{stack: frameDepth(code[s.Value : s.Value+s.Size]), instructions: int(s.Size) / instructionSize}
		p.calls = calledFrom(t, file, symbols, int(s.Section), s.Value, s.Value+s.Size)
		found[s.Name] = p
	}
	return found
}

// frameDepth is how far below the frame pointer a function reads, writes or points.
func frameDepth(code []byte) (depth int) {
	for at := 0; at+instructionSize <= len(code); at += instructionSize {
		op, target, source := code[at], code[at+1]&15, code[at+1]>>4
		offset := int(int16(binary.LittleEndian.Uint16(code[at+2:])))
		switch class := op & classMask; {
		case op == opLoad64:
			at += instructionSize
		case class == classLoad && source == registerFrame, (class == classStore || class == classStoreReg) && target == registerFrame:
			depth = max(depth, -offset)
		case op == opMoveFrame && source == registerFrame:
			if next := at + instructionSize; next < len(code) && code[next] == opAddConstant && code[next+1]&15 == target {
				depth = max(depth, -int(int32(binary.LittleEndian.Uint32(code[next+4:]))))
			}
		}
	}
	return depth
}

// calledFrom names the functions that the relocations of a range of a section lead to.
func calledFrom(t *testing.T, file *elf.File, symbols []elf.Symbol, section int, from, to uint64) (names []string) {
	t.Helper()
	for _, s := range file.Sections {
		if s.Type != elf.SHT_REL || int(s.Info) != section {
			continue
		}
		data, err := s.Data()
		must(t, err)
		for ; len(data) >= 16; data = data[16:] {
			offset, info := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
			if uint32(info) == relocation32 && from <= offset && offset < to {
				names = append(names, symbols[info>>32-1].Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestEveryProgramFitsTheStack(t *testing.T) {
	objects := map[string][]byte{"linux/lb.o": _LBBytes, "linux/decap_xdp.o": _DecapXDPBytes, "linux/decap_tc.o": _DecapTCBytes}
	for name, object := range WindowsObjects() {
		objects[name] = object
	}
	for name, object := range objects {
		t.Run(name, func(t *testing.T) {
			all := programs(t, object)
			for name, p := range all {
				depth := p.stack
				for _, called := range p.calls {
					if len(all[called].calls) > 0 {
						t.Errorf("%s calls %s, which calls %v: this test adds two frames only", name, called, all[called].calls)
					}
					depth = max(depth, p.stack+all[called].stack)
				}
				t.Logf("%-11s %5d instructions, %3d bytes of stack", name, p.instructions, depth)
				if depth > stackLimit {
					t.Errorf("%s needs %d bytes of stack, there are %d", name, depth, stackLimit)
				}
				if p.stack == 0 && name != "lb" {
					t.Errorf("%s seems to have no frame: this test reads the instructions wrongly", name)
				}
			}
		})
	}
}
