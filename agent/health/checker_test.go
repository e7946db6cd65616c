package health

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/api"
)

func TestQuarantineAndReturn(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1, be2))
		b.pass(3)
		b.expect() // all healthy from the start: nothing to tell
		b.prober.set(be1, errSick)
		b.pass(2)
		b.expect()
		b.pass(1) // the third failure
		b.expect("1 20.1.1.10=false")
		b.pass(5)
		b.expect()
		if s := b.status(be1); s.Healthy || s.Result != Failed || s.Error != "sick" || s.Consecutive != 8 || s.Failures != 8 || s.Passes != 3 {
			t.Errorf("snapshot: %+v", s)
		}
		b.prober.set(be1, nil)
		b.pass(1)
		b.expect()
		b.pass(1) // the second success
		b.expect("1 20.1.1.10=true")
		if s := b.status(be2); !s.Healthy || s.Consecutive != 13 || s.Error != "" {
			t.Errorf("the other one: %+v", s)
		}
	})
}

func TestASuccessBetweenFailuresBeginsTheCountAnew(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		s := svc(1, be1)
		s.HealthCheck.Fall, s.HealthCheck.Rise = 2, 1
		b.set(s)
		for range 4 {
			b.prober.set(be1, errSick)
			b.pass(1)
			b.prober.set(be1, nil)
			b.pass(1)
		}
		b.expect()
		b.prober.set(be1, errSick)
		b.pass(2)
		b.expect("1 20.1.1.10=false")
		b.prober.set(be1, nil)
		b.pass(1)
		b.expect("1 20.1.1.10=true")
	})
}

func TestTheLastBackendIsReportedLikeAnyOther(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1, be2), svc(2, be1))
		b.prober.set(be1, errSick)
		b.prober.set(be2, errSick)
		b.pass(3)
		all := b.reporter.take()
		told := make(map[string]bool)
		for _, s := range all {
			told[s] = true
		}
		if len(all) != 3 || !told["1 20.1.1.10=false"] || !told["1 20.1.1.20=false"] || !told["2 20.1.1.10=false"] {
			t.Errorf("told was %q", all)
		}
	})
}

func TestACheckThatHangsEndsAtItsTimeout(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.prober.slow(time.Hour)
		b.set(svc(1, be1))
		b.pass(1)
		time.Sleep(defaultTimeout)
		synctest.Wait()
		if s := b.status(be1); s.Result != Failed || s.Duration != defaultTimeout {
			t.Errorf("snapshot: %+v", s)
		}
	})
}

func TestACheckThatCouldNotBeMadeCountsNeitherWay(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(2)
		b.prober.set(be1, fmt.Errorf("%w: no socket", ErrInconclusive))
		b.pass(10)
		b.expect()
		if s := b.status(be1); s.Result != Inconclusive || !s.Healthy || s.Unclear != 10 || s.Consecutive != 2 {
			t.Errorf("snapshot: %+v", s)
		}
		b.prober.set(be1, errSick)
		b.pass(1) // the third failure, as if nothing had been between
		b.expect("1 20.1.1.10=false")
	})
}

func TestTheWayOfACheck(t *testing.T) {
	for _, c := range []struct {
		name         string
		change       func(*api.Service)
		direct, path int
	}{
		{"direct when nothing is said", func(*api.Service) {}, 1, 0},
		{"direct", func(s *api.Service) { s.HealthCheck.Via = "direct" }, 1, 0},
		{"through the VIP", func(s *api.Service) { s.HealthCheck.Via = "vip" }, 0, 1},
		{"through the VIP, which in SNAT is the backend's own address",
			func(s *api.Service) { s.HealthCheck.Via, s.Mode = "vip", "snat" }, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, 0, func(b *bench) {
				s := svc(1, be1)
				c.change(&s)
				b.set(s)
				b.pass(1)
				if len(b.prober.targets) != c.direct || len(b.vip.targets) != c.path {
					t.Errorf("%d direct and %d through the VIP, want %d and %d",
						len(b.prober.targets), len(b.vip.targets), c.direct, c.path)
				}
			})
		})
	}
}

func TestWithoutAProberForTheVIPChecksAreInconclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Reporter: &fakeReporter{}})
		if c.probers[throughVIP] == nil || c.probers[direct] == nil {
			t.Fatal("a prober is missing")
		}
		k := successor(key{1, be1}, nil, settingsOf(svc(1, be1), api.Backend{Address: be1}))
		if err := c.probers[throughVIP].Probe(t.Context(), k.target); err == nil {
			t.Error("it passed")
		}
	})
}

func TestWhatIsAsked(t *testing.T) {
	for _, c := range []struct {
		name     string
		frontend string
		backend  string
		check    api.HealthCheck
		want     string
	}{
		{"the service's ports", "40.1.1.1:80", "20.1.1.10:8080", api.HealthCheck{Type: "tcp"}, "20.1.1.10:8080 40.1.1.1:80"},
		{"the check's port", "40.1.1.1:80", "20.1.1.10:8080", api.HealthCheck{Type: "tcp", Port: 9}, "20.1.1.10:9 40.1.1.1:9"},
		{"a service of all ports", "40.1.1.1:0", "20.1.1.10:0", api.HealthCheck{Type: "tcp", Port: 9}, "20.1.1.10:9 40.1.1.1:9"},
		{"a backend that keeps the client's port", "40.1.1.1:80", "20.1.1.10:0", api.HealthCheck{Type: "tcp"}, "20.1.1.10:80 40.1.1.1:80"},
	} {
		s := svc(1)
		s.Frontend, s.HealthCheck = netip.MustParseAddrPort(c.frontend), &c.check
		if err := Validate(s); err != nil {
			t.Fatal(err)
		}
		target := targetOf(s, netip.MustParseAddrPort(c.backend))
		if got := target.Backend.String() + " " + target.VIP.String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
