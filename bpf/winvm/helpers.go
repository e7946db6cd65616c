package winvm

import (
	"encoding/binary"
	"time"
)

// The helpers' numbers (ebpf_helper_id_t of include/ebpf_structs.h); those of the
// hook count from 65536 (net_ebpf_ext_xdp_hooks.h).
const (
	helperTailCall   = 5
	helperAdjustHead = 65536
)

type helper struct {
	name      string
	arguments int
	call      func(*Machine) (uint64, *Fault)
}

// generalHelper gives the helpers of ebpf_core.c by number. Those of strings,
// processes and sockets are left out: no program of XDP has a use for them.
func generalHelper(id uint64) helper {
	switch id {
	case 1:
		return helper{"map_lookup_elem", 2, (*Machine).helperLookup}
	case 2:
		return helper{"map_update_elem", 4, (*Machine).helperUpdate}
	case 3:
		return helper{"map_delete_elem", 2, (*Machine).helperDelete}
	case 4:
		return helper{"map_lookup_and_delete_elem", 2, (*Machine).helperLookupAndDelete}
	case helperTailCall:
		return helper{"tail_call", 3, nil} // an operation of its own
	case 6:
		return helper{"get_prandom_u32", 0, (*Machine).helperRandom}
	case 7:
		return helper{"ktime_get_boot_ns", 0, (*Machine).helperNanoseconds}
	case 8:
		return helper{"get_smp_processor_id", 0, (*Machine).helperProcessor}
	case 9:
		return helper{"ktime_get_ns", 0, (*Machine).helperNanoseconds}
	case 10:
		return helper{"csum_diff", 5, (*Machine).helperChecksumDiff}
	case 11:
		return helper{"ringbuf_output", 4, (*Machine).helperRingOutput}
	case 12, 13, 14, 15:
		return helper{"trace_printk", int(id) - 10, (*Machine).helperPrint}
	case 16:
		return helper{"map_push_elem", 3, (*Machine).helperPush}
	case 17:
		return helper{"map_pop_elem", 2, (*Machine).helperPop}
	case 18:
		return helper{"map_peek_elem", 2, (*Machine).helperPeek}
	case 22:
		return helper{"memcpy", 4, (*Machine).helperCopy}
	case 23:
		return helper{"memcmp", 4, (*Machine).helperCompare}
	case 24:
		return helper{"memset", 3, (*Machine).helperSet}
	case 25:
		return helper{"memmove", 4, (*Machine).helperCopy}
	case 30:
		return helper{"ktime_get_boot_ms", 0, (*Machine).helperMilliseconds}
	case 31:
		return helper{"ktime_get_ms", 0, (*Machine).helperMilliseconds}
	case 32:
		return helper{"perf_event_output", 5, (*Machine).helperPerfOutput}
	case helperAdjustHead:
		return helper{"xdp_adjust_head", 2, (*Machine).helperAdjustHead}
	}
	return helper{name: "unknown"}
}

func helperArguments(id uint64) int { return generalHelper(id).arguments }
func helperName(id uint64) string   { return generalHelper(id).name }

func (m *Machine) callHelper(id uint64) (uint64, *Fault) {
	if h := generalHelper(id); h.call != nil {
		return h.call(m)
	}
	return 0, faultf(UnknownHelper, "profile %s has no helper %d", m.options.Profile, int32(id))
}

// ticks is the clock in Windows' unit of 100 ns.
func (m *Machine) ticks() uint64 { return uint64(m.options.Clock() / (100 * time.Nanosecond)) }

func (m *Machine) helperRandom() (uint64, *Fault)    { return uint64(m.options.Random()), nil }
func (m *Machine) helperProcessor() (uint64, *Fault) { return uint64(uint32(m.cpu)), nil }

// helperNanoseconds is a multiple of 100: _ebpf_core_get_time_since_boot_ns. Time asleep,
// which ktime_get_ns leaves out, is not simulated.
func (m *Machine) helperNanoseconds() (uint64, *Fault) { return m.ticks() * 100, nil }

// helperMilliseconds reads on Windows the time of the last timer interrupt, at best some
// milliseconds old; the clock option decides.
func (m *Machine) helperMilliseconds() (uint64, *Fault) { return m.ticks() / 10_000, nil }

// mapArgument finds the map of r1, or of another register.
func (m *Machine) mapArgument(register int) (*Map, *Fault) {
	at := m.registers[register]
	number := at >> addressBits
	if at&offsetMask != 0 || number >= uint64(len(m.regions)) || m.regions[number].kind != kindMapHandle {
		return nil, faultf(BadArgument, "r%d is %#x, which is no map", register, at)
	}
	return m.regions[number].owner, nil
}

// keyArgument finds the map of r1 and its key behind r2.
func (m *Machine) keyArgument() (*Map, []byte, *Fault) {
	mp, f := m.mapArgument(1)
	if f != nil {
		return nil, nil, f
	}
	key, f := m.bytes("key in r2", m.registers[2], uint64(mp.KeySize), readAccess)
	return mp, key, f
}

// helperLookup is _ebpf_core_map_find_element: null whatever went wrong. Of a map of
// maps it returns the inner map, to be given to another lookup.
func (m *Machine) helperLookup() (uint64, *Fault) {
	mp, key, f := m.keyArgument()
	if f != nil || mp.entries == nil || mp.Type == ProgArray {
		return 0, f
	}
	if mp.Type.ofMaps() {
		if id := mp.object(key); id != 0 {
			return address(mp.inner[id-1].handle, 0), nil
		}
		return 0, nil
	}
	slot, code := mp.entries.lookup(key)
	if code != success {
		return 0, nil
	}
	return mp.addressOf(slot, mp.onCPU(m.cpu)), nil
}

// onCPU is which of an element's values a processor has.
func (m *Map) onCPU(cpu int) int {
	if m.Type.perCPU() {
		return cpu
	}
	return 0
}

// helperUpdate is _ebpf_core_map_update_element.
func (m *Machine) helperUpdate() (uint64, *Fault) {
	mp, key, f := m.keyArgument()
	if f != nil {
		return 0, f
	}
	value, f := m.bytes("value in r3", m.registers[3], uint64(mp.ValueSize), readAccess)
	if f != nil {
		return 0, f
	}
	flag := Flag(uint32(m.registers[4])) // ebpf_map_option_t is an int
	switch {
	case mp.entries == nil, mp.Type.objects():
		return OperationNotSupported.returned64(), nil
	case mp.Type.perCPU():
		return mp.updateCPU(key, value, m.cpu, flag).returned64(), nil
	}
	return mp.entries.update(key, value, flag).returned64(), nil
}

// helperDelete is _ebpf_core_map_delete_element.
func (m *Machine) helperDelete() (uint64, *Fault) {
	mp, key, f := m.keyArgument()
	if f != nil {
		return 0, f
	}
	if mp.entries == nil {
		return OperationNotSupported.returned64(), nil
	}
	return mp.entries.remove(key).returned64(), nil
}

// helperLookupAndDelete is _ebpf_core_map_find_and_delete_element: the value stays
// readable until the program ends. Arrays and LPM tries refuse; of maps of maps,
// efW 0.21 returns the inner map and deletes nothing.
func (m *Machine) helperLookupAndDelete() (uint64, *Fault) {
	mp, key, f := m.keyArgument()
	if f != nil {
		return 0, f
	}
	switch entries := mp.entries.(type) {
	case *hashEntries:
		at, f := m.helperLookup()
		if f == nil && at != 0 && !mp.Type.ofMaps() {
			entries.remove(key)
		}
		return at, f
	case *listEntries:
		slot, code := entries.pop()
		if code != success {
			return 0, nil
		}
		return mp.addressOf(slot, 0), nil
	case *arrayEntries:
		if mp.Type == ArrayOfMaps {
			return m.helperLookup()
		}
	}
	return 0, nil
}

// tailCall is _ebpf_core_tail_call: success means that the program ends here.
func (m *Machine) tailCall(done int) (*Program, Code, *Fault) {
	if f := m.contextArgument(); f != nil {
		return nil, success, f
	}
	mp, f := m.mapArgument(2)
	if f != nil {
		return nil, success, f
	}
	if mp.Type != ProgArray {
		return nil, InvalidArgument, nil
	}
	var index [4]byte
	binary.LittleEndian.PutUint32(index[:], uint32(m.registers[3]))
	id := mp.object(index[:])
	switch {
	case id == 0:
		return nil, InvalidArgument, nil
	case done == maxTailCalls:
		return nil, NoMoreTailCalls, nil
	}
	return mp.programs[id-1], success, nil
}
