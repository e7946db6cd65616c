package bpf

import (
	"errors"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
)

// The verifier takes two seconds for lb, so tests take over one another's
// programs: a test that ends leaves them here, the next one empties their maps.
var idle struct {
	sync.Mutex
	objects []*LBObjects
}

// loadLB loads the program with maps of the tests' sizes, changed as a test wants.
func loadLB(t testing.TB, change func(maps map[string]*ebpf.MapSpec)) *LBObjects {
	t.Helper()
	spec, err := LoadLB()
	must(t, err)
	for _, name := range []string{
		LBMapFlows4, LBMapFlows6, LBMapNewFlows4, LBMapNewFlows6, LBMapNat4, LBMapNat6, LBMapNewNat4, LBMapNewNat6,
	} {
		spec.Maps[name].MaxEntries = testFlows
	}
	for _, name := range []string{LBMapBackends, LBMapBackendStats} {
		spec.Maps[name].MaxEntries = testBackends
	}
	for _, name := range []string{LBMapServices, LBMapServiceStats, LBMapMaglev} {
		spec.Maps[name].MaxEntries = testServices
	}
	change(spec.Maps)
	objects := new(LBObjects)
	err = spec.LoadAndAssign(objects, nil)
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		t.Fatalf("%+v", rejected)
	}
	must(t, err)
	return objects
}

// takeLB returns loaded programs with empty maps until the test ends.
func takeLB(t testing.TB) (objects *LBObjects) {
	t.Helper()
	idle.Lock()
	if last := len(idle.objects) - 1; last >= 0 {
		objects, idle.objects = idle.objects[last], idle.objects[:last]
	}
	idle.Unlock()
	if objects == nil {
		objects = loadLB(t, func(map[string]*ebpf.MapSpec) {})
	} else {
		emptyMaps(t, objects)
	}
	t.Cleanup(func() {
		idle.Lock()
		defer idle.Unlock()
		idle.objects = append(idle.objects, objects)
	})
	return objects
}

func emptyMaps(t testing.TB, o *LBObjects) {
	t.Helper()
	for _, m := range []*ebpf.Map{
		o.Services, o.Maglev, o.Flows4, o.Flows6, o.NewFlows4, o.NewFlows6, o.Nat4, o.Nat6, o.NewNat4, o.NewNat6,
		o.Affinities, o.Sources, o.Fragments,
	} {
		clearHash(t, m)
	}
	zero[LBLbConfig](t, o.Config, 1)
	zero[uint64](t, o.VipFilter, 1)
	zero[LBBackend](t, o.Backends, 1)
	cpus := ebpf.MustPossibleCPU()
	zero[LBTraffic](t, o.ServiceStats, cpus)
	zero[LBTraffic](t, o.BackendStats, cpus)
	zero[uint64](t, o.Drops, cpus)
	zero[uint64](t, o.IcmpPackets, cpus)
	zero[LBRequest](t, o.Scratch, cpus)
	for stage, program := range map[LBStage]*ebpf.Program{
		LBStageSTAGE_FAST4: o.LbFast4, LBStageSTAGE_SLOW4: o.LbSlow4, LBStageSTAGE_REPLY4: o.LbReply4,
		LBStageSTAGE_ICMP4: o.LbIcmp4, LBStageSTAGE_TOO_BIG4: o.LbTooBig4,
		LBStageSTAGE_FAST6: o.LbFast6, LBStageSTAGE_SLOW6: o.LbSlow6, LBStageSTAGE_REPLY6: o.LbReply6,
		LBStageSTAGE_ICMP6: o.LbIcmp6, LBStageSTAGE_TOO_BIG6: o.LbTooBig6,
	} {
		must(t, o.Stages.Put(uint32(stage), program))
	}
}

// zero writes zeros over an array whose entries have a value for each of so many CPUs.
func zero[V any](t testing.TB, m *ebpf.Map, cpus int) {
	t.Helper()
	keys := make([]uint32, m.MaxEntries())
	for i := range keys {
		keys[i] = uint32(i)
	}
	_, err := m.BatchUpdate(keys, make([]V, len(keys)*cpus), nil)
	must(t, err)
}

// clearHash deletes all keys of a map that has some.
func clearHash(t testing.TB, m *ebpf.Map) {
	t.Helper()
	var keys [][]byte
	for k, err := m.NextKeyBytes(nil); k != nil || err != nil; k, err = m.NextKeyBytes(k) {
		must(t, err)
		keys = append(keys, k)
	}
	for _, k := range keys {
		must(t, m.Delete(k))
	}
}
