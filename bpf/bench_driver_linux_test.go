package bpf

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// flowOrder is which flow a driver gives each packet.
type flowOrder int

const (
	oneFlow    flowOrder = iota
	flowsIn64k           // 65,536 flows, one after the other
	newFlows             // a new one each time
)

// manyFlows is the number of flowsIn64k's flows.
const manyFlows = 1 << 16

// driver is a program that makes the frame what it was before the target's last
// run, since BPF_PROG_TEST_RUN does not, and tail-calls the target.
type driver struct {
	program *ebpf.Program
	frame   []byte
	verdict uint32
}

// newDriver returns a driver that writes the frame's first `restore` bytes, and gives
// IPv4 packets of several flows their source. A header in front, of `encap` bytes, is
// taken off by bpf_xdp_adjust_head, whose time is the target's and E's, not the floor's.
func newDriver(t testing.TB, target *ebpf.Program, verdict uint32, frame []byte, order flowOrder, restore, encap int) *driver {
	t.Helper()
	// An array of programs empties itself when its last descriptor is closed.
	targets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { _ = targets.Close() })
	must(t, targets.Put(uint32(0), target))
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { _ = counter.Close() })
	p := xdpProgram(t, "driver", saveContext,
		frameHead(int32(len(frame))+1, "restore"),
		asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, int32(encap)), asm.FnXdpAdjustHead.Call()},
		labelled("restore", frameHead(int32(max(restore, 54)), "out")),
		writeFrame(frame[:restore]),
		varySource(order, counter, frame),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, targets.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		},
		exit("out", 0))
	return &driver{p, frame, verdict}
}

// varySource emits the stores of the source address and ports of a counter's flow.
func varySource(order flowOrder, counter *ebpf.Map, frame []byte) asm.Instructions {
	if order == oneFlow {
		return nil
	}
	code := asm.Instructions{
		asm.LoadMapValue(asm.R7, counter.FD(), 0),
		asm.LoadMem(asm.R8, asm.R7, 0, asm.DWord),
		asm.Add.Imm(asm.R8, 1),
		asm.StoreMem(asm.R7, 0, asm.R8, asm.DWord),
		asm.Mov.Reg(asm.R4, asm.R8),
	}
	if order == flowsIn64k { // source 20.1.1.(n >> 8 & 255), port 40000 + (n & 255)
		code = append(code,
			asm.LSh.Imm(asm.R4, 16), asm.And.Imm32(asm.R4, -1<<24), asm.Or.Imm32(asm.R4, word(20, 1, 1, 0)),
			asm.And.Imm(asm.R8, 0xff), asm.Add.Imm(asm.R8, 40000))
	} else { // source 11.x.x.x, port 1024 + (n >> 24)
		code = append(code,
			asm.LSh.Imm(asm.R4, 8), asm.Or.Imm32(asm.R4, word(11, 0, 0, 0)),
			asm.RSh.Imm(asm.R8, 24), asm.And.Imm(asm.R8, 0x3fff), asm.Add.Imm(asm.R8, 1024))
	}
	destPort := int32(binary.LittleEndian.Uint16(frame[36:]))
	return append(code,
		asm.StoreMem(asm.R2, 26, asm.R4, asm.Word),
		asm.HostTo(asm.BE, asm.R8, asm.Half),
		asm.Or.Imm(asm.R8, destPort<<16),
		asm.StoreMem(asm.R2, 34, asm.R8, asm.Word))
}

func word(b ...byte) int32 { return int32(binary.LittleEndian.Uint32(b)) }

// run has the target see so many packets and returns its time for one, in nanoseconds:
// the thread's processor time of the whole system call. What the kernel measures is
// a whole number, and has other processes' turns in it.
func (d *driver) run(t testing.TB, packets int) float64 {
	t.Helper()
	options := ebpf.RunOptions{Data: d.frame, DataOut: make([]byte, len(d.frame)+256), Repeat: uint32(packets)}
	begin := threadTime(t)
	//lint:ignore SA1019 an interrupted run begins anew, and nothing else says so
	options.Reset = func() { begin = threadTime(t) }
	verdict, err := d.program.Run(&options)
	took := threadTime(t) - begin
	must(t, err)
	if verdict != d.verdict {
		t.Fatalf("the last packet's verdict is %d, want %d", verdict, d.verdict)
	}
	return float64(took.Nanoseconds()) / float64(packets)
}

func threadTime(t testing.TB) time.Duration {
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now))
	return time.Duration(now.Nano())
}

// stayOnOneCPU keeps the calling goroutine there: tables and counters have a share for
// each CPU, and caches too.
func stayOnOneCPU(t testing.TB) (undo func()) {
	t.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &all))
	for cpu := len(all)*64 - 1; cpu >= 0 && one.Count() == 0; cpu-- {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	return func() {
		must(t, unix.SchedSetaffinity(0, &all))
		runtime.UnlockOSThread()
	}
}

// frameHead emits the load of data into R2 and data_end into R3 from the context
// in R6, and leaves for a label when the frame has fewer than n bytes.
func frameHead(n int32, otherwise string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, 0, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, n),
		asm.JGT.Reg(asm.R4, asm.R3, otherwise),
	}
}

func labelled(name string, code asm.Instructions) asm.Instructions {
	code[0] = code[0].WithSymbol(name)
	return code
}

// writeFrame emits the stores of a frame's beginning, each as large as the field that is
// read there: a processor forwards a store to a load that lies within it, and stalls
// one that wants two. MACs are 4 and 2 bytes, what is behind the EtherType words.
func writeFrame(head []byte) (code asm.Instructions) {
	for at := 0; at < len(head); {
		if at == 4 || at == 10 || at == 12 || len(head)-at < 4 {
			code = append(code, asm.StoreImm(asm.R2, int16(at), int64(binary.LittleEndian.Uint16(head[at:])), asm.Half))
			at += 2
			continue
		}
		code = append(code, asm.StoreImm(asm.R2, int16(at), int64(word(head[at:at+4]...)), asm.Word))
		at += 4
	}
	return code
}

func xdpProgram(t testing.TB, name string, parts ...asm.Instructions) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL", Instructions: slices.Concat(parts...),
	})
	if err != nil {
		t.Fatalf("%s: %+v", name, err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func exit(label string, verdict int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, verdict).WithSymbol(label), asm.Return()}
}

var saveContext = asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}

// bareEncap puts 34 constant bytes in front: what DSR does, without deciding anything.
func bareEncap(t testing.TB) *ebpf.Program {
	return xdpProgram(t, "bare_encap", saveContext,
		asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, -20), asm.FnXdpAdjustHead.Call()},
		frameHead(34, "out"),
		writeFrame(tunnelled(t, inner(t, ""), nil)[:34]),
		exit("tx", xdpTX), exit("out", 0))
}
