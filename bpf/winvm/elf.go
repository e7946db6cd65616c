package winvm

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxObject bounds what Load looks at.
const maxObject = 64 << 20

// Load links an ELF object into a machine: every map of its section .maps by its BTF
// definition, every function, and every reference between them. Programs are the
// global functions of all sections but .text, several in one section or not. Global
// variables become arrays of one element named after their section, as with efW.
//
// What the object has and Load does not understand is an error, not left out.
func Load(object []byte, options Options) (*Machine, error) {
	m, err := load(object, options)
	if err != nil {
		return nil, fmt.Errorf("winvm: load: %w", err)
	}
	return m, nil
}

// object is an ELF file on its way into a machine.
type object struct {
	machine  *Machine
	bytes    []byte
	file     *elf.File
	symbols  []elf.Symbol
	sections map[elf.SectionIndex][]byte
	// variables are the maps of sections with variables, by section.
	variables map[elf.SectionIndex]int
	maps      []definedMap
	functions []linkedFunction
	programs  map[string]*Program
}

// linkedFunction is a function symbol and where it will lie.
type linkedFunction struct {
	elf.Symbol
	function
	code []byte // relocated
	// calls has the function that a relocated call means, by slot.
	calls map[int]int
}

func load(data []byte, options Options) (_ *Machine, err error) {
	// debug/elf says that it is not hardened against adversarial files.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed ELF: %v", r)
		}
	}()
	if len(data) > maxObject {
		return nil, fmt.Errorf("object of %d bytes", len(data))
	}
	m, err := newMachine(options)
	if err != nil {
		return nil, err
	}
	o := &object{machine: m, bytes: data, sections: map[elf.SectionIndex][]byte{}, variables: map[elf.SectionIndex]int{}, programs: map[string]*Program{}}
	for _, step := range []func() error{o.open, o.readMaps, o.readVariables, o.readFunctions, o.relocate, o.decode, o.initializeMaps} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (o *object) open() (err error) {
	if o.file, err = elf.NewFile(bytes.NewReader(o.bytes)); err != nil {
		return err
	}
	if o.file.Class != elf.ELFCLASS64 || o.file.Data != elf.ELFDATA2LSB || o.file.Machine != elf.EM_BPF || o.file.Type != elf.ET_REL {
		return fmt.Errorf("%s %s %s %s is no little-endian eBPF object", o.file.Class, o.file.Data, o.file.Machine, o.file.Type)
	}
	if o.symbols, err = o.file.Symbols(); err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	for i, s := range o.file.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		switch {
		case s.Flags&elf.SHF_COMPRESSED != 0:
			return fmt.Errorf("section %s is compressed", s.Name)
		case s.Type == elf.SHT_NOBITS && s.Size > maxObject:
			return fmt.Errorf("section %s of %d bytes", s.Name, s.Size)
		case s.Type == elf.SHT_NOBITS:
			o.sections[elf.SectionIndex(i)] = make([]byte, s.Size)
		case s.Type == elf.SHT_PROGBITS:
			data, err := s.Data()
			if err != nil {
				return fmt.Errorf("section %s: %w", s.Name, err)
			}
			o.sections[elf.SectionIndex(i)] = data
		}
	}
	return nil
}

func (o *object) sectionName(index elf.SectionIndex) string {
	if int(index) < len(o.file.Sections) {
		return o.file.Sections[index].Name
	}
	return index.String()
}

// readVariables makes maps of .data, .bss and .rodata.
func (o *object) readVariables() error {
	for i, s := range o.file.Sections {
		index := elf.SectionIndex(i)
		data, ok := o.sections[index]
		if !ok || len(data) == 0 || s.Flags&elf.SHF_EXECINSTR != 0 {
			continue
		}
		if !strings.HasPrefix(s.Name, ".data") && !strings.HasPrefix(s.Name, ".bss") && !strings.HasPrefix(s.Name, ".rodata") {
			continue
		}
		mp, err := o.machine.addMap(MapSpec{Name: s.Name, Type: Array, KeySize: 4, ValueSize: uint32(len(data)), MaxEntries: 1})
		if err != nil {
			return err
		}
		copy(mp.element(0), data)
		o.variables[index] = len(o.machine.maps) - 1
	}
	return nil
}

// readFunctions finds the functions and gives each its place in Machine.code.
func (o *object) readFunctions() error {
	for _, s := range o.symbols {
		section, ok := o.sections[s.Section]
		if !ok || elf.ST_TYPE(s.Info) != elf.STT_FUNC || o.file.Sections[s.Section].Flags&elf.SHF_EXECINSTR == 0 {
			continue
		}
		if s.Size == 0 || s.Value > uint64(len(section)) || s.Size > uint64(len(section))-s.Value || s.Value%slotSize != 0 {
			return fmt.Errorf("function %s lies outside of section %s", s.Name, o.sectionName(s.Section))
		}
		o.functions = append(o.functions, linkedFunction{
			Symbol: s, function: function{name: s.Name}, code: slices.Clone(section[s.Value:][:s.Size]), calls: map[int]int{},
		})
	}
	slices.SortStableFunc(o.functions, func(a, b linkedFunction) int {
		return cmp.Or(cmp.Compare(a.Section, b.Section), cmp.Compare(a.Value, b.Value))
	})
	at := 0
	for i := range o.functions {
		f := &o.functions[i]
		if i > 0 {
			if p := &o.functions[i-1]; p.Section == f.Section && f.Value < p.Value+p.Symbol.Size {
				return fmt.Errorf("functions %s and %s overlap", p.Name, f.Name)
			}
		}
		f.first = at
		at += instructionCount(f.code) + 1
	}
	return nil
}

// instructionCount counts instructions, of which one form takes two slots.
func instructionCount(code []byte) int {
	count := 0
	for slot := 0; slot+slotSize <= len(code); slot += slotSize {
		if code[slot] == classLD|modeIMM|sizeDW {
			slot += slotSize
		}
		count++
	}
	return count
}

// functionIndex finds the function that begins at an offset of a section, or with
// inside the one that covers it.
func (o *object) functionIndex(section elf.SectionIndex, offset uint64, inside bool) int {
	for i := range o.functions {
		f := &o.functions[i]
		if f.Section == section && (f.Value == offset || inside && offset >= f.Value && offset < f.Value+f.Symbol.Size) {
			return i
		}
	}
	return -1
}

// decode turns the functions into instructions.
func (o *object) decode() error {
	for i := range o.functions {
		f := &o.functions[i]
		d := &decoder{code: f.code, first: f.first, resolve: &linker{o, i}}
		if err := d.decode(); err != nil {
			return fmt.Errorf("function %s: %w", f.Name, err)
		}
		f.slots = d.slots
		o.machine.code = append(o.machine.code, d.out...)
		o.machine.functions = append(o.machine.functions, f.function)
		section := o.sectionName(f.Section)
		if elf.ST_BIND(f.Info) == elf.STB_LOCAL || section == ".text" {
			continue
		}
		if o.programs[f.Name] != nil {
			return fmt.Errorf("two programs named %s", f.Name)
		}
		p := &Program{machine: o.machine, name: f.Name, section: section, entry: f.first}
		o.programs[f.Name] = p
		o.machine.programs = append(o.machine.programs, p)
	}
	return nil
}

// linker resolves the references of one function.
type linker struct {
	object *object
	index  int
}

func (l *linker) mapHandle(index int32) (uint64, error) {
	return l.object.machine.mapHandle(index)
}

func (l *linker) mapValue(index, offset int32) (uint64, error) {
	return l.object.machine.mapValue(index, offset)
}

func (l *linker) function(slot int, imm int32) (int32, error) {
	caller := &l.object.functions[l.index]
	target, ok := caller.calls[slot]
	if !ok {
		// A function of the same section needs no relocation: the distance is right.
		offset := int64(caller.Value) + (int64(slot)+1+int64(imm))*slotSize
		if target = l.object.functionIndex(caller.Section, uint64(offset), false); target < 0 {
			return 0, fmt.Errorf("call of byte %d of section %s, where no function begins", offset, l.object.sectionName(caller.Section))
		}
	}
	return int32(l.object.functions[target].first), nil
}

func (m *Machine) mapHandle(index int32) (uint64, error) {
	if index < 0 || int(index) >= len(m.maps) {
		return 0, fmt.Errorf("no map %d", index)
	}
	return address(m.maps[index].handle, 0), nil
}

// mapValue is the address of a byte of an array's first value.
func (m *Machine) mapValue(index, offset int32) (uint64, error) {
	if index < 0 || int(index) >= len(m.maps) || m.maps[index].Type != Array {
		return 0, fmt.Errorf("no array %d to take the address of a value of", index)
	}
	return m.maps[index].addressOf(0, 0) + uint64(int64(offset)), nil
}

func putImmediate(slot []byte, source uint8, imm int32) {
	slot[1] = slot[1]&15 | source<<4
	binary.LittleEndian.PutUint32(slot[4:], uint32(imm))
}
