package netnsguests

import (
	"context"
	"os"
	"path/filepath"

	"l4lab/lab/capture"
	"l4lab/lab/provider/fabric"
	"l4lab/lab/role/windows/guestscripts"
)

// guestRecording is a capture at a Windows machine's own adapter.
type guestRecording struct{ session *capture.Session }

func captureStart(_ context.Context, m *guest, _ *windows, _ guestscripts.None) (guestscripts.Changed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recording != nil {
		return guestscripts.Changed{}, failure(guestscripts.InUse, "", "a capture was not ended")
	}
	var session *capture.Session
	err := m.inNamespace(func(fabric.Namespace) (err error) {
		session, err = capture.Start(fabric.InterfaceName, capture.Options{RingBytes: captureRing})
		return err
	})
	if err != nil {
		return guestscripts.Changed{}, err
	}
	m.recording = &guestRecording{session}
	return guestscripts.Changed{Changed: true, What: []string{"capture"}}, nil
}

func captureStop(_ context.Context, m *guest, _ *windows, p guestscripts.GuestCaptureStopParams) (guestscripts.GuestCaptureStopResult, error) {
	m.mu.Lock()
	r := m.recording
	m.recording = nil
	m.mu.Unlock()
	if r == nil {
		return guestscripts.GuestCaptureStopResult{}, failure(guestscripts.NotFound, "", "there is no capture")
	}
	result, err := r.session.Stop()
	if err != nil {
		return guestscripts.GuestCaptureStopResult{}, err
	}
	real, err := m.real(p.Path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(real), 0o755)
	}
	if err == nil {
		err = writeCapture(real, []capture.Recording{{
			Place: capture.Place{Machine: m.machine.Name}, Frames: r.session.Frames(), Dropped: result.Dropped,
		}})
	}
	return guestscripts.GuestCaptureStopResult{Dropped: int64(result.Dropped)}, err
}

// endGuestRecording ends a capture that a restart cuts off.
func (m *guest) endGuestRecording() {
	m.mu.Lock()
	r := m.recording
	m.recording = nil
	m.mu.Unlock()
	if r != nil {
		_, _ = r.session.Stop()
	}
}
