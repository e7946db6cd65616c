package bpf

import (
	"bytes"
	"encoding/binary"
	"testing"

	"l4lab/bpf/winvm"
)

// windowsDecap is decap_xdp of eBPF for Windows 0.21, which gets every frame that the
// kernel's gets. The TC program has no counterpart: its hook is Linux' alone; nor has
// profile xdp one, where bpf_xdp_adjust_head always fails.
type windowsDecap struct {
	machine       *winvm.Machine
	program       *winvm.Program
	config, stats *winvm.Map
}

func newWindowsDecap(t testing.TB) *windowsDecap {
	t.Helper()
	machine, err := winvm.Load(WindowsObjects()["efw-0.21/decap_xdp.o"], winvm.Options{})
	must(t, err)
	w := &windowsDecap{machine: machine}
	w.program, err = machine.Program("decap_xdp")
	must(t, err)
	w.config, err = machine.Map("decap_config")
	must(t, err)
	w.stats, err = machine.Map("decap_stats")
	must(t, err)
	return w
}

func bytesOf(t testing.TB, v any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.NativeEndian, v)
	must(t, err)
	return b
}

// test runs a frame on the kernel, and on Windows where there is such a program, and
// compares verdict, frame and counters.
func (d *decapsulator) test(frame []byte) (verdict uint32, out []byte) {
	d.t.Helper()
	w := d.windows
	zero := make([]byte, 4)
	before := d.traffic()
	verdict, out, err := d.program.Test(frame)
	must(d.t, err)
	if w == nil {
		return verdict, out
	}
	config, err := d.config.LookupBytes(uint32(0))
	must(d.t, err)
	must(d.t, w.config.Update(zero, config, winvm.Any))
	must(d.t, w.stats.Update(zero, bytesOf(d.t, before), winvm.Any))
	result, err := w.machine.Run(w.program, frame)
	must(d.t, err)
	same := map[uint32]winvm.Action{d.passes: winvm.Pass, d.drops: winvm.Drop}
	if result.Action != same[verdict] {
		d.t.Fatalf("Windows: %s where the kernel returns %d\nframe %x", result.Action, verdict, frame)
	}
	if verdict == d.passes && !bytes.Equal(result.Frame, out) {
		d.t.Fatalf("frames differ\nkernel  %x\nWindows %x", out, result.Frame)
	}
	counted, err := w.stats.Lookup(zero)
	must(d.t, err)
	if after := bytesOf(d.t, d.traffic()); !bytes.Equal(counted, after) {
		d.t.Fatalf("counters differ\nkernel  %x\nWindows %x", after, counted)
	}
	return verdict, out
}
