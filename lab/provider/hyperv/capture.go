package hyperv

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"l4lab/lab/capture"
	"l4lab/lab/capture/pcapng"
	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
	"l4lab/lab/role/linux"
	"l4lab/topology"
)

// endLimit bounds ending a capture and fetching it. That goes on when the
// caller's time is over, since a host records once at a time.
const endLimit = 5 * time.Minute

// ending returns a context for the end of a capture.
func ending(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), endLimit, fmt.Errorf("the capture was not ended and fetched within %s", endLimit))
}

// Capture implements provider.Provider. Ports of the switch and the host's own
// adapter are recorded on the host, Windows guests by a tool in the guest; both
// can be read after the end alone. Linux guests are watched live.
func (p *Provider) Capture(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	h, err := p.host(ctx, lab, false)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	start := h.captureLinux
	switch {
	case place.Port || place.Machine == lab.Topology.Client.Name:
		start = h.capturePort
	case isWindows(lab.Topology, place.Machine):
		start = h.captureWindows
	}
	s, err := start(ctx, lab, place)
	if err != nil {
		return nil, fmt.Errorf("capture at %s: %w", place, err)
	}
	return s, nil
}

// recording is the one capture that a host runs at a time, at all places of the
// lab. The first of its sessions that stops ends it for all.
type recording struct {
	h    *host
	lab  provider.Lab
	once sync.Once
	// places are the machines by their ids; "" is the host's adapter.
	places map[string]string
	result map[string]capture.Recording
	err    error
}

func (h *host) capturePort(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	h.disks.Lock()
	defer h.disks.Unlock()
	h.mu.Lock()
	r := h.pktmon
	h.mu.Unlock()
	if r == nil {
		var err error
		if r, err = h.startRecording(ctx, lab); err != nil {
			return nil, err
		}
		h.mu.Lock()
		h.pktmon = r
		h.mu.Unlock()
	}
	return capture.Late(place.String(), func() ([]capture.Frame, uint64, error) {
		ctx, cancel := ending(ctx)
		defer cancel()
		r.finish(ctx)
		got, recorded := r.result[place.Machine]
		if r.err == nil && !recorded {
			return nil, 0, fmt.Errorf("the host recorded nothing of %s", place.Machine)
		}
		return got.Frames, got.Dropped, r.err
	}), nil
}

func (h *host) startRecording(ctx context.Context, lab provider.Lab) (*recording, error) {
	found, err := h.observe(ctx, lab.Topology)
	if err != nil {
		return nil, err
	}
	r := &recording{h: h, lab: lab, places: map[string]string{"": lab.Topology.Client.Name}, result: map[string]capture.Recording{}}
	ids := []string{}
	for _, vm := range found.Machines {
		r.places[vm.ID] = vm.Node
		ids = append(ids, vm.ID)
	}
	start := scripts.CaptureStartParams{Mark: h.mark, Switch: switchName(lab.Topology.Name), IDs: ids, Host: true, Folder: h.folder}
	_, err = h.verbs.CaptureStart.Run(ctx, h.runner, start)
	if code(err, scripts.InUse) && h.endStale(ctx) {
		_, err = h.verbs.CaptureStart.Run(ctx, h.runner, start)
	}
	if code(err, scripts.InUse) {
		return nil, h.errorf("%w; a host records once at a time: end it with `pktmon stop` there", err)
	}
	if err != nil {
		return nil, h.errorf("record at the switch: %w", err)
	}
	return r, nil
}

// endStale ends a recording that a labctl that was killed has left; it says
// whether there was one of the lab's.
func (h *host) endStale(ctx context.Context) bool {
	_, err := h.verbs.CaptureStop.Run(ctx, h.runner, scripts.CaptureStopParams{Mark: h.mark, Folder: h.folder})
	return err == nil
}

// finish ends the recording and fetches what it recorded.
func (r *recording) finish(ctx context.Context) {
	r.once.Do(func() {
		r.h.mu.Lock()
		if r.h.pktmon == r {
			r.h.pktmon = nil
		}
		r.h.mu.Unlock()
		r.err = r.fetch(ctx)
	})
}

func (r *recording) fetch(ctx context.Context) error {
	stopped, err := r.h.verbs.CaptureStop.Run(ctx, r.h.runner, scripts.CaptureStopParams{Mark: r.h.mark, Folder: r.h.folder})
	if err != nil {
		return r.h.errorf("end the recording at the switch: %w", err)
	}
	for _, f := range stopped.Files {
		machine, ours := r.places[f.ID]
		if !ours {
			continue
		}
		recorded, err := r.h.fetchCapture(ctx, r.lab.Topology, f.Path, capture.Place{Machine: machine, Port: true})
		if err != nil {
			return err
		}
		recorded.Dropped += uint64(f.Dropped)
		if recorded.Frames, err = withoutSSH(r.lab.Topology, recorded.Frames); err != nil {
			return r.h.errorf("the capture of %s: %w", machine, err)
		}
		r.result[machine] = recorded
	}
	return nil
}

// withoutSSH leaves out labctl's own ways into the Linux guests, which cross the
// lab's switch: Linux guests' captures of themselves leave them out, too.
func withoutSSH(t topology.Topology, frames []capture.Frame) ([]capture.Frame, error) {
	for _, n := range t.Nodes {
		if n.OS != topology.Linux {
			continue
		}
		filter, err := capture.ExcludeTCP(netip.AddrPortFrom(n.Address, sshPort))
		if err != nil {
			return nil, err
		}
		if frames, err = capture.Keep(frames, filter); err != nil {
			return nil, err
		}
	}
	return frames, nil
}

// abandon ends a recording that nobody waits for.
func (r *recording) abandon(ctx context.Context) error {
	var err error
	r.once.Do(func() {
		_, err = r.h.verbs.CaptureStop.Run(ctx, r.h.runner, scripts.CaptureStopParams{Mark: r.h.mark, Folder: r.h.folder})
	})
	if code(err, scripts.NotFound) {
		return nil
	}
	return err
}

// fetchCapture reads a recorded file of the host's and removes it.
func (h *host) fetchCapture(ctx context.Context, t topology.Topology, path string, place capture.Place) (capture.Recording, error) {
	var file bytes.Buffer
	if err := transfer.Download(ctx, h.runner, h.verbs.Verbs, path, &file, nil); err != nil {
		return capture.Recording{}, h.errorf("fetch the capture %s: %w", path, err)
	}
	mac, err := h.macAt(ctx, t, place.Machine)
	if err != nil {
		return capture.Recording{}, err
	}
	recorded, err := pcapng.Read(&file, place, mac)
	if err != nil {
		return recorded, err
	}
	_, err = h.verbs.FilesRemove.Run(ctx, h.runner, scripts.FilesRemoveParams{Folder: h.folder, Mark: h.mark, Paths: []string{path}})
	return recorded, err
}

// macAt returns the MAC of a machine: given to nodes, found of the host's adapter.
func (h *host) macAt(ctx context.Context, t topology.Topology, machine string) (net.HardwareAddr, error) {
	if n, ok := t.Nodes[machine]; ok {
		return macOf(n.Address), nil
	}
	found, err := h.observe(ctx, t)
	if err != nil {
		return nil, err
	}
	if found.Switch == nil {
		return nil, h.errorf("the switch %s is missing", switchName(t.Name))
	}
	return parseMAC(found.Switch.MAC)
}

// captureWindows records in a Windows guest.
func (h *host) captureWindows(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	w, err := h.windowsMachine(lab, place.Machine)
	if err != nil {
		return nil, err
	}
	if err := w.StartCapture(ctx); err != nil {
		return nil, err
	}
	return capture.Late(place.String(), func() ([]capture.Frame, uint64, error) {
		ctx, cancel := ending(ctx)
		defer cancel()
		inGuest, dropped, err := w.StopCapture(ctx)
		if err != nil {
			return nil, 0, err
		}
		d := direct{h, lab, place.Machine}
		id, login, err := d.way(ctx)
		if err != nil {
			return nil, 0, err
		}
		onHost := join(h.folder, "captures", place.Machine+"-eth0.pcapng")
		_, err = h.verbs.GuestPull.Run(ctx, h.runner, scripts.GuestCopyParams{ID: id, Mark: h.mark, Credential: login, HostPath: onHost, GuestPath: inGuest})
		if err != nil {
			return nil, 0, h.errorf("fetch the capture from %s: %w", place.Machine, err)
		}
		got, err := h.fetchCapture(ctx, lab.Topology, onHost, place)
		return got.Frames, got.Dropped + dropped, err
	}), nil
}

// captureLinux has lbagent in a Linux guest send the frames as they come.
func (h *host) captureLinux(ctx context.Context, lab provider.Lab, place capture.Place) (*capture.Session, error) {
	g, err := h.linuxGuest(lab, place.Machine)
	if err != nil {
		return nil, err
	}
	return linux.Capture(ctx, g, place.Machine, lab.Topology.Nodes[place.Machine].Address)
}
