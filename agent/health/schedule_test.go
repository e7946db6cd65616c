package health

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/api"
)

func manyBackends(n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)
	}
	return all
}

// crowd returns the most checks that lie within a window of the interval, wherever it
// begins, round its end too.
func crowd(times []time.Time, epoch time.Time, interval, window time.Duration) int {
	places := make([]time.Duration, 0, 2*len(times))
	for _, at := range times {
		place := at.Sub(epoch) % interval
		places = append(places, place, place+interval)
	}
	slices.Sort(places)
	most, first := 0, 0
	for i := range places {
		for places[i]-places[first] >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func (f *fakeProber) all() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []time.Time
	for _, times := range f.times {
		all = append(all, times...)
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

func (f *fakeProber) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.times)
}

// In no twentieth of the interval, wherever it begins, are more than a tenth of the
// checks: from the first round on, after a while, after all hung, and after
// the services were set again.
func TestAThousandBackendsDoNotSynchronise(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		epoch := b.epoch
		services := func() []api.Service { return []api.Service{svc(1, manyBackends(1000)...)} }
		round := func(name string) {
			t.Helper()
			b.prober.forget()
			b.pass(1)
			times := b.prober.all()
			most := crowd(times, epoch, defaultInterval, defaultInterval/20)
			t.Logf("%s: %d checks, at most %d in a twentieth of the interval", name, len(times), most)
			if len(times) != 1000 || most > 100 {
				t.Errorf("%s: wanted are 1000 checks, and at most 100 there", name)
			}
		}
		b.set(services()...)
		round("first round")
		b.pass(20)
		round("after 20 rounds")
		b.prober.slow(time.Hour)
		b.pass(3)
		b.prober.slow(0)
		b.pass(1)
		round("after all have hung")
		b.set(services()...)
		round("after the services were set again")
		other := services()
		other[0].HealthCheck.Port = 81
		b.set(other...)
		round("after the check was changed")
	})
}

func TestServicesOfTheSameBackendAreSpreadToo(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		var services []api.Service
		for id := range uint32(1000) {
			services = append(services, svc(id+1, be1))
		}
		b.set(services...)
		b.pass(1)
		if most := crowd(b.prober.all(), b.epoch, defaultInterval, defaultInterval/20); most > 100 {
			t.Errorf("%d of 1000 in a twentieth of the interval", most)
		}
	})
}

func TestACheckKeepsItsPlaceHoweverLongItTakes(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		for i := range 20 {
			b.prober.slow(time.Duration(i) * 50 * time.Millisecond)
			b.pass(1)
		}
		times := b.prober.all()
		if len(times) != 20 {
			t.Fatalf("%d checks in 20 intervals", len(times))
		}
		for i, at := range times {
			if at.Sub(times[0]) != time.Duration(i)*defaultInterval {
				t.Errorf("check %d came after %s", i, at.Sub(times[0]))
			}
		}
	})
}

func TestServicesSetLongBeforeRunAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prober := newFakeProber()
		c := New(Options{Direct: prober, Reporter: &fakeReporter{}})
		if err := c.SetServices([]api.Service{svc(1, manyBackends(1000)...)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		begin := time.Now()
		go func() { _ = c.Run(t.Context()) }()
		time.Sleep(defaultInterval)
		synctest.Wait()
		times := prober.all()
		if most := crowd(times, begin, defaultInterval, defaultInterval/20); len(times) != 1000 || most > 100 {
			t.Errorf("%d checks, %d of them in a twentieth of the interval", len(times), most)
		}
	})
}

// 1,000 backends that hang for 1 s each keep 200 probes busy. With 50, each has
// its turn every 20 s, and none is left out.
func TestConcurrencyIsBoundedAndFair(t *testing.T) {
	inBubble(t, 50, func(b *bench) {
		b.prober.slow(time.Hour)
		b.set(svc(1, manyBackends(1000)...))
		b.pass(40)
		if b.prober.most != 50 {
			t.Errorf("%d probes ran at a time", b.prober.most)
		}
		late := uint64(0)
		for _, s := range b.Snapshot() {
			if s.Failures < 8 || s.Failures > 11 {
				t.Errorf("%s was asked %d times in 200 s", s.Backend, s.Failures)
			}
			late += s.Late
		}
		if late < 5000 {
			t.Errorf("%d checks are said to be late", late)
		}
	})
}

func TestTheGrid(t *testing.T) {
	epoch := time.Now()
	const interval, phase = 10 * time.Second, 3 * time.Second
	for now, want := range map[time.Duration]time.Duration{
		0: 3, 2: 3, 3: 13, 4: 13, 12: 13, 13: 23, 100: 103, 103: 113,
	} {
		got := after(epoch.Add(now*time.Second), epoch, interval, phase).Sub(epoch)
		if got != want*time.Second {
			t.Errorf("after %d s: got %s, want %d s", now, got, want)
		}
	}
}

// A phase that changed with the agent's version would have two balancers, or an upgrade,
// check at other times than before.
func TestThePhaseIsTheSameEachTime(t *testing.T) {
	for _, c := range []struct {
		key  key
		want time.Duration
	}{
		{key{1, be1}, 1644180183},
		{key{2, be1}, 527926600},
		{key{1, be2}, 990296504},
	} {
		if got := c.key.phase(defaultInterval); got != c.want {
			t.Errorf("%v: got %s, want %s", c.key, got, c.want)
		}
	}
}

func BenchmarkSetServices(b *testing.B) {
	c := New(Options{Reporter: &fakeReporter{}})
	c.start(time.Now())
	services := []api.Service{svc(1, manyBackends(1000)...)}
	for b.Loop() {
		if err := c.SetServices(services); err != nil {
			b.Fatal(err)
		}
	}
}
