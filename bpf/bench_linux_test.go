package bpf

import (
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Helpers of Linux by number.
const (
	helperTailCall   = asm.FnTailCall
	helperAdjustHead = asm.FnXdpAdjustHead
)

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

// writeFrame emits stores of bytes to the frame's beginning; their number is even.
func writeFrame(head []byte) (code asm.Instructions) {
	for at := 0; at < len(head); at += 2 {
		value := int64(head[at]) | int64(head[at+1])<<8
		code = append(code, asm.StoreImm(asm.R2, int16(at), value, asm.Half))
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

// restoring returns a program that makes the frame again what it was before the
// target's last run, since the kernel does not, and then tail-calls the target.
func restoring(t testing.TB, frame []byte, target *ebpf.Program) *ebpf.Program {
	t.Helper()
	targets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { _ = targets.Close() })
	must(t, targets.Put(uint32(0), target))
	return xdpProgram(t, "restoring", saveContext,
		frameHead(int32(len(frame))+1, "restore"),
		asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 20), helperAdjustHead.Call()},
		asm.Instructions{asm.LoadMem(asm.R2, asm.R6, 0, asm.Word).WithSymbol("restore")},
		frameHead(14, "out")[1:],
		writeFrame(frame[:14]),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, targets.FD()), asm.Mov.Imm(asm.R3, 0), helperTailCall.Call(),
		},
		exit("out", 0))
}

// macSwap is the least that a program can do that sends a frame back.
func macSwap(t testing.TB) *ebpf.Program {
	var swap asm.Instructions
	for _, at := range []int16{0, 2, 4} {
		swap = append(swap,
			asm.LoadMem(asm.R4, asm.R2, at, asm.Half), asm.LoadMem(asm.R5, asm.R2, at+6, asm.Half),
			asm.StoreMem(asm.R2, at, asm.R5, asm.Half), asm.StoreMem(asm.R2, at+6, asm.R4, asm.Half))
	}
	return xdpProgram(t, "mac_swap", saveContext, frameHead(14, "out"), swap, exit("tx", xdpTX), exit("out", 0))
}

// bareEncap puts 34 constant bytes in front: what DSR does, without deciding anything.
func bareEncap(t testing.TB) *ebpf.Program {
	return xdpProgram(t, "bare_encap", saveContext,
		asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, -20), helperAdjustHead.Call()},
		frameHead(34, "out"),
		writeFrame(tunnelled(t, inner(t, ""), nil)[:34]),
		exit("tx", xdpTX), exit("out", 0))
}

// BenchmarkEstablishedDSRFlow measures one packet of an established flow through
// lb beside programs that decide nothing. Each is tail-called by a program that
// restores the frame; what that costs is in "floor-ns" and in each of the others.
// Read the ratios: the machine's speed cancels out of them.
func BenchmarkEstablishedDSRFlow(b *testing.B) {
	lb := dsrBalancer(b)
	p := request(40000, "A")
	p.payload = []byte("GET / HTTP/1.1\r\n\r\n")
	lb.forward(request(40000, "S"))
	lb.forward(p) // established from here on
	frame := p.frame(b)

	pass, err := ebpf.NewProgram(PassProgram())
	must(b, err)
	defer pass.Close()
	programs := []struct {
		name    string
		program *ebpf.Program
		verdict uint32
	}{
		{"floor", restoring(b, frame, pass), xdpPass},
		{"mac-swap", restoring(b, frame, macSwap(b)), xdpTX},
		{"bare-encap", restoring(b, frame, bareEncap(b)), xdpTX},
		{"lb-dsr", restoring(b, frame, lb.objects.Lb), xdpTX},
	}
	const rounds = 5
	perRound := max(b.N/rounds, 1)
	times := map[string][]time.Duration{}
	for range rounds {
		for _, c := range programs {
			verdict, each, err := c.program.Benchmark(frame, perRound, b.ResetTimer)
			must(b, err)
			if verdict != c.verdict {
				b.Fatalf("%s returned %d", c.name, verdict)
			}
			times[c.name] = append(times[c.name], each)
		}
	}
	median := func(name string) float64 {
		slices.Sort(times[name])
		return float64(times[name][rounds/2].Nanoseconds())
	}
	floor := median("floor")
	b.ReportMetric(0, "ns/op") // would be the sum of all programs' times: leave it out
	for _, c := range programs {
		b.ReportMetric(median(c.name), c.name+"-ns")
	}
	b.ReportMetric((median("lb-dsr")-floor)/max(median("bare-encap")-floor, 1), "lb/encap-above-floor")
	b.ReportMetric(median("lb-dsr")/median("mac-swap"), "lb/mac-swap")
	b.ReportMetric(median("lb-dsr")/median("bare-encap"), "lb/encap")
	if got, want := lb.entry(p).RxPackets, uint64(rounds*perRound); got < want {
		b.Errorf("the flow's entry saw %d packets of %d: not the established path was measured", got, want)
	}
}
