package events

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"l4lab/agent/datapath"
)

// fake is a data path whose events the test sends.
type fake struct {
	mu      sync.Mutex
	rates   []uint32
	opened  int
	closed  int
	loss    datapath.EventLoss
	readers []*fakeReader
	openErr error
	// broken has each reader's first Read fail.
	broken bool
}

type fakeReader struct {
	of   *fake
	c    chan datapath.Event
	done chan struct{}
}

func (f *fake) Open() (Reader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openErr != nil {
		return nil, f.openErr
	}
	f.opened++
	r := &fakeReader{of: f, c: make(chan datapath.Event), done: make(chan struct{})}
	f.readers = append(f.readers, r)
	if f.broken {
		close(r.c)
	}
	return r, nil
}

func (f *fake) SetEventRate(n uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rates = append(f.rates, n)
	return nil
}

func (f *fake) EventLoss() (datapath.EventLoss, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loss, nil
}

func (r *fakeReader) Read(time.Time) (datapath.Event, error) {
	select {
	case e, ok := <-r.c:
		if !ok {
			return e, errors.New("the ring is broken")
		}
		return e, nil
	case <-r.done:
		return datapath.Event{}, os.ErrClosed
	}
}

func (r *fakeReader) Close() error {
	close(r.done)
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.of.closed++
	return nil
}

func (f *fake) wantRates(t *testing.T, want ...uint32) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rates) != len(want) {
		t.Fatalf("rates %v, want %v", f.rates, want)
	}
	for i := range want {
		if f.rates[i] != want[i] {
			t.Fatalf("rates %v, want %v", f.rates, want)
		}
	}
}

func all(datapath.Event) bool { return true }

func newHub(f *fake) *Hub {
	return New(f, func() time.Duration { return 100 }, slog.New(slog.DiscardHandler))
}

func subscribe(t *testing.T, h *Hub, rate uint32, wanted func(datapath.Event) bool) *Subscription {
	t.Helper()
	s, err := h.Subscribe(rate, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t *testing.T, s interface{ Close() error }) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestEventsAreSentOnlyWhileSomebodyListensAtTheHighestRateAskedFor(t *testing.T) {
	f := &fake{}
	h := newHub(f)
	f.wantRates(t)
	first := subscribe(t, h, 1000, all)
	second := subscribe(t, h, 5000, all)
	third := subscribe(t, h, 2000, all)
	f.wantRates(t, 1000, 5000)
	closed(t, second)
	f.wantRates(t, 1000, 5000, 2000)
	closed(t, first)
	closed(t, third)
	closed(t, third)
	f.wantRates(t, 1000, 5000, 2000, 0)
	if f.opened != 1 || f.closed != 1 {
		t.Errorf("the ring was opened %d times and closed %d times", f.opened, f.closed)
	}
	closed(t, subscribe(t, h, 1, all))
	f.wantRates(t, 1000, 5000, 2000, 0, 1, 0)
}

func TestEachSubscriberGetsWhatItWantsAndNothingOfBefore(t *testing.T) {
	f := &fake{}
	h := newHub(f)
	everything := subscribe(t, h, 1000, all)
	drops := subscribe(t, h, 1000, func(e datapath.Event) bool { return e.Kind == datapath.FlowDropped })
	for _, e := range []datapath.Event{
		{Kind: datapath.FlowNew, Time: 99, ServiceID: 9}, // an earlier agent's
		{Kind: datapath.FlowNew, Time: 100, ServiceID: 1},
		{Kind: datapath.FlowDropped, Time: 101, ServiceID: 2},
	} {
		f.readers[0].c <- e
	}
	for i, want := range []uint32{1, 2} {
		if e := <-everything.C; e.ServiceID != want {
			t.Errorf("event %d is of service %d, want %d", i, e.ServiceID, want)
		}
	}
	if e := <-drops.C; e.ServiceID != 2 {
		t.Errorf("the drop is of service %d", e.ServiceID)
	}
	closed(t, h)
}

func TestSlowSubscriberMissesEventsAndHoldsNobodyUp(t *testing.T) {
	f := &fake{loss: datapath.EventLoss{Suppressed: 5, Lost: 6}}
	h := newHub(f)
	slow := subscribe(t, h, 1000, all)
	fast := subscribe(t, h, 1000, all)
	for range buffered + 7 {
		f.readers[0].c <- datapath.Event{Time: 100}
		<-fast.C
	}
	f.mu.Lock()
	f.loss = datapath.EventLoss{Suppressed: 15, Lost: 26}
	f.mu.Unlock()
	closed(t, fast)
	suppressed, lost, missed, err := slow.Loss()
	if err != nil || suppressed != 10 || lost != 20 || missed != 7 {
		t.Errorf("suppressed %d, lost %d, missed %d, %v", suppressed, lost, missed, err)
	}
	closed(t, h)
}

func TestClosedHubEndsItsSubscribersAndTakesNoOthers(t *testing.T) {
	f := &fake{}
	h := newHub(f)
	s := subscribe(t, h, 1000, all)
	closed(t, h)
	if _, open := <-s.C; open {
		t.Error("the subscription goes on")
	}
	if err := s.Err(); err != nil {
		t.Errorf("the reason is %v", err)
	}
	f.wantRates(t, 1000, 0)
	if _, err := h.Subscribe(1, all); !errors.Is(err, ErrClosed) {
		t.Errorf("a late subscriber gets %v", err)
	}
	if _, _, _, err := s.Loss(); !errors.Is(err, ErrClosed) {
		t.Errorf("its loss is %v", err)
	}
	closed(t, s)
}

func TestRingThatBreaksEndsTheSubscribersAndTheNextOpensItAnew(t *testing.T) {
	f := &fake{}
	h := newHub(f)
	s := subscribe(t, h, 1000, all)
	close(f.readers[0].c)
	if _, open := <-s.C; open {
		t.Error("the subscription goes on")
	}
	if _, err := h.Subscribe(1, all); err == nil {
		t.Error("another one listens to the broken ring")
	}
	if err := s.Err(); err == nil || err.Error() != "the ring is broken" {
		t.Errorf("the reason is %v", err)
	}
	closed(t, s)
	next := subscribe(t, h, 1000, all)
	f.readers[1].c <- datapath.Event{Time: 100}
	<-next.C
	closed(t, h)
}

// However soon it breaks, there is a subscriber that takes the reader with it when it goes.
func TestRingThatIsBrokenFromTheBeginningIsOpenedAnewForTheNext(t *testing.T) {
	f := &fake{broken: true}
	h := newHub(f)
	for range 2000 {
		s, err := h.Subscribe(1000, all)
		if err != nil {
			t.Fatal(err)
		}
		if _, open := <-s.C; open {
			t.Fatal("the subscription goes on")
		}
		closed(t, s)
	}
	if f.opened != 2000 || f.closed != 2000 {
		t.Errorf("the ring was opened %d times and closed %d times", f.opened, f.closed)
	}
	closed(t, h)
}

func TestRingThatCannotBeOpenedIsRefusedAndSwitchesNothingOn(t *testing.T) {
	f := &fake{openErr: errors.New("no memory")}
	h := newHub(f)
	if _, err := h.Subscribe(1000, all); !errors.Is(err, f.openErr) {
		t.Errorf("got %v", err)
	}
	f.wantRates(t)
	closed(t, h)
}
