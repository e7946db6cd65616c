package hvsim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"l4lab/lab/provider/hyperv/scripts"
)

// recording is the one packet capture that a host can have.
type recording struct {
	mark string
	ids  []string
	stop func(path func(id string) string) (map[string]int64, error)
}

func (h *Host) captureStart(_ context.Context, p scripts.CaptureStartParams) (scripts.Changed, error) {
	h.store.Lock()
	defer h.store.Unlock()
	if h.recording != nil {
		return scripts.Changed{}, fail(scripts.InUse, "", "Packet Monitor is already started.")
	}
	if _, err := h.theSwitch(p.Switch, p.Mark); err != nil {
		return scripts.Changed{}, fail(scripts.NotFound, p.Switch, "there is no switch %s with the mark", p.Switch)
	}
	r := &recording{mark: p.Mark}
	for _, id := range p.IDs {
		if id == "" {
			continue
		}
		vm, err := h.byID(id, p.Mark)
		if err != nil {
			return scripts.Changed{}, fail(scripts.NotFound, id, "there is no virtual machine with this id and the mark")
		}
		// A port of a machine that is off is no component of pktmon's.
		if h.refresh(vm); !vm.power.on || vm.power.hung {
			return scripts.Changed{}, fail(scripts.NotFound, id, "machine %s has no port on the switch while it is off", vm.Name)
		}
		r.ids = append(r.ids, vm.ID)
	}
	if p.Host {
		r.ids = append(r.ids, "")
	}
	stop, err := h.guests.Capture(h.life, r.ids)
	if err != nil {
		return scripts.Changed{}, fmt.Errorf("start the capture: %w", err)
	}
	r.stop = stop
	h.recording = r
	return changed("capture"), nil
}

func (h *Host) captureStop(_ context.Context, p scripts.CaptureStopParams) (scripts.CaptureStopResult, error) {
	var result scripts.CaptureStopResult
	h.store.Lock()
	r := h.recording
	if r == nil || r.mark != p.Mark {
		h.store.Unlock()
		return result, fail(scripts.NotFound, "", "Packet Monitor is not running.")
	}
	h.recording = nil
	h.store.Unlock()
	reals := map[string]string{}
	for _, id := range r.ids {
		name := id
		if name == "" {
			name = "host"
		}
		path := join(p.Folder, "captures", name+".pcapng")
		real, err := h.drives.real(path)
		if err != nil {
			return result, err
		}
		if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
			return result, err
		}
		reals[id] = real
		result.Files = append(result.Files, scripts.CaptureFile{ID: id, Path: path})
	}
	dropped, err := r.stop(func(id string) string { return reals[id] })
	if err != nil {
		return result, fmt.Errorf("end the capture: %w", err)
	}
	for i, f := range result.Files {
		result.Files[i].Dropped = dropped[f.ID]
	}
	return result, nil
}

// abandonCapture ends a capture that nobody will ask for any longer.
func (h *Host) abandonCapture() {
	h.store.Lock()
	r := h.recording
	h.recording = nil
	h.store.Unlock()
	if r == nil {
		return
	}
	dir, err := os.MkdirTemp(h.o.Dir, "capture-")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	_, err = r.stop(func(id string) string { return filepath.Join(dir, "host"+id) })
	if err != nil {
		h.log.Warn("a capture could not be ended", "error", err)
	}
}
