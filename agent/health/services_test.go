package health

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"l4lab/agent/api"
)

func withHealth(s api.Service, health string) api.Service {
	for i := range s.Backends {
		s.Backends[i].Health = health
	}
	return s
}

func withState(s api.Service, state string) api.Service {
	for i := range s.Backends {
		s.Backends[i].State = state
	}
	return s
}

func TestBackendsThatStayKeepTheirState(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(2)
		b.set(svc(1, be1, be2)) // another one joins
		b.pass(1)
		b.expect("1 20.1.1.10=false")
		b.set(withHealth(svc(1, be1), quarantined)) // and leaves
		b.pass(1)
		b.expect()
		if all := b.Snapshot(); len(all) != 1 || all[0].Healthy || all[0].Failures != 4 {
			t.Errorf("snapshot: %+v", all)
		}
	})
}

func TestABackendThatLeftBeginsAnew(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(3)
		b.expect("1 20.1.1.10=false")
		b.set()
		asked := b.prober.count(be1)
		b.pass(3)
		if b.prober.count(be1) != asked || len(b.Snapshot()) != 0 {
			t.Error("it is checked still")
		}
		b.set(svc(1, be1))
		b.expect()
		if s := b.status(be1); !s.Healthy || s.Failures != 0 {
			t.Errorf("snapshot: %+v", s)
		}
	})
}

func TestAnotherQuestionBeginsTheCountAnewButKeepsTheHealth(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(2)
		other := svc(1, be1)
		other.HealthCheck.Port = 81
		b.prober.set(targetOf(other, be1).Backend, errSick)
		b.set(other)
		b.pass(2)
		b.expect()
		b.pass(1)
		b.expect("1 20.1.1.10=false")
		b.set(withHealth(svc(1, be1), quarantined))
		b.prober.set(be1, nil)
		b.pass(1)
		b.expect()
		b.pass(1)
		b.expect("1 20.1.1.10=true")
	})
}

func TestTheNewIntervalHoldsAtOnce(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		s := svc(1, be1)
		s.HealthCheck.Interval = api.Duration(time.Hour)
		b.set(s)
		s = svc(1, be1)
		s.HealthCheck.Interval, s.HealthCheck.Timeout = api.Duration(time.Second), api.Duration(time.Second)
		b.set(s)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := b.prober.count(be1); n != 10 {
			t.Errorf("%d checks in 10 s", n)
		}
	})
}

func TestAResultForAnOldQuestionDoesNotCount(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.prober.slow(500 * time.Millisecond)
		b.set(svc(1, be1))
		for b.prober.count(be1) == 0 {
			time.Sleep(time.Millisecond)
		}
		other := svc(1, be1)
		other.HealthCheck.Port = 81
		b.set(other)
		synctest.Wait()
		b.prober.mu.Lock()
		running := b.prober.running
		b.prober.mu.Unlock()
		if running != 0 {
			t.Error("the old check runs on")
		}
		if s := b.status(be1); s.Result != "" {
			t.Errorf("snapshot: %+v", s)
		}
	})
}

// With a fall of 1, a check that was cut off would be enough for quarantine.
func TestACheckThatIsCutOffDoesNotCount(t *testing.T) {
	for name, cut := range map[string]func(*bench, api.Service){
		"by another question": func(b *bench, s api.Service) {
			other := svc(1, be1)
			other.HealthCheck.Port = 81
			b.set(other)
		},
		"by its service's end": func(b *bench, _ api.Service) { b.set() },
		"by the agent's end":   func(b *bench, _ api.Service) { b.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(b *bench) {
				b.prober.slow(500 * time.Millisecond)
				s := svc(1, be1)
				s.HealthCheck.Fall = 1
				b.set(s)
				for b.prober.count(be1) == 0 {
					time.Sleep(time.Millisecond)
				}
				cut(b, s)
				b.expect()
				for _, s := range b.Snapshot() {
					if s.Result != "" || !s.Healthy {
						t.Errorf("snapshot: %+v", s)
					}
				}
			})
		})
	}
}

func TestFailuresFromBeforeMaintenanceDoNotCount(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(2)
		b.set(withState(svc(1, be1), stateMaintenance))
		b.pass(1)
		b.set(svc(1, be1))
		b.pass(2)
		b.expect()
		b.pass(1)
		b.expect("1 20.1.1.10=false")
	})
}

func TestMaintenanceIsNotAskedAndDrainingIs(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(withState(svc(1, be1), "draining"))
		b.pass(2)
		if n := b.prober.count(be1); n != 2 {
			t.Errorf("draining: asked %d times in 2 intervals", n)
		}
		b.prober.set(be1, errSick)
		b.pass(3)
		b.expect("1 20.1.1.10=false")
		b.set(withHealth(withState(svc(1, be1), "maintenance"), quarantined))
		b.prober.set(be1, nil)
		b.pass(5)
		if n := b.prober.count(be1); n != 5 {
			t.Errorf("maintenance: asked %d times", n-5)
		}
		b.expect()
		if s := b.status(be1); !s.Paused || s.Healthy {
			t.Errorf("snapshot: %+v", s)
		}
		b.set(withHealth(svc(1, be1), quarantined)) // back, still sick until it has proved itself
		b.pass(1)
		b.expect()
		b.pass(1)
		b.expect("1 20.1.1.10=true")
	})
}

func TestAQuarantineFromBeforeARestartIsKept(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(withHealth(svc(1, be1), quarantined))
		b.expect()
		b.pass(1)
		b.expect()
		b.pass(1)
		b.expect("1 20.1.1.10=true")
	})
}

func TestWhatTheCallerBelievesIsCorrected(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.set(svc(1, be1, be2))
		b.prober.set(be1, errSick)
		b.pass(3)
		b.expect("1 20.1.1.10=false")
		s := svc(1, be1, be2)
		s.Backends[1].Health = quarantined // the caller has it the wrong way round
		b.set(s)
		b.expect("1 20.1.1.10=false 20.1.1.20=true")
	})
}

func TestAServiceThatLosesItsCheckIsReleased(t *testing.T) {
	for _, health := range []string{"", quarantined} { // what the caller believes is no matter
		inBubble(t, 0, func(b *bench) {
			b.set(svc(1, be1))
			b.prober.set(be1, errSick)
			b.pass(3)
			b.expect("1 20.1.1.10=false")
			s := withHealth(svc(1, be1), health)
			s.HealthCheck = nil
			b.reporter.fails = 1
			b.set(s)
			synctest.Wait()
			b.expect()
			time.Sleep(firstRetry)
			b.expect("1 20.1.1.10=true")
			if all := b.Snapshot(); len(all) != 0 {
				t.Errorf("snapshot: %+v", all)
			}
		})
	}
}

func TestARefusedCheckLeavesTheOthersAlone(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		bad := svc(2, be2)
		bad.HealthCheck.Type = "icmp"
		err := b.SetServices([]api.Service{svc(1, be1), bad})
		var fault *api.Error
		if !errors.As(err, &fault) || fault.Field != "healthCheck.type" {
			t.Errorf("got %v", err)
		}
		b.pass(1)
		if b.prober.count(be1) != 1 || b.prober.count(be2) != 0 {
			t.Error("wanted is that one is checked and the other is not")
		}
	})
}

func TestAFailedReportIsMadeAgain(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.reporter.fails = 3
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(3)
		b.expect()
		time.Sleep(7 * time.Second) // 1 + 2 + 4
		b.expect("1 20.1.1.10=false")
	})
}

func TestAServiceWhoseReportsFailDelaysNoOther(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.reporter.full = 1
		b.set(svc(1, be1), svc(2, be2))
		b.prober.set(be1, errSick)
		b.pass(50) // the pauses between its tries are 30 s by now
		b.expect()
		b.prober.set(be2, errSick)
		b.pass(3)
		b.expect("2 20.1.1.20=false")
	})
}

func TestAReportOfAServiceThatHasGoneIsDropped(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		b.reporter.fails = 1 << 30
		b.set(svc(1, be1))
		b.prober.set(be1, errSick)
		b.pass(3)
		b.set()
		b.reporter.mu.Lock()
		b.reporter.fails = 0
		b.reporter.mu.Unlock()
		b.pass(20)
		b.expect()

		// It goes while the report of another one is under way.
		b.reporter.mu.Lock()
		b.reporter.takes = 4 * defaultInterval
		b.reporter.mu.Unlock()
		b.set(svc(1, be1), withHealth(svc(2, be2), quarantined))
		b.set(svc(1, be1), svc(2, be2)) // has the health of be2 reported
		b.pass(3)
		b.set(svc(2, be2))
		b.pass(20)
		b.expect("2 20.1.1.20=false", "2 20.1.1.20=true") // and nothing of service 1

		// It goes while its own report is under way, which then fails.
		b.reporter.mu.Lock()
		b.reporter.fails, b.reporter.takes = 1, 2*defaultInterval
		b.reporter.mu.Unlock()
		b.set(svc(1, be1))
		b.pass(3)
		b.set()
		b.pass(20)
		b.expect()
	})
}

// The belief is from before the first report took hold, and equal to what is true by
// now; the second report is needed all the same.
func TestAnOldBeliefDoesNotSwallowAReport(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		s := svc(1, be1)
		s.HealthCheck.Fall, s.HealthCheck.Rise = 1, 1
		b.set(s)
		b.prober.set(be1, errSick)
		b.reporter.mu.Lock()
		b.reporter.takes = 3 * defaultInterval
		b.reporter.mu.Unlock()
		b.pass(1)
		b.prober.set(be1, nil)
		b.pass(1) // healthy again while "quarantined" is being reported
		b.set(s)  // says healthy
		b.pass(10)
		b.expect("1 20.1.1.10=false", "1 20.1.1.10=true")
	})
}

// A report that fails and is out of date by then is not made again: it would have the last word.
func TestAFailedReportThatIsOutOfDateIsNotMadeAgain(t *testing.T) {
	for name, takes := range map[string]time.Duration{
		"it changed while the report was under way":        3 * defaultInterval,
		"it changed while the report waited for its retry": 0,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(b *bench) {
				s := svc(1, be1)
				s.HealthCheck.Fall, s.HealthCheck.Rise = 1, 1
				s.HealthCheck.Interval, s.HealthCheck.Timeout = api.Duration(firstRetry/2), api.Duration(firstRetry/2)
				b.reporter.mu.Lock()
				b.reporter.takes, b.reporter.fails = takes, 1
				b.reporter.mu.Unlock()
				b.set(s)
				b.prober.set(be1, errSick)
				for b.status(be1).Healthy {
					time.Sleep(time.Millisecond)
				}
				b.prober.set(be1, nil)
				b.pass(20)
				b.expect("1 20.1.1.10=true")
			})
		})
	}
}

func TestChangesDuringAReportComeTogether(t *testing.T) {
	inBubble(t, 0, func(b *bench) {
		backends := manyBackends(100)
		b.reporter.mu.Lock()
		b.reporter.takes = time.Second
		b.reporter.mu.Unlock()
		b.set(svc(1, backends...))
		for _, be := range backends {
			b.prober.set(be, errSick)
		}
		b.pass(4)
		if calls := len(b.reporter.take()); calls > 8 {
			t.Errorf("100 changes within 5 s took %d calls of 1 s", calls)
		}
	})
}
