// Package inventory knows what the eBPF objects of each system are made of: which
// helpers and map types they use and in which programs, beside the list of the eBPF
// for Windows team's post of February 2022, and how much of their source both
// systems compile.
//
// It reads the very objects that ship, Linux's with cilium/ebpf and Windows' with
// package winvm; the counted source lines come from scripts/sharing, which has the
// source that a binary has not.
//
//	v, err := inventory.Take()
//	for _, row := range v.Helpers { … }
package inventory

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

// System is one of the systems that objects are compiled for.
type System int

// The systems, in the order of the tables' columns. EFW are the objects of eBPF for
// Windows 0.21, XDP those of XDP for Windows.
const (
	Linux System = iota
	EFW
	XDP
	systems
)

// Systems returns all systems in the order of the tables' columns.
func Systems() []System { return []System{Linux, EFW, XDP} }

// String returns a system's name and, of Windows, the profile that an object was
// compiled for.
func (s System) String() string {
	return [systems]string{"Linux", "Windows, efw-0.21", "Windows, xdp"}[s]
}

// profiles are the systems of the folders of Windows objects.
var profiles = map[string]System{"efw-0.21": EFW, "xdp": XDP}

// Inventory is what all objects use.
type Inventory struct {
	// Helpers and MapTypes have a row for everything that an object uses or the
	// post's list has, in the order of the names.
	Helpers, MapTypes []Row
}

// Row is one helper or map type.
type Row struct {
	// Name is as both systems' headers have it, without prefix: "map_lookup_elem", "lru_hash".
	Name string
	// Programs are those that use it on each system, sorted. What is one program for
	// each address family is one here: lb_fast is lb_fast4 and lb_fast6.
	Programs [systems][]string
	// Maps are the maps of a type, sorted.
	Maps []string
	// Demo is what the post says of it: "needed", "optional", "worked around"; "" when
	// it does not name it.
	Demo string
	// Note says why a system goes without it, or what stands in its place; Markdown's
	// back quotes are around code.
	Note string
}

// On returns the programs that use it on a system.
func (r Row) On(s System) []string { return r.Programs[s] }

// Take reads all objects. The error says so when something of the post's list, or
// something that only one system uses, has no note.
func Take() (Inventory, error) {
	t := taking{helpers: map[string]*users{}, mapTypes: map[string]*users{}, maps: map[string][]string{}}
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadLB, bpf.LoadDecapXDP, bpf.LoadDecapTC} {
		spec, err := load()
		if err != nil {
			return Inventory{}, err
		}
		if err := t.addLinux(spec); err != nil {
			return Inventory{}, err
		}
	}
	for name, object := range bpf.WindowsObjects() {
		profile, _, _ := strings.Cut(name, "/")
		system, ok := profiles[profile]
		if !ok {
			return Inventory{}, fmt.Errorf("object %s: no column for profile %s", name, profile)
		}
		m, err := winvm.Load(object, winvm.Options{})
		if err != nil {
			return Inventory{}, fmt.Errorf("object %s: %w", name, err)
		}
		t.addWindows(system, m)
	}
	v := Inventory{Helpers: rows(t.helpers, demoHelpers, nil), MapTypes: rows(t.mapTypes, demoMapTypes, t.maps)}
	return v, v.unexplained()
}

// users are the programs that use something, for each system.
type users [systems][]string

func (u *users) add(system System, program string) {
	program = strings.TrimRight(program, "46")
	if !slices.Contains(u[system], program) {
		u[system] = append(u[system], program)
	}
}

// taking is an inventory in the making.
type taking struct {
	helpers, mapTypes map[string]*users
	maps              map[string][]string
}

func entry(in map[string]*users, name string) *users {
	if in[name] == nil {
		in[name] = &users{}
	}
	return in[name]
}

func (t *taking) addMap(system System, kind, name, program string) {
	entry(t.mapTypes, kind).add(system, program)
	if !slices.Contains(t.maps[kind], name) {
		t.maps[kind] = append(t.maps[kind], name)
	}
}

func (t *taking) addLinux(spec *ebpf.CollectionSpec) error {
	for program, p := range spec.Programs {
		for _, in := range p.Instructions {
			if in.IsBuiltinCall() {
				entry(t.helpers, helperName(asm.BuiltinFunc(in.Constant).String())).add(Linux, program)
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
				t.addMap(Linux, kind, name, program)
			}
		}
	}
	return nil
}

func (t *taking) addWindows(system System, m *winvm.Machine) {
	for _, p := range m.Programs() {
		helpers, maps := p.Uses()
		for _, h := range helpers {
			entry(t.helpers, h).add(system, p.Name())
		}
		for _, mp := range maps {
			t.addMap(system, mp.Type.String(), mp.Name(), p.Name())
			if mp.Inner != nil {
				t.addMap(system, mp.Inner.Type.String(), mp.Name()+"'s values", p.Name())
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
