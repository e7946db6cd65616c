package datapath

import (
	"testing"

	"github.com/cilium/ebpf"

	"l4lab/bpf"
)

func TestBackendKeepsItsTotalsUntilTheyAreCleared(t *testing.T) {
	h := newHost(t)
	d := h.mustStart(t)
	defer d.Close()
	m := d.Maps()
	cpus, err := ebpf.PossibleCPU()
	check(t, err)
	perCPU := make([]bpf.LBTraffic, cpus)
	perCPU[0] = bpf.LBTraffic{RxPackets: 3, RxBytes: 300}
	perCPU[cpus-1].TxPackets = 2
	check(t, m.maps.BackendStats.Put(uint32(5), perCPU))
	check(t, m.PutBackend(5, Backend{Address: addrPort("20.1.1.10:80"), State: Active}))
	want := Traffic{RxPackets: 3, RxBytes: 300, TxPackets: 2}
	if got, err := m.BackendTraffic(5); err != nil || got != want {
		t.Errorf("after the backend was written: %+v, %v, want %+v", got, err, want)
	}
	check(t, m.ClearBackendTraffic(5))
	if got, err := m.BackendTraffic(5); err != nil || got != (Traffic{}) {
		t.Errorf("cleared: %+v, %v", got, err)
	}
}
