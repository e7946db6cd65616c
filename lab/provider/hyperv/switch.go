package hyperv

import (
	"context"
	"fmt"
	"strings"

	"l4lab/lab/powershell/transfer"
	"l4lab/lab/provider"
	"l4lab/lab/provider/hyperv/scripts"
)

// EnsureSwitch implements provider.Provider: the lab's folder on the host with
// its mark, the switch, the host's address on it, and the programs that all
// nodes get.
func (p *Provider) EnsureSwitch(ctx context.Context, lab provider.Lab) error {
	h, err := p.host(ctx, lab, true)
	if err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if err := writeRecord(lab, h.target.HyperV); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if err := h.ensureFolder(ctx); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if err := h.ensureSwitch(ctx, lab); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if err := (client{h, lab}).ensure(ctx, nil); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	if _, err := (client{h, lab}).agent(ctx); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	return nil
}

// ensureFolder makes the lab's folder by its mark, which is there before
// anything else, so that what is cut off is known as the lab's.
func (h *host) ensureFolder(ctx context.Context) error {
	path := join(h.folder, markFile)
	there, err := h.verbs.FileProbe.Run(ctx, h.runner, transfer.FileProbeParams{Path: path})
	if err != nil {
		return h.errorf("look for the lab's folder: %w", err)
	}
	if there.Exists && !h.isMark(there) {
		return h.errorf("the folder %s %w: its mark is another one; use another --name or another storage, or remove it by hand", h.folder, provider.ErrForeign)
	}
	// What a folder holds that has no mark was there before the lab, and would go
	// with it.
	if !there.Exists && there.Beside > 0 {
		return h.errorf("the folder %s %w: it holds %d files and folders and no mark; use another --name or another storage, or empty it", h.folder, provider.ErrForeign, there.Beside)
	}
	return h.uploadFrom(ctx, strings.NewReader(h.mark), path)
}

// isMark says whether the file is this lab's mark.
func (h *host) isMark(f transfer.FileProbeResult) bool {
	return f.Exists && strings.EqualFold(f.SHA256, hashText(h.mark))
}

// ownsFolder says whether the folder on the host bears the lab's mark.
func (h *host) ownsFolder(ctx context.Context) (bool, error) {
	there, err := h.verbs.FileProbe.Run(ctx, h.runner, transfer.FileProbeParams{Path: join(h.folder, markFile)})
	return h.isMark(there), err
}

func (h *host) ensureSwitch(ctx context.Context, lab provider.Lab) error {
	h.disks.Lock()
	defer h.disks.Unlock()
	_, err := h.verbs.SwitchEnsure.Run(ctx, h.runner, scripts.SwitchEnsureParams{Name: switchName(lab.Topology.Name), Mark: h.mark})
	if err != nil {
		return h.errorf("make the switch %s: %w", switchName(lab.Topology.Name), foreign(err))
	}
	return nil
}
