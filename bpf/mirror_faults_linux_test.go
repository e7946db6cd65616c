package bpf

import (
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"

	"l4lab/bpf/winvm"
)

// A comparison that could not fail would be worse than none: each kind of difference is
// made once on Windows' side, and must be seen.
func TestADifferenceBetweenTheSystemsIsSeen(t *testing.T) {
	id := binary.NativeEndian.AppendUint32(nil, 3)
	change := func(t *testing.T, table *winvm.Map, key []byte, at int) {
		value, err := table.Lookup(key)
		must(t, err)
		value[at] ^= 1
		must(t, table.Update(key, value, winvm.Any))
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w *windows)
		want  string
	}{
		"in a frame": {func(t *testing.T, w *windows) {
			change(t, w.tables[LBMapBackends], id, 0)
		}, "frames differ"},
		"in the verdict": {func(t *testing.T, w *windows) {
			must(t, w.stages.Delete(make([]byte, 4)))
		}, "the verdict is pass"},
		"in a counter": {func(t *testing.T, w *windows) {
			change(t, w.tables[LBMapBackendStats], id, 0)
		}, "map backend_stats"},
		"in a drop's counter": {func(t *testing.T, w *windows) {
			change(t, w.tables[LBMapDrops], id, 0)
		}, "map drops"},
		"in a flow": {func(t *testing.T, w *windows) {
			for key := range w.tables[LBMapFlows4].All() {
				change(t, w.tables[LBMapFlows4], key, 8)
			}
		}, "map flows4"},
		"in a flow's time": {func(t *testing.T, w *windows) {
			for key := range w.tables[LBMapNewFlows4].All() {
				change(t, w.tables[LBMapNewFlows4], key, 4)
			}
		}, "map new_flows4"},
		"of a flow that is missing": {func(t *testing.T, w *windows) {
			for key := range w.tables[LBMapNewFlows4].All() {
				must(t, w.tables[LBMapNewFlows4].Delete(key))
			}
		}, "map new_flows4"},
		"of a flow that should not be": {func(t *testing.T, w *windows) {
			m := w.tables[LBMapFlows6]
			must(t, m.Update(make([]byte, m.KeySize), make([]byte, m.ValueSize), winvm.Any))
		}, "map flows6"},
		"in an event": {func(t *testing.T, w *windows) {
			value, err := w.tables[LBMapScratch].Lookup(make([]byte, 4))
			must(t, err)
			var all LBRequest // of which nothing is left to spend
			sent := unsafe.Offsetof(all.Budget) + unsafe.Offsetof(all.Budget.Sent)
			binary.NativeEndian.PutUint64(value[sent:], 1000)
			must(t, w.tables[LBMapScratch].Update(make([]byte, 4), value, winvm.Any))
		}, "events"},
	} {
		t.Run(name, func(t *testing.T) {
			b := snatBalancer(t)
			b.configure(func(c *LBLbConfig) { c.EventRate = 1000 })
			b.forward(request(40000, "S"))
			b.forward(request(40000, "A"))
			b.forward(request(40001, "S"))
			m := mirrorOf(t, b.objects)
			defer mirrors.forget(b.objects)
			cpu, release := oneCPU(t)
			defer release()
			m.carryOver(t, cpu)
			c.spoil(t, m.machines[0])
			kernel := m.onKernel(b, request(40002, "S").frame(t), cpu)
			err := m.compare(t, m.machines[0], kernel)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the comparison says %v, want one of %q", err, c.want)
			}
			if err := m.compare(t, m.machines[1], kernel); err != nil {
				t.Errorf("the machine that was left alone: %v", err)
			}
		})
	}
}
