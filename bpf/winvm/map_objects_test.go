package winvm

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

func arrays(kind MapType, entries uint32) MapSpec {
	return MapSpec{Name: "outer", Type: kind, KeySize: 4, ValueSize: 4, MaxEntries: entries,
		Inner: &MapSpec{Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 2}}
}

// throughOuter returns element 1 of the inner map under a key, 100 without the map.
func throughOuter(key int32) asm.Instructions {
	return asm.Instructions{
		storeImmediate(asm.RFP, -4, int64(key), asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, 0), callID(1),
		skip(asm.JNE.Imm(asm.R0, 0, ""), 2), asm.Mov.Imm(asm.R0, 100), asm.Return(),
		storeImmediate(asm.RFP, -4, 1, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.Mov.Reg(asm.R1, asm.R0), callID(1),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word), asm.Return(),
	}
}

func TestAProgramFindsAnInnerMap(t *testing.T) {
	for _, kind := range []MapType{HashOfMaps, ArrayOfMaps} {
		t.Run(kind.String(), func(t *testing.T) {
			m := build(t, fixed(), []MapSpec{arrays(kind, 8)}, source{"program", throughOuter(3)})
			outer := m.maps[0]
			if got := run(t, m).Action; got != 100 {
				t.Errorf("without the map %d", got)
			}
			for i := range uint32(2) {
				inner, err := outer.NewInner("inner")
				must(t, err)
				must(t, inner.Update(u32(1), u32(7+i), Any))
				must(t, outer.UpdateMap(u32(3), inner, Any))
				if got := run(t, m).Action; got != Action(7+i) {
					t.Errorf("map %d: %d", i, got)
				}
				found, err := outer.LookupMap(u32(3))
				must(t, err)
				if found != inner {
					t.Errorf("map %d: found another", i)
				}
			}
			must(t, outer.Delete(u32(3)))
			if got := run(t, m).Action; got != 100 {
				t.Errorf("after the deletion %d", got)
			}
			if len(m.Maps()) != 1 {
				t.Errorf("%d maps of the object", len(m.Maps()))
			}
		})
	}
}

func TestAnInnerMapMustBeLikeItsTemplate(t *testing.T) {
	m := build(t, fixed(), []MapSpec{arrays(HashOfMaps, 8),
		{Name: "longer", Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 3},
		{Name: "wider", Type: Array, KeySize: 4, ValueSize: 8, MaxEntries: 2},
		{Name: "hash", Type: Hash, KeySize: 4, ValueSize: 4, MaxEntries: 2},
	}, source{"program", returning(asm.Mov.Imm(asm.R0, 0))})
	for _, inner := range m.maps[1:] {
		gives(t, inner.name, m.maps[0].UpdateMap(u32(0), inner, Any), InvalidObject)
	}
	other := build(t, fixed(), []MapSpec{{Name: "other", Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 2}})
	gives(t, "another machine's map", m.maps[0].UpdateMap(u32(0), other.maps[0], Any), InvalidFD)
}

// Index 258 of an array of maps or programs lands in element 2 with efW 0.21.
func TestAnIndexAbove255GoesAstrayInEfW021(t *testing.T) {
	for profile, at := range map[Profile]uint32{EFW021: 2, XDP: 258} {
		options := fixed()
		options.Profile = profile
		m := build(t, options, []MapSpec{arrays(ArrayOfMaps, 300), programs(300)}, source{"program", returning(asm.Mov.Imm(asm.R0, 0))})
		inner, err := m.maps[0].NewInner("inner")
		must(t, err)
		must(t, m.maps[0].UpdateMap(u32(258), inner, Any))
		must(t, m.maps[1].UpdateProgram(258, m.programs[0]))
		for _, index := range []uint32{2, 258} {
			_, err := m.maps[0].LookupMap(u32(index))
			if (err == nil) != (index == at) {
				t.Errorf("%s: map at %d: %v", profile, index, err)
			}
			_, err = m.maps[1].LookupProgram(index)
			if (err == nil) != (index == at) {
				t.Errorf("%s: program at %d: %v", profile, index, err)
			}
		}
		gives(t, "beyond the array", m.maps[0].UpdateMap(u32(300), inner, Any), InvalidArgument)
	}
}

func TestAProgramCannotChangeMapsOfMaps(t *testing.T) {
	for _, spec := range []MapSpec{arrays(HashOfMaps, 8), arrays(ArrayOfMaps, 8), programs(8)} {
		m := build(t, fixed(), []MapSpec{spec}, source{"program", asm.Instructions{
			storeImmediate(asm.RFP, -4, 1, asm.Word), asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.R2), asm.Mov.Imm(asm.R4, 0), callID(2), asm.Return(),
		}})
		if got := run(t, m).Action; got != negativeAction(OperationNotSupported) {
			t.Errorf("%s: %d", spec.Type, int32(got))
		}
		gives(t, "a value of bytes", m.maps[0].Update(u32(1), u32(1), Any), OperationNotSupported)
	}
}
