package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l4lab/bpf"
	"l4lab/bpf/winvm"
)

// The columns of the tables.
const (
	onLinux = iota
	onEFW
	onXDP
	systems
)

var systemNames = [systems]string{"Linux", "Windows, `efw-0.21`", "Windows, `xdp`"}

// users are the programs that use something, for each system. What is one program
// for each address family is one here: lb_fast is lb_fast4 and lb_fast6.
type users [systems][]string

// inventory is what all objects use.
type inventory struct {
	helpers, mapTypes map[string]*users
	// maps are the maps of each type.
	maps map[string][]string
}

func (u *users) add(system int, program string) {
	program = strings.TrimRight(program, "46")
	if !slices.Contains(u[system], program) {
		u[system] = append(u[system], program)
	}
}

func entry(in map[string]*users, name string) *users {
	if in[name] == nil {
		in[name] = &users{}
	}
	return in[name]
}

func (v *inventory) addMap(system int, kind, name, program string) {
	entry(v.mapTypes, kind).add(system, program)
	if !slices.Contains(v.maps[kind], name) {
		v.maps[kind] = append(v.maps[kind], name)
	}
}

// takeInventory reads all objects.
func takeInventory() (*inventory, error) {
	v := &inventory{helpers: map[string]*users{}, mapTypes: map[string]*users{}, maps: map[string][]string{}}
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadLB, bpf.LoadDecapXDP, bpf.LoadDecapTC} {
		spec, err := load()
		if err != nil {
			return nil, err
		}
		if err := v.addLinux(spec); err != nil {
			return nil, err
		}
	}
	for name, object := range bpf.WindowsObjects() {
		profile, _, _ := strings.Cut(name, "/")
		system, ok := map[string]int{"efw-0.21": onEFW, "xdp": onXDP}[profile]
		if !ok {
			return nil, fmt.Errorf("object %s: no column for profile %s", name, profile)
		}
		m, err := winvm.Load(object, winvm.Options{})
		if err != nil {
			return nil, fmt.Errorf("object %s: %w", name, err)
		}
		v.addWindows(system, m)
	}
	for _, all := range []map[string]*users{v.helpers, v.mapTypes} {
		for _, u := range all {
			for system := range u {
				slices.Sort(u[system])
			}
		}
	}
	for _, names := range v.maps {
		slices.Sort(names)
	}
	return v, nil
}

func (v *inventory) addLinux(spec *ebpf.CollectionSpec) error {
	for program, p := range spec.Programs {
		for _, in := range p.Instructions {
			if in.IsBuiltinCall() {
				entry(v.helpers, helperName(asm.BuiltinFunc(in.Constant).String())).add(onLinux, program)
			}
			m := spec.Maps[in.Reference()]
			if !in.IsLoadFromMap() || m == nil {
				continue
			}
			for name, of := range map[string]*ebpf.MapSpec{m.Name: m, m.Name + "'s values": m.InnerMap} {
				if of == nil {
					continue
				}
				kind, ok := linuxMapTypes[of.Type]
				if !ok {
					return fmt.Errorf("map %s: no name for type %s", name, of.Type)
				}
				v.addMap(onLinux, kind, name, program)
			}
		}
	}
	return nil
}

func (v *inventory) addWindows(system int, m *winvm.Machine) {
	for _, p := range m.Programs() {
		helpers, maps := p.Uses()
		for _, h := range helpers {
			entry(v.helpers, h).add(system, p.Name())
		}
		for _, mp := range maps {
			v.addMap(system, mp.Type.String(), mp.Name(), p.Name())
			if mp.Inner != nil {
				v.addMap(system, mp.Inner.Type.String(), mp.Name()+"'s values", p.Name())
			}
		}
	}
}

// linuxMapTypes are the names that both systems' headers give the types.
var linuxMapTypes = map[ebpf.MapType]string{
	ebpf.Hash: "hash", ebpf.Array: "array", ebpf.ProgramArray: "prog_array", ebpf.PerCPUHash: "percpu_hash",
	ebpf.PerCPUArray: "percpu_array", ebpf.HashOfMaps: "hash_of_maps", ebpf.ArrayOfMaps: "array_of_maps",
	ebpf.LRUHash: "lru_hash", ebpf.LPMTrie: "lpm_trie", ebpf.RingBuf: "ringbuf", ebpf.PerfEventArray: "perf_event_array",
}

// helperName makes "map_lookup_elem" of cilium/ebpf's "FnMapLookupElem".
func helperName(fn string) string {
	var b strings.Builder
	for i, r := range strings.TrimPrefix(fn, "Fn") {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
