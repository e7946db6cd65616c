package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l4lab/bpf/winvm"
)

// mirror runs every frame that a balancer's send gives to the kernel with the Windows
// objects, too, in package winvm, and compares verdict, frame, events and maps byte for byte.
//
// The kernel's maps lead: whatever a test writes to them is carried over before
// each frame, so a test need not know that there are two machines. After each frame
// both have the same maps again, or the test fails. What cannot be equal is said
// here and nowhere else:
//
//   - Times. Both clocks are read within one run of the kernel; a time in a map may
//     differ only when both lie in that run (mirroredMap.equal).
//   - Random numbers. Windows' are chosen after the kernel's run so that they lead
//     to the port and backend that the kernel's led to (mirror.random).
//   - Evictions. Linux evicts before an LRU map is full, each CPU keeping some free
//     elements, and in another order than Windows; an old entry that is gone from a
//     table, or of a CPU's share of one, that is three quarters full is taken away
//     from Windows' as well.
//   - The answer "too big", which Windows cannot cut to its length: the frame keeps
//     the client's bytes behind the IP packet (sameFrame).
//   - Scratch is no state: of it, only the budget of events is carried over. Events
//     that found the ring full are not compared: Windows' is read after each frame.
//   - In profile xdp, bpf_xdp_adjust_head fails always: what the kernel encapsulates in
//     IP is a drop adjust_head there, and no flow of it may be left.
//
// Tests that push thousands of equal frames through the program (balancer.quick,
// natFlood) or race two CPUs are the kernel's alone: their subjects are the LRU and
// the concurrency of Linux' maps.
type mirror struct {
	objects  *LBObjects
	maps     []*mirroredMap
	ring     *ringView
	machines []*windows
	maglev   map[uint32][]uint32 // the tables that Windows has
	rate     uint32              // of events; without one no program looks at the budget
	now      time.Duration       // Windows' clock
	next     uint32              // Windows' next random number
}

// windows is one profile's machine.
type windows struct {
	profile winvm.Profile
	machine *winvm.Machine
	lb      *winvm.Program
	stages  *winvm.Map
	tables  map[string]*winvm.Map
	inner   map[uint32]*winvm.Map
	events  [][]byte
}

// Mirrors live as long as the programs that tests hand on to one another.
var mirrors = mirrorsOf{of: map[*LBObjects]*mirror{}}

type mirrorsOf struct {
	sync.Mutex
	of map[*LBObjects]*mirror
}

func (m *mirrorsOf) forget(o *LBObjects) {
	m.Lock()
	defer m.Unlock()
	delete(m.of, o)
}

func (m *mirrorsOf) keep(o *LBObjects, of *mirror) {
	m.Lock()
	defer m.Unlock()
	m.of[o] = of
}

// mirrorOf finds or makes the mirror of loaded programs.
func mirrorOf(t testing.TB, o *LBObjects) *mirror {
	t.Helper()
	mirrors.Lock()
	defer mirrors.Unlock()
	if m := mirrors.of[o]; m != nil {
		return m
	}
	m := &mirror{objects: o, maps: mirroredMaps(o), ring: viewRing(t, o.Events), maglev: map[uint32][]uint32{}}
	// An image for larger Maglev tables is compiled with another template.
	sizes := map[string]uint32{"maglev": o.Maglev.MaxEntries(), "maglev.": 131072 / 2}
	for _, mapped := range m.maps {
		sizes[mapped.name] = mapped.kernel.MaxEntries()
		if mapped.lru {
			sizes[mapped.name] *= 2 // so that Windows never evicts
		}
	}
	for _, profile := range []winvm.Profile{winvm.EFW021, winvm.XDP} {
		w := &windows{profile: profile, tables: map[string]*winvm.Map{}, inner: map[uint32]*winvm.Map{}}
		var err error
		w.machine, err = winvm.Load(WindowsObjects()[profile.String()+"/lb.o"], winvm.Options{
			Profile: profile, MaxEntries: sizes,
			Clock:  func() time.Duration { return m.now },
			Random: func() uint32 { return m.next },
			Events: func(_ *winvm.Map, _ int, record []byte) { w.events = append(w.events, record) },
		})
		must(t, err)
		w.lb, err = w.machine.Program("lb")
		must(t, err)
		for _, table := range w.machine.Maps() {
			w.tables[table.Name()] = table
		}
		w.stages = w.tables[LBMapStages]
		m.machines = append(m.machines, w)
	}
	return m
}

// onBoth gives a frame to the kernel and then to both machines of Windows, and returns
// the counters before and after as well.
func (b *balancer) onBoth(frame []byte) (verdict uint32, out []byte, before, after counters) {
	b.t.Helper()
	m := mirrorOf(b.t, b.objects)
	mirrors.forget(b.objects) // one that differs is of no use to the next test
	m.rate = b.config.EventRate
	var cpu int
	if m.rate > 0 {
		var release func()
		cpu, release = oneCPU(b.t)
		defer release()
	}
	m.carryOver(b.t, cpu)
	before = m.counters(b.reasons)
	kernel := m.onKernel(b, frame, cpu)
	after = m.counters(b.reasons)
	for _, w := range m.machines {
		if err := m.compare(b.t, w, kernel); err != nil {
			b.t.Fatalf("%s: %v\nframe %x, verdict %d of the kernel", w.profile, err, frame, kernel.verdict)
		}
	}
	for _, mapped := range m.maps {
		mapped.known = mapped.now
	}
	mirrors.keep(b.objects, m)
	return kernel.verdict, kernel.out, before, after
}

// onKernel runs a frame on the kernel and prepares Windows' clock and random numbers.
func (m *mirror) onKernel(b *balancer, frame []byte, cpu int) run {
	b.t.Helper()
	from, ring, lost := coarseClock(b.t), m.ring.end(), m.lost(b.t, cpu)
	verdict, out, err := b.objects.Lb.Test(frame)
	must(b.t, err)
	m.now = coarseClock(b.t)
	for _, mapped := range m.maps {
		if !mapped.agents {
			mapped.read(b.t)
		}
	}
	events := m.ring.since(ring)
	m.next = m.random(b.t, b.config, verdict, events)
	return run{frame, verdict, out, events, m.lost(b.t, cpu) > lost, from.Truncate(time.Millisecond)}
}

// run is a frame and what the kernel did with it.
type run struct {
	frame   []byte
	verdict uint32
	out     []byte
	events  [][]byte
	full    bool // so was the ring
	began   time.Duration
}

// compare runs a frame on a machine of Windows.
func (m *mirror) compare(t testing.TB, w *windows, kernel run) error {
	t.Helper()
	w.events = nil
	result, err := w.machine.Run(w.lb, kernel.frame)
	if err != nil {
		return err
	}
	if w.profile == winvm.XDP && kernel.verdict == xdpTX && len(kernel.out) > len(kernel.frame) {
		return m.sameButEncapsulation(t, w, result)
	}
	if err := sameFrame(kernel, result); err != nil {
		return fmt.Errorf("%w\ncounted %v", err, m.counted(w))
	}
	for _, mapped := range m.maps {
		if err := mapped.compare(t, w, kernel.began, m.now); err != nil {
			return fmt.Errorf("map %s: %w", mapped.name, err)
		}
	}
	if kernel.full {
		return nil
	}
	return sameEvents(kernel.events, w.events, kernel.began, m.now)
}

// sameFrame compares what became of a frame. Verdicts have other numbers on
// Windows; of a dropped frame nobody sees the bytes.
func sameFrame(kernel run, result winvm.Result) error {
	same := map[uint32]winvm.Action{xdpDrop: winvm.Drop, xdpPass: winvm.Pass, xdpTX: winvm.TX}
	if result.Action != same[kernel.verdict] {
		return fmt.Errorf("the verdict is %s", result.Action)
	}
	frame := result.Frame
	if kernel.verdict == xdpTX && len(kernel.out) < len(kernel.frame) { // only "too big" is shorter
		if len(frame) != len(kernel.frame) {
			return fmt.Errorf("the frame of %d bytes became one of %d", len(kernel.frame), len(frame))
		}
		frame = frame[:len(kernel.out)]
	}
	if kernel.verdict != xdpDrop && !bytes.Equal(frame, kernel.out) {
		return fmt.Errorf("frames differ\nkernel  %x\nWindows %x", kernel.out, frame)
	}
	return nil
}

// counted are the drops that a machine has counted in this run, by reason.
func (m *mirror) counted(w *windows) map[uint32]uint64 {
	drops := map[uint32]uint64{}
	mapped := m.mapped(LBMapDrops)
	for key, value := range mapped.windows(w).entries {
		if n := words(value)[0] - words(mapped.known.entries[key])[0]; n > 0 {
			drops[binary.NativeEndian.Uint32([]byte(key))] = n
		}
	}
	return drops
}

// sameButEncapsulation checks what profile xdp made of a frame that the kernel put
// into an outer header: the flow that it may have opened is forgotten and the drop counted.
func (m *mirror) sameButEncapsulation(t testing.TB, w *windows, result winvm.Result) error {
	t.Helper()
	want := map[uint32]uint64{uint32(LBDropReasonDROP_ADJUST_HEAD): 1}
	if got := m.counted(w); result.Action != winvm.Drop || !maps.Equal(got, want) {
		return fmt.Errorf("%s, drops %v, where there is no headroom", result.Action, got)
	}
	for _, mapped := range m.maps {
		if mapped.agents {
			continue
		}
		got := mapped.windows(w)
		switch mapped.name {
		case LBMapServiceStats, LBMapBackendStats, LBMapIcmpPackets:
			if err := mapped.difference(mapped.known, got, 0, 0); err != nil {
				return fmt.Errorf("a dropped frame was counted in %s: %w", mapped.name, err)
			}
		case LBMapNewFlows4, LBMapNewFlows6, LBMapFlows4, LBMapFlows6, LBMapNewNat4, LBMapNewNat6, LBMapNat4, LBMapNat6:
			for key := range got.entries {
				if _, was := mapped.known.entries[key]; !was {
					return fmt.Errorf("%s has a new entry of a dropped frame", mapped.name)
				}
			}
		}
		mapped.set(t, w, got, mapped.now)
	}
	return nil
}

func (m *mirror) mapped(name string) *mirroredMap {
	for _, mapped := range m.maps {
		if mapped.name == name {
			return mapped
		}
	}
	panic("no map " + name)
}

// counters are the kernel's as they were last read.
func (m *mirror) counters(reasons []string) counters {
	c := counters{map[uint32]LBTraffic{}, map[uint32]LBTraffic{}, map[string]uint64{}, map[LBIcmpDeed]uint64{}}
	index := func(key string) uint32 { return binary.NativeEndian.Uint32([]byte(key)) }
	for name, into := range map[string]map[uint32]LBTraffic{LBMapServiceStats: c.service, LBMapBackendStats: c.backend} {
		for key, value := range m.mapped(name).now.entries {
			n := words(value)
			into[index(key)] = LBTraffic{RxPackets: n[0], RxBytes: n[1], TxPackets: n[2], TxBytes: n[3], Connections: n[4]}
		}
	}
	for key, value := range m.mapped(LBMapDrops).now.entries {
		c.drops[reasons[index(key)]] = words(value)[0]
	}
	for key, value := range m.mapped(LBMapIcmpPackets).now.entries {
		c.icmp[LBIcmpDeed(index(key))] = words(value)[0]
	}
	return c
}

// words are a counter's, or one of zero.
func words(value string) (n []uint64) {
	for at := 0; at+8 <= len(value); at += 8 {
		n = append(n, binary.NativeEndian.Uint64([]byte(value[at:])))
	}
	return append(n, 0)
}

// carryOver gives Windows what the test has written to the kernel's maps.
func (m *mirror) carryOver(t testing.TB, cpu int) {
	t.Helper()
	for _, mapped := range m.maps {
		mapped.read(t)
		for _, w := range m.machines {
			mapped.set(t, w, mapped.known, mapped.now)
		}
		mapped.known = mapped.now
	}
	m.carryTables(t)
	m.carryStages(t)
	if m.rate == 0 {
		return
	}
	budget := m.budget(t, cpu)
	budget.SecondBeganNs -= budget.SecondBeganNs % uint64(time.Millisecond) // not later than Windows' now
	carried := bytesOf(t, budget)
	for _, w := range m.machines {
		key := make([]byte, 4)
		value, err := w.tables[LBMapScratch].Lookup(key)
		must(t, err)
		copy(value[unsafe.Offsetof(LBRequest{}.Budget):], carried)
		must(t, w.tables[LBMapScratch].Update(key, value, winvm.Any))
	}
}

// carryStages makes stages present or missing as they are in the kernel.
func (m *mirror) carryStages(t testing.TB) {
	for stage := range uint32(LBStageSTAGE_MAX) {
		var id uint32
		err := m.objects.Stages.Lookup(stage, &id)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
		for _, w := range m.machines {
			_, missing := w.stages.LookupProgram(stage)
			switch {
			case err != nil && missing == nil:
				must(t, w.stages.Delete(binary.NativeEndian.AppendUint32(nil, stage)))
			case err == nil && missing != nil:
				program, err := w.machine.Program(stageProgram(stage))
				must(t, err)
				must(t, w.stages.UpdateProgram(stage, program))
			}
		}
	}
}

func stageProgram(stage uint32) string {
	return []string{
		"lb_fast4", "lb_slow4", "lb_reply4", "lb_icmp4", "lb_too_big4",
		"lb_fast6", "lb_slow6", "lb_reply6", "lb_icmp6", "lb_too_big6",
	}[stage]
}

// lost is how many events of a CPU have found the ring full.
func (m *mirror) lost(t testing.TB, cpu int) uint64 {
	if m.rate == 0 {
		return 0
	}
	return m.budget(t, cpu).Lost
}

// budget is the event budget of a CPU.
func (m *mirror) budget(t testing.TB, cpu int) LBEventBudget {
	t.Helper()
	var perCPU []LBRequest
	must(t, m.objects.Scratch.Lookup(uint32(0), &perCPU))
	b := perCPU[cpu].Budget
	return LBEventBudget{SecondBeganNs: b.SecondBeganNs, Sent: b.Sent, Suppressed: b.Suppressed, Lost: b.Lost}
}

// oneCPU keeps the calling thread on one CPU, so that it is known whose scratch counts.
func oneCPU(t testing.TB) (cpu int, release func()) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for !before.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	must(t, unix.SchedSetaffinity(0, &one))
	return cpu, func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}
}

func coarseClock(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now))
	return time.Duration(now.Nano())
}
