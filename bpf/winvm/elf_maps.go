package winvm

import (
	"bytes"
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// The ELF reader of cilium/ebpf takes Windows' map types for Linux' of the same
// number (a percpu_array is 5 here and 6 there), and so cannot be used. Its BTF
// reader can: a map is a variable in .maps whose type is a struct, and what the
// loader must know stands in the types of the members.

// definedMap is a map of the object.
type definedMap struct {
	spec         MapSpec
	offset, size uint64 // of the variable, in .maps
	values       uint64 // of its member `values`, in the variable
}

func (o *object) readMaps() error {
	section := o.file.Section(".maps")
	if section == nil {
		return nil
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(o.bytes))
	if err != nil {
		return fmt.Errorf("BTF: %w", err)
	}
	var variables *btf.Datasec
	if err := spec.TypeByName(".maps", &variables); err != nil {
		return fmt.Errorf("BTF of .maps: %w", err)
	}
	for _, v := range variables.Vars {
		variable, ok := v.Type.(*btf.Var)
		if !ok {
			return fmt.Errorf("BTF of .maps: %v is no variable", v.Type)
		}
		symbol, ok := o.objectSymbol(variable.Name, section)
		if !ok {
			return fmt.Errorf("map %s: no symbol in .maps", variable.Name)
		}
		defined, err := defineMap(variable.Name, variable.Type, true)
		if err != nil {
			return fmt.Errorf("map %s: %w", variable.Name, err)
		}
		defined.offset, defined.size = symbol.Value, symbol.Size
		o.maps = append(o.maps, defined)
	}
	slices.SortStableFunc(o.maps, func(a, b definedMap) int { return cmp.Compare(a.offset, b.offset) })
	if err := o.override(); err != nil {
		return err
	}
	for i := range o.maps {
		if _, err := o.machine.addMap(o.maps[i].spec); err != nil {
			return err
		}
	}
	return nil
}

func (o *object) objectSymbol(name string, in *elf.Section) (elf.Symbol, bool) {
	for _, s := range o.symbols {
		if s.Name == name && elf.ST_TYPE(s.Info) == elf.STT_OBJECT && int(s.Section) < len(o.file.Sections) && o.file.Sections[s.Section] == in {
			return s, true
		}
	}
	return elf.Symbol{}, false
}

// override sets the sizes that the options ask for.
func (o *object) override() error {
	for name, size := range o.machine.options.MaxEntries {
		found := false
		for i := range o.maps {
			spec := &o.maps[i].spec
			switch {
			case spec.Name == name:
				spec.MaxEntries, found = size, true
			case spec.Inner != nil && spec.Inner.Name == name:
				spec.Inner.MaxEntries, found = size, true
			}
		}
		if !found {
			return fmt.Errorf("no map %q to give %d entries", name, size)
		}
	}
	return nil
}

// defineMap reads a map's definition as libbpf writes it (bpf_helpers.h): `__uint` makes
// a pointer to an array of as many elements as the number, `__type` a pointer to the
// type, and `__array` an array of pointers.
func defineMap(name string, t btf.Type, outermost bool) (definedMap, error) {
	defined := definedMap{spec: MapSpec{Name: name}}
	definition, ok := btf.UnderlyingType(t).(*btf.Struct)
	if !ok {
		return defined, fmt.Errorf("its type is no struct")
	}
	spec := &defined.spec
	for _, member := range definition.Members {
		var err error
		switch member.Name {
		case "type":
			var number uint32
			number, err = numberOf(member.Type)
			spec.Type = MapType(number)
		case "max_entries":
			spec.MaxEntries, err = numberOf(member.Type)
		case "key_size":
			spec.KeySize, err = numberOf(member.Type)
		case "value_size":
			spec.ValueSize, err = numberOf(member.Type)
		case "key":
			spec.KeySize, err = sizeOf(member.Type)
		case "value":
			spec.ValueSize, err = sizeOf(member.Type)
		case "values":
			defined.values = uint64(member.Offset.Bytes())
			spec.Inner, err = innerOf(name, member.Type, outermost)
		}
		if err != nil {
			return defined, fmt.Errorf("%s: %w", member.Name, err)
		}
	}
	if spec.Type.objects() && spec.ValueSize == 0 {
		spec.ValueSize = 4 // an id (_create_object_array_map of ebpf_maps.c)
	}
	return defined, nil
}

// innerOf is the template that a map of maps has as its values; a prog_array has the type
// of a program, and no template.
func innerOf(name string, t btf.Type, outermost bool) (*MapSpec, error) {
	array, ok := btf.UnderlyingType(t).(*btf.Array)
	if !ok {
		return nil, fmt.Errorf("no array")
	}
	pointer, ok := btf.UnderlyingType(array.Type).(*btf.Pointer)
	if !ok {
		return nil, fmt.Errorf("no array of pointers")
	}
	switch target := btf.UnderlyingType(pointer.Target).(type) {
	case *btf.FuncProto:
		return nil, nil
	case *btf.Struct:
		if !outermost {
			return nil, fmt.Errorf("maps of maps of maps")
		}
		inner, err := defineMap(name+".", target, false)
		return &inner.spec, err
	default:
		return nil, fmt.Errorf("pointers to %v", target)
	}
}

func numberOf(t btf.Type) (uint32, error) {
	if pointer, ok := btf.UnderlyingType(t).(*btf.Pointer); ok {
		if array, ok := btf.UnderlyingType(pointer.Target).(*btf.Array); ok {
			return array.Nelems, nil
		}
	}
	return 0, fmt.Errorf("%v is not __uint", t)
}

func sizeOf(t btf.Type) (uint32, error) {
	pointer, ok := btf.UnderlyingType(t).(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("%v is not __type", t)
	}
	size, err := btf.Sizeof(pointer.Target)
	if err == nil && size > maxObject {
		err = fmt.Errorf("%d bytes", size)
	}
	return uint32(size), err
}

// initializeMaps fills prog_arrays and maps of maps from `.values = {[1] = &other}`: the
// relocations of .maps. bpf2c does so for the u32 keys of both
// (extract_btf_map_information of bpf_code_generator.cpp and
// _ebpf_native_set_initial_map_values of ebpf_native.c).
func (o *object) initializeMaps() error {
	for i, s := range o.file.Sections {
		if s.Name != ".maps" {
			continue
		}
		relocations, err := o.relocations(elf.SectionIndex(i))
		if err != nil {
			return err
		}
		for _, r := range relocations {
			if err := o.initializeMap(r); err != nil {
				return fmt.Errorf("initial value %q at byte %d of .maps: %w", r.symbol.Name, r.offset, err)
			}
		}
	}
	return nil
}

func (o *object) initializeMap(r relocation) error {
	if r.kind != relocationABS64 && r.kind != relocation64 {
		return fmt.Errorf("relocation of type %d", r.kind)
	}
	for i, defined := range o.maps {
		if r.offset < defined.offset || r.offset >= defined.offset+defined.size {
			continue
		}
		at := r.offset - defined.offset
		if at < defined.values || (at-defined.values)%8 != 0 || !defined.spec.Type.objects() || defined.spec.KeySize != 4 {
			return fmt.Errorf("map %s takes none there", defined.spec.Name)
		}
		index := uint32((at - defined.values) / 8)
		into := o.machine.maps[i]
		if into.Type == ProgArray {
			program := o.programs[r.symbol.Name]
			if program == nil {
				return fmt.Errorf("no such program")
			}
			return into.UpdateProgram(index, program)
		}
		for j := range o.maps {
			if o.maps[j].spec.Name == r.symbol.Name {
				key := []byte{byte(index), byte(index >> 8), byte(index >> 16), byte(index >> 24)}
				return into.UpdateMap(key, o.machine.maps[j], Any)
			}
		}
		return fmt.Errorf("no such map")
	}
	return fmt.Errorf("no map is there")
}
