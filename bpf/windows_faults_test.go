package bpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// windowsProfile is one way of running XDP programs on Windows.
type windowsProfile struct {
	// section is where a hook's programs are. A hook knows no other one.
	section string
	// adjustHeadFails says that xdp_adjust_head is there, and always returns -1
	// (issue 457 of XDP for Windows).
	adjustHeadFails bool
	// byteKeys says that an array of maps or programs is written, by handle, at the
	// first byte of the key alone: _update_array_map_entry_with_handle of ebpf_maps.c.
	byteKeys bool
	// noCalls says that a function that is called gets neither maps nor helpers nor a
	// stack of its own: bpf_code_generator.cpp of bpf2c.
	noCalls bool
}

// windowsProfiles are those of [WindowsObjects]; a name's first part is its profile's.
var windowsProfiles = map[string]windowsProfile{
	"efw-0.21": {section: "xdp_test", byteKeys: true, noCalls: true},
	"xdp":      {section: "xdp", adjustHeadFails: true},
}

// What eBPF for Windows has, the same in 0.21.1 and 1.0, from its
// include/ebpf_structs.h and libs/api, and what its bpf2c and PREVAIL accept.
var (
	// windowsHelpers are the general helpers by number, and the one of the XDP hooks.
	windowsHelpers = map[int32]string{
		1: "map_lookup_elem", 2: "map_update_elem", 3: "map_delete_elem", 4: "map_lookup_and_delete_elem",
		5: "tail_call", 6: "get_prandom_u32", 7: "ktime_get_boot_ns", 8: "get_smp_processor_id",
		9: "ktime_get_ns", 10: "csum_diff", 11: "ringbuf_output", 16: "map_push_elem", 17: "map_pop_elem",
		18: "map_peek_elem", 22: "memcpy", 23: "memcmp", 24: "memset", 25: "memmove",
		30: "ktime_get_boot_ms", 31: "ktime_get_ms", 32: "perf_event_output", 65536: "xdp_adjust_head",
	}
	// windowsMaps are the map types by number, and what their values are besides bytes.
	windowsMaps = map[uint32]struct {
		name   string
		values string
		keys   bool
	}{
		1: {"hash", "", true}, 2: {"array", "", true}, mapTypeProgArray: {"prog_array", "programs", true},
		4: {"percpu_hash", "", true}, 5: {"percpu_array", "", true}, 6: {"hash_of_maps", "maps", true},
		7: {"array_of_maps", "maps", true}, 8: {"lru_hash", "", true}, 9: {"lpm_trie", "", true},
		10: {"queue", "", false}, 11: {"lru_percpu_hash", "", true}, 12: {"stack", "", false},
		13: {"ringbuf", "", false}, 14: {"perf_event_array", "", false},
	}
	windowsMapAttributes = []string{
		"type", "max_entries", "key", "value", "key_size", "value_size", "values", "pinning",
	}
	// windowsSections are what an object may consist of besides its programs;
	// .text holds the functions that they call.
	windowsSections = []string{
		"", ".text", ".maps", "license", ".BTF", ".BTF.ext",
		".symtab", ".strtab", ".shstrtab", ".llvm_addrsig",
	}
)

// Instructions of eBPF (RFC 9669).
const (
	instructionSize  = 8
	classMask        = 0x07
	classJump32      = 0x06
	opCall           = 0x85
	opCallRegister   = 0x8d
	opLoad64         = 0x18
	opAtomic32       = 0xc3
	opAtomic64       = 0xdb
	callLocal        = 1
	callKernelByBTF  = 2
	atomicAdd        = 0
	mapTypeProgArray = 3
	adjustHead       = 65536
	relocation64     = 1  // R_BPF_64_64: a map's or a variable's address
	relocationABS64  = 2  // R_BPF_64_ABS64: a program among a map's initial values
	relocation32     = 10 // R_BPF_64_32: a function
	relocationNoLoad = 4  // R_BPF_64_NODYLD32: inside BTF, nothing that a loader does
	relocationABS32  = 3  // R_BPF_64_ABS32: the same
)

// windowsFaults says what eBPF for Windows would refuse of an object, and what of
// it could not work in the profile.
func windowsFaults(object []byte, profile windowsProfile) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	symbols, err := file.Symbols()
	if err != nil {
		return nil, err
	}
	c := &windowsCheck{profile: profile, file: file, symbols: symbols}
	c.sections()
	for _, s := range file.Sections {
		if s.Flags&elf.SHF_EXECINSTR != 0 {
			if err := c.instructions(s); err != nil {
				return nil, err
			}
		}
		if s.Type == elf.SHT_REL || s.Type == elf.SHT_RELA {
			if err := c.relocations(s); err != nil {
				return nil, err
			}
		}
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("BTF: %w", err)
	}
	c.maps(spec)
	return c.faults, c.coreRelocations()
}

type windowsCheck struct {
	profile windowsProfile
	file    *elf.File
	symbols []elf.Symbol
	faults  []string
	// initialised are the maps that programs are entered into, once for each.
	initialised []string
}

func (c *windowsCheck) fault(format string, args ...any) {
	f := fmt.Sprintf(format, args...)
	if !slices.Contains(c.faults, f) {
		c.faults = append(c.faults, f)
	}
}

func (c *windowsCheck) sections() {
	for _, s := range c.file.Sections {
		name := s.Name
		if s.Type == elf.SHT_REL {
			name = strings.TrimPrefix(name, ".rel")
		}
		if name != c.profile.section && !slices.Contains(windowsSections, name) {
			c.fault("section %s", s.Name)
		}
	}
	for _, name := range []string{c.profile.section, "license", ".maps", ".BTF"} {
		if c.file.Section(name) == nil {
			c.fault("no section %s", name)
		}
	}
}

func (c *windowsCheck) instructions(s *elf.Section) error {
	code, err := s.Data()
	if err != nil {
		return err
	}
	for at := 0; at+instructionSize <= len(code); at += instructionSize {
		op, source := code[at], code[at+1]>>4
		immediate := int32(binary.LittleEndian.Uint32(code[at+4:]))
		switch {
		case op == opLoad64:
			at += instructionSize
		case op == opCall && source == callLocal:
			if c.profile.noCalls {
				c.fault("%s calls a function: native images of efW 0.21 break it", c.functionAt(s, at))
			}
		case op == opCall && source == callKernelByBTF:
			c.fault("kernel function called by BTF id")
		case op == opCall:
			if windowsHelpers[immediate] == "" {
				c.fault("helper %d", immediate)
			}
			// A balancer can do without, which drops and counts what it cannot encapsulate.
			if program := c.functionAt(s, at); immediate == adjustHead && c.profile.adjustHeadFails && strings.HasPrefix(program, "decap") {
				c.fault("%s cannot work: xdp_adjust_head always fails", program)
			}
		case op == opCallRegister:
			c.fault("call through a register")
		case op&classMask == classJump32:
			c.fault("32-bit jump: PREVAIL loses bounds over it")
		case (op == opAtomic32 || op == opAtomic64) && immediate != atomicAdd:
			c.fault("atomic operation %#x", immediate)
		}
	}
	return nil
}

// functionAt is the name of the function that an offset of a section is in.
func (c *windowsCheck) functionAt(s *elf.Section, at int) string {
	for _, symbol := range c.symbols {
		if elf.ST_TYPE(symbol.Info) == elf.STT_FUNC && c.file.Sections[symbol.Section] == s &&
			symbol.Value <= uint64(at) && uint64(at) < symbol.Value+symbol.Size {
			return symbol.Name
		}
	}
	return ""
}

func (c *windowsCheck) relocations(s *elf.Section) error {
	data, err := s.Data()
	if err != nil {
		return err
	}
	in := c.file.Sections[s.Info]
	entry := 16
	if s.Type == elf.SHT_RELA {
		entry = 24
	}
	for ; len(data) >= entry; data = data[entry:] {
		offset, info := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
		kind, index := uint32(info), uint32(info>>32)
		symbol := elf.Symbol{}
		if index > 0 {
			symbol = c.symbols[index-1]
		}
		target := "nothing"
		if int(symbol.Section) < len(c.file.Sections) {
			target = c.file.Sections[symbol.Section].Name
		}
		switch {
		case strings.HasPrefix(in.Name, ".BTF"):
			if kind != relocationNoLoad && kind != relocationABS32 {
				c.fault("relocation type %d in %s", kind, in.Name)
			}
		case in.Name == ".maps":
			c.initialValue(offset, kind, symbol, target)
		case in.Flags&elf.SHF_EXECINSTR == 0:
			c.fault("relocation in %s", in.Name)
		case kind == relocation64 && target == ".maps":
		case kind == relocation32 && target == ".text":
			if symbol.Name == "" {
				c.fault("call of a static function: bpf2c has no name for it")
			}
		default:
			c.fault("relocation type %d to %s %q", kind, target, symbol.Name)
		}
	}
	return nil
}

// initialValue judges a relocation inside a map's definition: a program that
// bpf2c enters into a prog_array when the image is loaded.
func (c *windowsCheck) initialValue(offset uint64, kind uint32, symbol elf.Symbol, target string) {
	name := "nothing"
	for _, s := range c.symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_OBJECT && c.file.Sections[s.Section].Name == ".maps" &&
			s.Value <= offset && offset < s.Value+s.Size {
			name = s.Name
		}
	}
	if kind != relocationABS64 || elf.ST_TYPE(symbol.Info) != elf.STT_FUNC ||
		elf.ST_BIND(symbol.Info) != elf.STB_GLOBAL || target != c.profile.section {
		c.fault("map %s: initial value of relocation type %d to %s %q", name, kind, target, symbol.Name)
		return
	}
	c.initialised = append(c.initialised, name)
}

func (c *windowsCheck) maps(spec *btf.Spec) {
	var section *btf.Datasec
	if err := spec.TypeByName(".maps", &section); err != nil {
		c.fault("BTF has no .maps: %v", err)
		return
	}
	for _, v := range section.Vars {
		variable, ok := v.Type.(*btf.Var)
		if !ok {
			c.fault(".maps holds %v", v.Type)
			continue
		}
		c.mapDefinition(variable.Name, variable.Type)
	}
}

func (c *windowsCheck) mapDefinition(name string, t btf.Type) {
	definition, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		c.fault("map %s is no struct", name)
		return
	}
	members := map[string]btf.Type{}
	for _, m := range definition.Members {
		if !slices.Contains(windowsMapAttributes, m.Name) {
			c.fault("map %s: attribute %s", name, m.Name)
		}
		members[m.Name] = m.Type
	}
	kind, ok := windowsMaps[number(members["type"])]
	if !ok {
		c.fault("map %s: type %d", name, number(members["type"]))
		return
	}
	if key := members["key"]; key != nil {
		if at, padded := padding(pointee(key)); padded {
			c.fault("map %s: key has unnamed padding at byte %d", name, at)
		}
	}
	if hasKey := members["key"] != nil || members["key_size"] != nil; hasKey != kind.keys {
		c.fault("map %s: a %s with keys: %v", name, kind.name, hasKey)
	}
	inner := ""
	array, ok := members["values"].(*btf.Array)
	if ok {
		inner = "maps"
		if _, ok := pointee(array.Type).(*btf.FuncProto); ok {
			inner = "programs"
		}
	}
	if inner != kind.values {
		c.fault("map %s: a %s with values of %q", name, kind.name, inner)
	}
	if n := number(members["max_entries"]); slices.Contains(c.initialised, name) {
		if kind.name != "prog_array" {
			c.fault("map %s: a %s with programs", name, kind.name)
		}
		if entered := countOf(c.initialised, name); entered > int(n) {
			c.fault("map %s: %d programs for %d entries", name, entered, n)
		}
	}
	if n := number(members["max_entries"]); c.profile.byteKeys && inner != "" && kind.name != "hash_of_maps" && n > 256 {
		c.fault("map %s: a %s of %d entries, of which efW 0.21 writes 256", name, kind.name, n)
	}
	if number(members["max_entries"]) == 0 {
		c.fault("map %s: no max_entries", name)
	}
	if inner == "maps" {
		if of, ok := btf.UnderlyingType(pointee(array.Type)).(*btf.Struct); ok {
			c.mapDefinition(name+"'s values", of)
		}
	}
}

func countOf(names []string, name string) (n int) {
	for _, other := range names {
		if other == name {
			n++
		}
	}
	return n
}

// number is the N of __uint(name, N): a pointer to an array of N.
func number(t btf.Type) uint32 {
	if t == nil {
		return 0
	}
	if array, ok := pointee(t).(*btf.Array); ok {
		return array.Nelems
	}
	return 0
}

func pointee(t btf.Type) btf.Type {
	if p, ok := t.(*btf.Pointer); ok {
		return p.Target
	}
	return t
}

// padding finds the first byte of a type that no member names.
func padding(t btf.Type) (at uint32, found bool) {
	s, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		return 0, false
	}
	var end uint32
	for _, m := range s.Members {
		if m.Offset.Bytes() != end {
			return end, true
		}
		if at, found := padding(m.Type); found {
			return end + at, true
		}
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			return end, true
		}
		end += uint32(size)
	}
	return end, end != s.Size
}

// coreRelocations looks for CO-RE, which only Linux's loaders know. Its length
// stands in the seventh word of .BTF.ext (include/uapi/linux/btf.h, libbpf).
func (c *windowsCheck) coreRelocations() error {
	section := c.file.Section(".BTF.ext")
	if section == nil {
		return errors.New("no .BTF.ext: the object was built without -g")
	}
	data, err := section.Data()
	if err != nil {
		return err
	}
	const lengthAt = 28
	if header := binary.LittleEndian.Uint32(data[4:]); header > lengthAt && binary.LittleEndian.Uint32(data[lengthAt:]) > 0 {
		c.fault("CO-RE relocations")
	}
	return nil
}
