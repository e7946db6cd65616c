package winvm

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestClocksCountInWindowsUnits(t *testing.T) {
	for id, want := range map[int32]uint64{7: 1234567800, 9: 1234567800, 30: 1234, 31: 1234} {
		if got := evaluate(t, callID(id)); got != want {
			t.Errorf("helper %d: %d, want %d", id, got, want)
		}
	}
}

func TestRandomNumbersComeFromTheOptions(t *testing.T) {
	if got := evaluate(t, callID(6)); got != 0xfeedbeef {
		t.Errorf("%#x", got)
	}
}

// onStack writes bytes below r10, a multiple of 8 of them, and leaves their address in r.
func onStack(r asm.Register, at int16, data []byte) asm.Instructions {
	var code asm.Instructions
	for i := 0; i < len(data); i += 8 {
		code = append(code, constant(asm.R0, binary.LittleEndian.Uint64(data[i:])), asm.StoreMem(asm.RFP, at+int16(i), asm.R0, asm.DWord))
	}
	return append(code, asm.Mov.Reg(r, asm.RFP), asm.Add.Imm(r, int32(at)))
}

func TestChecksumDiffAddsSixteenBitWordsWithoutFolding(t *testing.T) {
	from := []byte{0x01, 0x00, 0x02, 0x00, 0x03, 0x00, 0x04, 0x00}
	to := []byte{0x10, 0x00, 0x20, 0x00, 0xff, 0xff, 0xff, 0xff}
	for _, c := range []struct {
		name             string
		fromSize, toSize int32
		seed             int32
		want             uint64
	}{
		{"nothing", 0, 0, 5, 5},
		{"what is added", 0, 8, 0, 0x10 + 0x20 + 0xffff + 0xffff},
		{"what is taken away", 4, 0, 0, 0xfffe + 0xfffd},
		{"both", 4, 4, 1, 0xfffe + 0xfffd + 0x30 + 1},
		{"a size that is no multiple of 4", 0, 2, 0, 0xffffffea},
		{"a seed above 2^31", 0, 4, -0x70000000, 0xffffffea},
		{"a sum above 2^31", 0, 4, 0x7fffffff, 0xffffffea},
	} {
		t.Run(c.name, func(t *testing.T) {
			code := join(onStack(asm.R1, -8, from), onStack(asm.R3, -16, to),
				asm.Mov.Imm(asm.R2, c.fromSize), asm.Mov.Imm(asm.R4, c.toSize), asm.Mov.Imm(asm.R5, c.seed), callID(10))
			if got := evaluate(t, code...); got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
	if got := evaluate(t, asm.Mov.Imm(asm.R1, 0), asm.Mov.Imm(asm.R2, 8), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 8), asm.Mov.Imm(asm.R5, 9), callID(10)); got != 9 {
		t.Errorf("null pointers: %d, want 9", got)
	}
}

func TestMemoryHelpers(t *testing.T) {
	call := func(id, a, b int32) asm.Instructions {
		return join(onStack(asm.R1, -8, []byte("ABCDEFGH")), onStack(asm.R3, -16, []byte("ABCDefgh")),
			asm.Mov.Imm(asm.R2, a), asm.Mov.Imm(asm.R4, b), callID(id))
	}
	stack := asm.LoadMem(asm.R0, asm.RFP, -8, asm.DWord)
	word := func(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s)) }
	for _, c := range []struct {
		name string
		code asm.Instructions
		want uint64
	}{
		{"memcpy", join(call(22, 8, 6), stack), word("ABCDefGH")},
		{"memcpy of too much returns -EINVAL", call(22, 4, 8), 0xffffffea},
		{"memcpy of too much copies nothing", join(call(22, 4, 8), stack), word("ABCDEFGH")},
		{"memmove", join(call(25, 8, 8), stack), word("ABCDefgh")},
		{"memcmp of equals", call(23, 4, 4), 0},
		{"memcmp of less", call(23, 8, 8), 0xffffffff},
		{"memcmp of a longer first", call(23, 4, 3), 1},
		{"memset", join(onStack(asm.R1, -8, []byte("ABCDEFGH")), asm.Mov.Imm(asm.R2, 3), asm.Mov.Imm(asm.R3, 'x'), callID(24), stack), word("xxxDEFGH")},
		{"memset returns its buffer", join(onStack(asm.R1, -8, []byte("ABCDEFGH")), asm.Mov.Imm(asm.R2, 3), asm.Mov.Imm(asm.R3, 'x'), callID(24),
			asm.LoadMem(asm.R0, asm.R0, 0, asm.DWord)), word("xxxDEFGH")},
		{"trace_printk", join(onStack(asm.R1, -8, []byte("ABCDEFG\x00")), asm.Mov.Imm(asm.R2, 8), callID(12)), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := evaluate(t, c.code...); got != c.want {
				t.Errorf("%#x, want %#x", got, c.want)
			}
		})
	}
}

// mapCall calls a helper with the first map, a key of 4 bytes and a value of 4.
func mapCall(id int32, key, value int64, flag Flag) asm.Instructions {
	return asm.Instructions{
		storeImmediate(asm.RFP, -4, key, asm.Word), storeImmediate(asm.RFP, -8, value, asm.Word),
		asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), asm.Mov.Imm(asm.R4, int32(flag)), callID(id),
		asm.Return(),
	}
}

// A map's code is negative in 64 bits; what a helper returns as an int in 32 only, so
// that `(long)result < 0` does not see it.
func TestAnIntResultIsNotNegativeInSixtyFourBits(t *testing.T) {
	if got, want := evaluate(t, join(mapCall(2, 5, 1, NoExist)[:9])...), negative(-int64(InvalidArgument)); got != want {
		t.Errorf("map_update_elem: %#x, want %#x", got, want)
	}
	options := fixed()
	options.Profile = XDP
	m := build(t, options, nil, source{"program", asm.Instructions{asm.Mov.Imm(asm.R2, 4), callID(helperAdjustHead),
		asm.Mov.Imm(asm.R6, 1), skip(asm.JSLT.Imm(asm.R0, 0, ""), 1), asm.Mov.Imm(asm.R6, 2), asm.Mov.Reg(asm.R0, asm.R6), asm.Return()}})
	if got := run(t, m).Action; got != 2 {
		t.Error("xdp_adjust_head is below 0 in 64 bits")
	}
}

func TestProgramsGetWindowsCodesFromMaps(t *testing.T) {
	for _, c := range []struct {
		name string
		kind MapType
		code asm.Instructions
		want Code
	}{
		{"an insertion", Hash, mapCall(2, 5, 1, NoExist), success},
		{"an insertion of what is there", Hash, mapCall(2, 1, 1, NoExist), ObjectAlreadyExists},
		{"an update of what is not", Hash, mapCall(2, 5, 1, Exist), KeyNotFound},
		{"an unknown flag", Hash, mapCall(2, 5, 1, 4), InvalidArgument},
		{"a deletion", Hash, mapCall(3, 1, 0, 0), success},
		{"a deletion of what is not there", Hash, mapCall(3, 5, 0, 0), KeyNotFound},
		{"an insertion into an array", Array, mapCall(2, 1, 1, NoExist), InvalidArgument},
		{"a deletion from an array", Array, mapCall(3, 1, 0, 0), success},
		{"a deletion from an LRU map", LRUHash, mapCall(3, 1, 0, 0), success},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := build(t, fixed(), []MapSpec{{Name: "map", Type: c.kind, KeySize: 4, ValueSize: 4, MaxEntries: 8}}, source{"program", c.code})
			must(t, m.maps[0].Update(u32(1), u32(10), Any))
			if got := run(t, m).Action; got != negativeAction(c.want) {
				t.Errorf("%d, want %d", int32(got), -c.want)
			}
		})
	}
}

func TestLookupAndDelete(t *testing.T) {
	code := asm.Instructions{
		storeImmediate(asm.RFP, -4, 1, asm.Word), asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), callID(4),
		skip(asm.JNE.Imm(asm.R0, 0, ""), 1), asm.Return(), asm.LoadMem(asm.R0, asm.R0, 0, asm.Word), asm.Return(),
	}
	for kind, want := range map[MapType][2]Action{Hash: {10, 0}, LRUHash: {10, 0}, Array: {0, 0}, Queue: {10, 20}, Stack: {20, 10}} {
		spec := MapSpec{Name: "map", Type: kind, KeySize: 4, ValueSize: 4, MaxEntries: 8}
		if kind.keyless() {
			spec.KeySize = 0
		}
		m := build(t, fixed(), []MapSpec{spec}, source{"program", code})
		if kind.keyless() {
			must(t, m.maps[0].Push(u32(10), Any))
			must(t, m.maps[0].Push(u32(20), Any))
		} else {
			must(t, m.maps[0].Update(u32(1), u32(10), Any))
		}
		for i, want := range want {
			if got := run(t, m).Action; got != want {
				t.Errorf("%s, run %d: %d, want %d", kind, i, got, want)
			}
		}
	}
}

func TestQueueHelpers(t *testing.T) {
	push := func(value int64) asm.Instructions {
		return asm.Instructions{storeImmediate(asm.RFP, -4, value, asm.Word), asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.Mov.Imm(asm.R3, 0), callID(16)}
	}
	take := func(id int32) asm.Instructions {
		return asm.Instructions{asm.LoadMapPtr(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), callID(id)}
	}
	value := asm.LoadMem(asm.R0, asm.RFP, -4, asm.Word)
	for _, c := range []struct {
		name string
		code asm.Instructions
		want Action
	}{
		{"peek", join(push(1), push(2), take(18), value), 1},
		{"pop", join(push(1), push(2), take(17), take(17), value), 2},
		{"pop of nothing", join(take(17)), negativeAction(ObjectNotFound)},
		{"push into a full one", join(push(1), push(2), push(3)), negativeAction(OutOfSpace)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := build(t, fixed(), []MapSpec{{Name: "map", Type: Queue, ValueSize: 4, MaxEntries: 2}}, source{"program", returning(c.code...)})
			if got := run(t, m).Action; got != c.want {
				t.Errorf("%d, want %d", int32(got), int32(c.want))
			}
		})
	}
}

// report outputs the first length bytes of the frame to the first map.
func report(length int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, contextData, asm.DWord), asm.Mov.Imm(asm.R3, length), asm.Mov.Imm(asm.R4, 0),
		asm.LoadMapPtr(asm.R1, 0), callID(11), asm.Return(),
	}
}

func TestARingBufferKeepsRecordsInOrderAndDropsWhatDoesNotFit(t *testing.T) {
	m := build(t, fixed(), []MapSpec{{Name: "ring", Type: RingBuf, MaxEntries: pageSize}}, source{"program", report(33)})
	frame := frame60()
	// 33 bytes take 48: 8 of the header, and up to a multiple of 8.
	const fit = pageSize / 48
	next := byte(0)
	for round := range 3 { // the later rounds wrap around the end
		for i := range fit + 2 {
			frame[0] = byte(round*fit + i)
			result, err := m.Run(m.programs[0], frame)
			must(t, err)
			if want := map[bool]Action{true: 0, false: negativeAction(NoMemory)}[i < fit]; result.Action != want {
				t.Fatalf("round %d, record %d: %d", round, i, int32(result.Action))
			}
		}
		for range fit {
			record, ok := m.maps[0].Read(0)
			if !ok || len(record) != 33 || record[0] != next || !bytes.Equal(record[1:], frame[1:33]) {
				t.Fatalf("record %d: %x", next, record)
			}
			next++
		}
		if _, ok := m.maps[0].Read(0); ok {
			t.Fatal("a record too many")
		}
	}
}

func TestRecordsGoToTheSink(t *testing.T) {
	var got []string
	options := fixed()
	options.Events = func(from *Map, cpu int, record []byte) { got = append(got, from.Name()+":"+string(record)) }
	m := build(t, options, []MapSpec{{Name: "ring", Type: RingBuf, MaxEntries: pageSize}}, source{"program", report(2)})
	for _, text := range []string{"ab", "cd"} {
		_, err := m.Run(m.programs[0], []byte(text))
		must(t, err)
	}
	if len(got) != 2 || got[0] != "ring:ab" || got[1] != "ring:cd" {
		t.Errorf("%q", got)
	}
}

func TestAPerfEventArrayTakesTheFrameAlong(t *testing.T) {
	options := fixed()
	options.CPUs = 2
	output := func(flags uint64) asm.Instructions {
		return asm.Instructions{
			storeImmediate(asm.RFP, -4, 7, asm.Word), asm.LoadMapPtr(asm.R2, 0), constant(asm.R3, flags),
			asm.Mov.Reg(asm.R4, asm.RFP), asm.Add.Imm(asm.R4, -4), asm.Mov.Imm(asm.R5, 4), callID(32), asm.Return(),
		}
	}
	for name, c := range map[string]struct {
		flags uint64
		want  Action
		bytes int
	}{
		"this processor":             {perfCPUMask, 0, 4},
		"processor 1, with 10 bytes": {1 | 10<<perfCaptureBits, 0, 14},
		"another processor":          {0, negativeAction(InvalidArgument), 0},
		"more than the frame":        {perfCPUMask | 61<<perfCaptureBits, negativeAction(InvalidArgument), 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := build(t, options, []MapSpec{{Name: "events", Type: PerfEventArray, MaxEntries: pageSize}}, source{"program", output(c.flags)})
			must(t, m.SetCPU(1))
			if got := run(t, m).Action; got != c.want {
				t.Errorf("%d, want %d", int32(got), int32(c.want))
			}
			record, _ := m.maps[0].Read(1)
			if want := append(u32(7), frame60()[:max(c.bytes-4, 0)]...)[:c.bytes]; !bytes.Equal(record, want) {
				t.Errorf("%x, want %x", record, want)
			}
			if _, ok := m.maps[0].Read(0); ok {
				t.Error("a record of processor 0")
			}
		})
	}
}
