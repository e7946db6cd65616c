package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"l4lab/lab/capture"
	"l4lab/topology"
)

// slowSession records what a test lets it, and asks for more when waited for.
type slowSession struct {
	frames []capture.Frame
	more   func() *capture.Frame
	waits  int
}

func (s *slowSession) Frames() []capture.Frame       { return s.frames }
func (s *slowSession) Stop() (capture.Result, error) { return capture.Result{}, nil }
func (s *slowSession) Wait(_ context.Context, condition func([]capture.Frame) bool) error {
	for s.waits++; !condition(s.frames); {
		f := s.more()
		if f == nil {
			return errors.New("timed out")
		}
		s.frames = append(s.frames, *f)
	}
	return nil
}

func TestATransferWaitsForItsCaptures(t *testing.T) {
	session := &slowSession{more: func() *capture.Frame { return &capture.Frame{Length: 1500} }}
	p := &pacer{ctx: t.Context(), next: paceBytes, places: []*pacedPlace{{session: session}}, gaveUp: func(err error) { t.Error(err) }}
	const size = 4 << 20
	if n, err := io.Copy(io.Discard, p.reader(bytes.NewReader(make([]byte, size)))); n != size || err != nil {
		t.Fatal(n, err)
	}
	recorded := 1500 * len(session.frames)
	if recorded < size-paceSlack-paceBytes || session.waits == 0 || session.waits > size/paceBytes {
		t.Errorf("%d of %d bytes recorded when the transfer ended, after %d waits", recorded, size, session.waits)
	}
}

func TestATransferGoesOnWhenACaptureLostFrames(t *testing.T) {
	session := &slowSession{more: func() *capture.Frame { return nil }}
	told := 0
	p := &pacer{ctx: t.Context(), next: paceBytes, places: []*pacedPlace{{session: session}}, gaveUp: func(error) { told++ }}
	if n, err := io.Copy(io.Discard, p.reader(bytes.NewReader(make([]byte, 4<<20)))); n != 4<<20 || err != nil {
		t.Fatal(n, err)
	}
	if session.waits > 2 || told != 1 {
		t.Errorf("waited %d times, told %d times", session.waits, told)
	}
}

func TestATransferIsNotPacedByACaptureThatNobodyCanWatch(t *testing.T) {
	blind := capture.Late("lb port", func() ([]capture.Frame, uint64, error) { return nil, 0, nil })
	live := &slowSession{more: func() *capture.Frame { return &capture.Frame{Length: 1500} }}
	p := &pacer{ctx: t.Context(), next: paceBytes, places: []*pacedPlace{{session: blind}, {session: live}}, gaveUp: func(err error) { t.Error(err) }}
	const size = 4 << 20
	if n, err := io.Copy(io.Discard, p.reader(bytes.NewReader(make([]byte, size)))); n != size || err != nil {
		t.Fatal(n, err)
	}
	if len(p.places) != 1 || live.waits < 2 {
		t.Errorf("paced by %d places, the live one waited for %d times", len(p.places), live.waits)
	}
}

func TestConnectionsSettleWithoutAWatcherInBoundedTimeAndSilence(t *testing.T) {
	blind := capture.Late("client port", func() ([]capture.Frame, uint64, error) { return nil, 0, nil })
	p := &pass{
		options: Options{Progress: func(message string) { t.Error("said:", message) }},
		service: topology.Service{Protocol: topology.TCP, VIP: netip.MustParseAddr("40.1.1.1"), Port: 80},
	}
	p.topology.Client.Name = "client"
	r := &recorder{sessions: map[capture.Place]Session{placeOf("client"): blind}}
	began := time.Now()
	p.settle(t.Context(), r, &Evidence{Exchanges: []Exchange{{Client: netip.MustParseAddrPort("20.1.1.100:4000")}}})
	if took := time.Since(began); took < blindSettle || took > settleTimeout {
		t.Errorf("settled after %s, want between %s and %s", took, blindSettle, settleTimeout)
	}
}
