package service

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l4lab/agent/api"
	"l4lab/agent/datapath"
	"l4lab/agent/testnet"
)

// noHops are next hops of which nobody asks.
type noHops struct{ fakeStore }

// onTheKernel is a manager of real maps, of which no program is attached.
func onTheKernel(t testing.TB, sizes datapath.Sizes) (*Manager, *datapath.Maps) {
	t.Helper()
	pair := testnet.NewPair(t, "20.1.1.1/24", "20.1.1.10/24")
	var d datapath.Datapath
	index := pair.Balancer.Link(t).Attrs().Index
	dir := filepath.Join(testnet.BPFFS(t), "lb")
	var err error
	pair.Balancer.Do(t, func() {
		d, err = datapath.Load(datapath.Options{Interface: "eth0", Index: index, PinDir: dir, Sizes: sizes})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Unload(); err != nil {
			t.Error(err)
		}
	})
	saved, err := ReadState(stateFile(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(t.Context(), Options{
		Store: d.Maps(), NextHops: &noHops{*newFakeStore(t)}, Saved: saved,
		Own4: netip.MustParseAddr("20.1.1.1"), Own6: netip.MustParseAddr("fd00::1"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, d.Maps()
}

// What is written is what the next agent reads.
func TestServicesComeBackFromTheKernelAsTheyWere(t *testing.T) {
	m, maps := onTheKernel(t, datapath.Sizes{})
	one := svc(1, "40.1.1.1:80", "20.1.1.10:80", "20.1.1.20:80")
	one.Affinity, one.MSS, one.OuterSource = api.Duration(time.Minute), 1400, "172.16.0.0/16"
	one.Sources = prefixes("20.1.1.0/24", "30.0.0.0/8")
	six := svc(2, "[fd00:40::1]:0", "[fd00::10]:0", "[fd00::20]:0")
	six.Protocol, six.Selection, six.Encap = "udp", "random", "l2"
	six.Backends[1].State = "maintenance"
	snat := svc(3, "40.1.1.1:443", "20.1.1.10:8443")
	snat.Mode = "snat"
	want := mustApply(t, m, one, six, snat)
	again, err := Open(t.Context(), Options{
		Store: maps, NextHops: m.hops, Own4: m.own4, Own6: m.own6, Log: m.log,
		Saved: Saved{state: state{catalog: newCatalog(), mode: "dsr"}}, // without a state file: the maps say all
	})
	if err != nil {
		t.Fatal(err)
	}
	got := again.Services()
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if !equal(got[i], want[i]) {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
		if p := again.actual[want[i].ID]; p.unsure.table || p.entry != m.actual[want[i].ID].entry {
			t.Errorf("service %d was written anew: %+v", want[i].ID, p)
		}
	}
}

// processorTime is the process's: other processes' turns are not in it.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// The figures that the issue asks for, with the kernel's part: 3 s for 10,000
// services of 10 backends, 5 ms for a change of one.
func BenchmarkOnTheKernel(b *testing.B) {
	sizes := datapath.Sizes{Services: 10000, Backends: 1 << 17}
	for _, size := range []uint32{1021, 16381} {
		b.Run(fmt.Sprintf("program-10000-services-of-10-backends-and-%d-slots", size), func(b *testing.B) {
			services := manyServices(10000, size)
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				m, _ := onTheKernel(b, sizes)
				before := processorTime(b)
				b.StartTimer()
				if _, err := m.Apply(b.Context(), services); err != nil {
					b.Fatal(err)
				}
				cpu += processorTime(b) - before
			}
			b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
	services := manyServices(10000, 1021)
	services[5000].TableSize = 16381
	m, _ := onTheKernel(b, sizes)
	if _, err := m.Apply(b.Context(), services); err != nil {
		b.Fatal(err)
	}
	b.Run("change-one-backend-of-one-service", func(b *testing.B) {
		s := services[5000]
		for i := 0; b.Loop(); i++ {
			s.Backends[3] = weighted(uint16(i%1000), s.Backends[3].Address.String())
			if _, err := m.Put(b.Context(), s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("delete-and-make-one-service", func(b *testing.B) {
		for b.Loop() {
			if err := m.Delete(b.Context(), services[0].ID); err != nil {
				b.Fatal(err)
			}
			if _, err := m.Put(b.Context(), services[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
