package winvm

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// Relocations of eBPF (Documentation/bpf/llvm_reloc.rst of Linux).
const (
	relocation64     = 1  // R_BPF_64_64: an address, for a 64-bit immediate
	relocationABS64  = 2  // R_BPF_64_ABS64: the same, in data
	relocationABS32  = 3  // R_BPF_64_ABS32
	relocationNoLoad = 4  // R_BPF_64_NODYLD32: within BTF, nothing that a loader does
	relocation32     = 10 // R_BPF_64_32: a call
)

// relocation is an entry of a SHT_REL section, the only kind that eBPF has.
type relocation struct {
	offset uint64
	kind   uint32
	symbol elf.Symbol
}

// relocations reads those of a section.
func (o *object) relocations(of elf.SectionIndex) ([]relocation, error) {
	var found []relocation
	for _, s := range o.file.Sections {
		if s.Type == elf.SHT_RELA && elf.SectionIndex(s.Info) == of {
			return nil, fmt.Errorf("section %s: eBPF has no relocations with addends", s.Name)
		}
		if s.Type != elf.SHT_REL || elf.SectionIndex(s.Info) != of || s.Flags&elf.SHF_COMPRESSED != 0 {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		for ; len(data) >= 16; data = data[16:] {
			info := binary.LittleEndian.Uint64(data[8:])
			index := info >> 32
			if index == 0 || index > uint64(len(o.symbols)) {
				return nil, fmt.Errorf("section %s: relocation to symbol %d, which is none", s.Name, index)
			}
			found = append(found, relocation{binary.LittleEndian.Uint64(data), uint32(info), o.symbols[index-1]})
		}
	}
	return found, nil
}

// relocate writes maps, variables and functions into the code that refers to them.
func (o *object) relocate() error {
	for i := range o.functions {
		if err := unrelocated(o.functions[i].code); err != nil {
			return fmt.Errorf("function %s: %w", o.functions[i].Name, err)
		}
	}
	for i, s := range o.file.Sections {
		index := elf.SectionIndex(i)
		if s.Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		relocations, err := o.relocations(index)
		if err != nil {
			return err
		}
		for _, r := range relocations {
			in := o.functionIndex(index, r.offset, true)
			if in < 0 {
				return fmt.Errorf("section %s: relocation of byte %d, which is in no function", s.Name, r.offset)
			}
			if err := o.relocateOne(&o.functions[in], r); err != nil {
				return fmt.Errorf("function %s: reference to %q at byte %d: %w", o.functions[in].Name, r.symbol.Name, r.offset-o.functions[in].Value, err)
			}
		}
	}
	return nil
}

// unrelocated refuses references that the compiler resolved itself: no file descriptor
// means anything in an object.
func unrelocated(code []byte) error {
	for at := 0; at+slotSize <= len(code); at += slotSize {
		if code[at] != classLD|modeIMM|sizeDW {
			continue
		}
		if source := code[at+1] >> 4; source != immediateNumber {
			return fmt.Errorf("instruction %d: a 64-bit immediate of kind %d without a relocation", at/slotSize, source)
		}
		at += slotSize
	}
	return nil
}

func (o *object) relocateOne(f *linkedFunction, r relocation) error {
	at := r.offset - f.Value
	if at%slotSize != 0 || at+slotSize > uint64(len(f.code)) {
		return fmt.Errorf("not at an instruction")
	}
	slot := f.code[at:]
	in := readInstruction(slot)
	switch r.kind {
	case relocation32:
		if in.opcode != classJMP|jumpCall || in.src != callLocal {
			return fmt.Errorf("a function's address, but no call")
		}
		offset := int64(r.symbol.Value) + (int64(in.imm)+1)*slotSize
		target := o.functionIndex(r.symbol.Section, uint64(offset), false)
		if target < 0 {
			return fmt.Errorf("call of byte %d of section %s, where no function begins", offset, o.sectionName(r.symbol.Section))
		}
		f.calls[int(at/slotSize)] = target
		return nil
	case relocation64:
		if in.opcode != classLD|modeIMM|sizeDW || len(slot) < 2*slotSize {
			return fmt.Errorf("an address, but no 64-bit immediate")
		}
		return o.relocateAddress(slot, in, r.symbol)
	}
	return fmt.Errorf("relocation of type %d", r.kind)
}

func (o *object) relocateAddress(slot []byte, in rawInstruction, symbol elf.Symbol) error {
	offset := int64(symbol.Value) + int64(in.imm)
	if o.sectionName(symbol.Section) == ".maps" {
		for i := range o.maps {
			if o.maps[i].offset == uint64(offset) {
				putImmediate(slot, immediateMap, int32(i))
				return nil
			}
		}
		return fmt.Errorf("no map begins at byte %d of .maps", offset)
	}
	if index, ok := o.variables[symbol.Section]; ok {
		if offset < 0 || offset > int64(len(o.sections[symbol.Section])) {
			return fmt.Errorf("byte %d is outside of section %s", offset, o.sectionName(symbol.Section))
		}
		putImmediate(slot, immediateMapValue, int32(index))
		putImmediate(slot[slotSize:], 0, int32(offset))
		return nil
	}
	return fmt.Errorf("an address in section %s", o.sectionName(symbol.Section))
}
