package winvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"
)

func mapOf(t testing.TB, options Options, spec MapSpec) *Map {
	t.Helper()
	if spec.Name == "" {
		spec.Name = "map"
	}
	return build(t, options, []MapSpec{spec}).maps[0]
}

// gives checks an error's code.
func gives(t testing.TB, what string, err error, want Code) {
	t.Helper()
	if want == success && err != nil || want != success && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestUpdateFlagsMeanWhatTheyMeanOnWindows(t *testing.T) {
	key, value := u32(1), u64(7)
	for _, c := range []struct {
		kind   MapType
		flag   Flag
		absent Code
		there  Code
	}{
		{Hash, Any, success, success}, {Hash, NoExist, success, ObjectAlreadyExists}, {Hash, Exist, KeyNotFound, success},
		{Hash, 3, InvalidArgument, InvalidArgument},
		{LRUHash, NoExist, success, ObjectAlreadyExists}, {LRUHash, Exist, KeyNotFound, success},
		{PerCPUHash, NoExist, success, ObjectAlreadyExists}, {LRUPerCPUHash, Exist, KeyNotFound, success},
		{Array, Any, success, success}, {Array, Exist, success, success}, {Array, NoExist, InvalidArgument, InvalidArgument},
		{PerCPUArray, NoExist, InvalidArgument, InvalidArgument},
	} {
		t.Run(fmt.Sprintf("%s with flag %d", c.kind, c.flag), func(t *testing.T) {
			m := mapOf(t, fixed(), MapSpec{Type: c.kind, KeySize: 4, ValueSize: 8, MaxEntries: 4})
			gives(t, "absent", m.Update(key, value, c.flag), c.absent)
			must(t, m.Update(key, value, Any))
			gives(t, "there", m.Update(key, value, c.flag), c.there)
		})
	}
}

func TestKeysAndValuesOfAnotherSizeAreRefused(t *testing.T) {
	for _, kind := range []MapType{Hash, Array, LRUHash, PerCPUHash, PerCPUArray, LPMTrie} {
		m := mapOf(t, fixed(), MapSpec{Type: kind, KeySize: 8 >> (boolInt(kind == Array || kind == PerCPUArray)), ValueSize: 8, MaxEntries: 4})
		gives(t, kind.String(), m.Update(make([]byte, 3), u64(0), Any), InvalidArgument)
		gives(t, kind.String(), m.Update(make([]byte, m.KeySize), make([]byte, 7), Any), InvalidArgument)
		_, err := m.Lookup(make([]byte, 3))
		gives(t, kind.String(), err, InvalidArgument)
		gives(t, kind.String(), m.Delete(make([]byte, 3)), InvalidArgument)
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestAHashTakesMoreThanItsMaxEntries(t *testing.T) {
	for _, kind := range []MapType{Hash, PerCPUHash} {
		m := mapOf(t, fixed(), MapSpec{Type: kind, KeySize: 4, ValueSize: 8, MaxEntries: 2})
		for i := range uint32(100) {
			must(t, m.Update(u32(i), u64(uint64(i)), Any))
		}
		if m.Len() != 100 {
			t.Errorf("%s: %d elements", kind, m.Len())
		}
	}
}

// TestAHashHoldsWhatAGoMapHolds does the same at random to a map of Go's.
func TestAHashHoldsWhatAGoMapHolds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m := mapOf(t, fixed(), MapSpec{Type: Hash, KeySize: 5, ValueSize: 3, MaxEntries: 8})
	model := map[string]string{}
	for step := range 20000 {
		key := []byte{byte(random.IntN(40)), 0, 0, 0, byte(random.IntN(3))}
		value := []byte{byte(step), byte(step >> 8), byte(step >> 16)}
		_, there := model[string(key)]
		switch random.IntN(4) {
		case 0:
			must(t, m.Update(key, value, Any))
			model[string(key)] = string(value)
		case 1:
			err := m.Delete(key)
			gives(t, "delete", err, map[bool]Code{true: success, false: KeyNotFound}[there])
			delete(model, string(key))
		case 2:
			got, err := m.Lookup(key)
			gives(t, "lookup", err, map[bool]Code{true: success, false: ObjectNotFound}[there])
			if string(got) != model[string(key)] {
				t.Fatalf("%x: %x, want %x", key, got, model[string(key)])
			}
		case 3:
			seen := map[string]string{}
			for key, value := range m.All() {
				seen[string(key)] = string(value)
			}
			if len(seen) != len(model) || m.Len() != len(model) {
				t.Fatalf("%d elements, %d by Len, want %d", len(seen), m.Len(), len(model))
			}
			for key, value := range model {
				if seen[key] != value {
					t.Fatalf("%x: %x, want %x", key, seen[key], value)
				}
			}
		}
	}
}

func TestNextKeyVisitsEveryElementOnce(t *testing.T) {
	for _, kind := range []MapType{Hash, LRUHash, LPMTrie, Array} {
		keySize := uint32(4)
		if kind == LPMTrie {
			keySize = 8
		}
		m := mapOf(t, fixed(), MapSpec{Type: kind, KeySize: keySize, ValueSize: 1, MaxEntries: 50})
		var want []string
		for i := range byte(50) {
			key := make([]byte, keySize)
			if key[0] = i; kind == LPMTrie {
				key = []byte{32, 0, 0, 0, i, 0, 0, 0}
			}
			must(t, m.Update(key, []byte{i}, Any))
			want = append(want, string(key))
		}
		var got []string
		key, err := m.NextKey(nil)
		for ; err == nil; key, err = m.NextKey(key) {
			got = append(got, string(key))
		}
		gives(t, kind.String(), err, NoMoreKeys)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d keys", kind, len(got))
		}
		if kind == Hash {
			_, err := m.NextKey(u32(999))
			gives(t, "after a key that is not there", err, KeyNotFound)
		}
	}
}

func TestDeletingFromAnArrayMakesItsValueZero(t *testing.T) {
	for _, kind := range []MapType{Array, PerCPUArray} {
		m := mapOf(t, fixed(), MapSpec{Type: kind, KeySize: 4, ValueSize: 8, MaxEntries: 2})
		must(t, m.Update(u32(1), u64(7), Any))
		must(t, m.Delete(u32(1)))
		value, err := m.Lookup(u32(1))
		must(t, err)
		if !bytes.Equal(value, u64(0)) {
			t.Errorf("%s: %x", kind, value)
		}
		gives(t, "beyond the array", m.Delete(u32(2)), InvalidArgument)
		gives(t, "beyond the array", m.Update(u32(2), u64(0), Any), InvalidArgument)
		_, err = m.Lookup(u32(2))
		gives(t, "beyond the array", err, ObjectNotFound)
	}
}

func TestAnLPMTrieFindsTheLongestPrefix(t *testing.T) {
	m := mapOf(t, fixed(), MapSpec{Type: LPMTrie, KeySize: 8, ValueSize: 1, MaxEntries: 8})
	prefix := func(length uint32, a, b, c, d byte) []byte { return append(u32(length), a, b, c, d) }
	for i, key := range [][]byte{
		prefix(0, 0, 0, 0, 0), prefix(8, 10, 0, 0, 0), prefix(12, 10, 0x10, 0, 0), prefix(24, 10, 0x11, 0x12, 0),
		prefix(32, 10, 0x11, 0x12, 0x13),
	} {
		must(t, m.Update(key, []byte{byte(i)}, Any))
	}
	for _, c := range []struct {
		name string
		key  []byte
		want int
	}{
		{"a host", prefix(32, 10, 0x11, 0x12, 0x13), 4}, {"its neighbour", prefix(32, 10, 0x11, 0x12, 0x14), 3},
		{"another net of the same 12 bits", prefix(32, 10, 0x1f, 0, 0), 2}, {"one bit beside it", prefix(32, 10, 0x20, 0, 0), 1},
		{"what only the default has", prefix(32, 11, 0, 0, 0), 0},
		{"a key shorter than the prefix", prefix(23, 10, 0x11, 0x12, 0x13), 2},
		{"a key of no bits", prefix(0, 10, 0x11, 0x12, 0x13), 0},
	} {
		value, err := m.Lookup(c.key)
		must(t, err)
		if int(value[0]) != c.want {
			t.Errorf("%s: %d, want %d", c.name, value[0], c.want)
		}
	}
	_, err := m.Lookup(prefix(33, 0, 0, 0, 0))
	gives(t, "a length of 33", err, InvalidArgument)
	gives(t, "a length of 33", m.Update(prefix(33, 0, 0, 0, 0), []byte{0}, Any), InvalidArgument)
	gives(t, "a length of 33", m.Delete(prefix(33, 0, 0, 0, 0)), InvalidArgument)
	// Bits behind the prefix do not count.
	must(t, m.Update(prefix(12, 10, 0x1a, 1, 2), []byte{99}, Exist))
	if m.Len() != 5 {
		t.Errorf("%d elements", m.Len())
	}
	must(t, m.Delete(prefix(12, 10, 0x15, 3, 4)))
	value, err := m.Lookup(prefix(32, 10, 0x1f, 0, 0))
	must(t, err)
	if value[0] != 1 {
		t.Errorf("after the deletion %d", value[0])
	}
}

func TestPerCPUMapsHaveAValueForEachProcessor(t *testing.T) {
	for _, kind := range []MapType{PerCPUArray, PerCPUHash, LRUPerCPUHash} {
		options := fixed()
		options.CPUs = 3
		m := mapOf(t, options, MapSpec{Type: kind, KeySize: 4, ValueSize: 5, MaxEntries: 4})
		must(t, m.UpdateCPU(u32(1), []byte("hello"), 1))
		all, err := m.Lookup(u32(1))
		must(t, err)
		if want := []byte("\x00\x00\x00\x00\x00\x00\x00\x00hello\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"); !bytes.Equal(all, want) {
			t.Errorf("%s: %q", kind, all)
		}
		one, err := m.LookupCPU(u32(1), 1)
		must(t, err)
		if string(one) != "hello" {
			t.Errorf("%s: %q", kind, one)
		}
		gives(t, "processor 3", m.UpdateCPU(u32(1), []byte("hello"), 3), InvalidArgument)
	}
}

// A program's update of a per-CPU map writes its processor's value in place, and looks
// at no flag when the key is there: _update_entry_per_cpu of ebpf_maps.c.
func TestAProgramSeesItsProcessorsValue(t *testing.T) {
	options := fixed()
	options.CPUs = 2
	m := build(t, options, []MapSpec{{Name: "map", Type: PerCPUHash, KeySize: 4, ValueSize: 4, MaxEntries: 4}},
		source{"program", asm.Instructions{
			storeImmediate(asm.RFP, -4, 3, asm.Word), callID(8), asm.StoreMem(asm.RFP, -8, asm.R0, asm.Word),
			asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), asm.Mov.Imm(asm.R4, int32(NoExist)), callID(2),
			asm.Return(),
		}})
	for cpu := range 2 {
		must(t, m.SetCPU(cpu))
		if got := run(t, m).Action; got != 0 {
			t.Errorf("processor %d: %d", cpu, int32(got))
		}
		got, err := m.maps[0].LookupCPU(u32(3), cpu)
		must(t, err)
		if binary.LittleEndian.Uint32(got) != uint32(cpu) {
			t.Errorf("processor %d wrote %x", cpu, got)
		}
	}
	if err := m.SetCPU(2); err == nil {
		t.Error("there is no processor 2")
	}
}

// An update replaces the element; a pointer from before is to the old one.
func TestAPointerFromBeforeAnUpdateIsToTheOldValue(t *testing.T) {
	m := build(t, fixed(), []MapSpec{{Name: "map", Type: Hash, KeySize: 4, ValueSize: 4, MaxEntries: 4}},
		source{"program", asm.Instructions{
			storeImmediate(asm.RFP, -4, 3, asm.Word), storeImmediate(asm.RFP, -8, 20, asm.Word),
			asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), callID(1),
			asm.Mov.Reg(asm.R6, asm.R0), asm.Mov.Imm(asm.R7, 3),
			// Three times, so that the memory of the old one is wanted.
			asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), asm.Mov.Imm(asm.R4, 0), callID(2),
			asm.Sub.Imm(asm.R7, 1), skip(asm.JNE.Imm(asm.R7, 0, ""), -10),
			asm.LoadMem(asm.R0, asm.R6, 0, asm.Word), storeImmediate(asm.R6, 0, 30, asm.Word),
			asm.Return(),
		}})
	must(t, m.maps[0].Update(u32(3), u32(10), Any))
	for i, want := range []Action{10, 20, 20} {
		if got := run(t, m).Action; got != want {
			t.Errorf("run %d: %d, want %d", i, got, want)
		}
		value, err := m.maps[0].Lookup(u32(3))
		must(t, err)
		if !bytes.Equal(value, u32(20)) {
			t.Errorf("run %d: then %x", i, value)
		}
	}
}

func TestQueuesAndStacks(t *testing.T) {
	for kind, order := range map[MapType]string{Queue: "bcd", Stack: "dcb"} {
		m := mapOf(t, fixed(), MapSpec{Type: kind, ValueSize: 1, MaxEntries: 3})
		for _, c := range "abc" {
			must(t, m.Push([]byte{byte(c)}, Any))
		}
		gives(t, "full", m.Push([]byte{'x'}, Any), OutOfSpace)
		must(t, m.Push([]byte{'d'}, Exist))
		for _, want := range order {
			got, err := m.Pop()
			must(t, err)
			if got[0] != byte(want) {
				t.Errorf("%s: %c, want %c", kind, got[0], want)
			}
		}
		_, err := m.Pop()
		gives(t, "empty", err, ObjectNotFound)
	}
}

func TestMapsThatWindowsRefusesAreNotMade(t *testing.T) {
	inner := &MapSpec{Type: Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	for name, spec := range map[string]MapSpec{
		"Linux' XSKMAP":                     {Type: 17, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		"a hash without keys":               {Type: Hash, ValueSize: 4, MaxEntries: 1},
		"an array without values":           {Type: Array, KeySize: 4, MaxEntries: 1},
		"no max_entries":                    {Type: Hash, KeySize: 4, ValueSize: 4},
		"a hash of maps without a template": {Type: HashOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		"a hash of maps with values of 8":   {Type: HashOfMaps, KeySize: 4, ValueSize: 8, MaxEntries: 1, Inner: inner},
		"a hash with a template":            {Type: Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1, Inner: inner},
		"a ring buffer with keys":           {Type: RingBuf, KeySize: 4, MaxEntries: pageSize},
		"a ring buffer of three pages":      {Type: RingBuf, MaxEntries: 3 * pageSize},
		"a ring buffer of less than a page": {Type: RingBuf, MaxEntries: 1024},
		"an LPM trie with keys of nothing":  {Type: LPMTrie, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		"an array of more than all memory":  {Type: Array, KeySize: 4, ValueSize: 4096, MaxEntries: 1 << 31},
		"an array whose size wraps around":  {Type: PerCPUArray, KeySize: 4, ValueSize: 1 << 26, MaxEntries: 1<<32 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := newMachine(fixed())
			must(t, err)
			if _, err := m.addMap(spec); err == nil {
				t.Error("made")
			}
		})
	}
}
